//! Coral's authoritative DNS server.

pub mod answer;
pub mod candidates;
pub mod config;
pub mod error;
mod handler;
pub mod metrics;
pub mod name;
pub mod probe;
pub mod proximity;
pub mod server;
pub mod zone;

use coral_dsht::Services;

pub use config::{Config, ProbeConfig};
pub use error::DnsError;
#[doc(hidden)]
pub use handler::check_query;
pub use metrics::Metrics;
pub use name::{ParseSuffixError, Suffix};
pub use server::{Server, Sockets};

/// The service bit of a node that runs a proxy at its IP address.
pub const PROXY: Services = Services::from_bits(1);
/// The service bit of a node that runs a nameserver at its IP address.
pub const NAMESERVER: Services = Services::from_bits(2);
