//! What the tests of the proxy share: a scripted origin, nodes on one index, a client that shows everything.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod client;
pub mod node;
pub mod origin;
pub mod tls;
