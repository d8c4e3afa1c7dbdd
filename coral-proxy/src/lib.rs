//! Coral's cooperative HTTP cache.

pub mod address;
pub mod cache;
pub mod cache_status;
mod coalesce;
pub mod conditional;
pub mod config;
pub mod error;
mod fetch;
pub mod headers;
mod limits;
pub mod metrics;
mod origin;
mod peers;
pub mod policy;
pub mod reference;
mod reply;
mod resolver;
mod server;
mod service;
mod stall;
pub mod url;

pub use config::Config;
pub use error::ProxyError;
pub use metrics::Metrics;
pub use reference::{decode_reference, encode_reference};
pub use server::{Proxy, Status};
pub use url::{Site, Suffix, UrlError, coralize, index_key};
