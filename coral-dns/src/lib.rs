//! Coral's authoritative DNS server.

pub mod config;
pub mod error;
pub mod metrics;
pub mod name;
pub mod server;

use coral_dsht::Services;

pub use config::{Config, ProbeConfig};
pub use error::DnsError;
pub use metrics::Metrics;
pub use name::{ParseSuffixError, Suffix};
pub use server::{Server, Sockets};

/// The service bit of a node that runs a proxy at its IP address.
pub const PROXY: Services = Services::from_bits(1);
/// The service bit of a node that runs a nameserver at its IP address.
pub const NAMESERVER: Services = Services::from_bits(2);
