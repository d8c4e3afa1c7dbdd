//! The node: one process that runs a nameserver, an HTTP cache and a part of the index, and the commands around it.
//!
//! This package reads files, the environment and the command line, so that the crates it wires need not:
//! `coral_dns` sends a browser to a node near it, `coral_proxy` serves it from the nearest copy, and `coral_dsht` is
//! how nodes find copies and each other. [`node::Node`] is the assembly; start reading there.

pub mod admin;
pub mod chart;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod http;
mod join;
pub mod logging;
pub mod manual;
pub mod node;
pub mod outcome;
mod page;
pub mod purge;
pub mod reach;
pub mod report;
pub mod sim;
mod tables;
mod takeover;
pub mod top;
mod walk;
