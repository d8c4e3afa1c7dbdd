//! Coral's cooperative HTTP cache.

pub mod config;
pub mod error;
pub mod metrics;
pub mod reference;
mod server;
pub mod url;

pub use config::Config;
pub use error::ProxyError;
pub use metrics::Metrics;
pub use reference::decode_reference;
pub use server::{Proxy, Status};
pub use url::{Site, Suffix, UrlError, coralize, index_key};
