//! Coral's authoritative DNS server: from a coralized name to the addresses of proxies near the client.
//!
//! A node answers for one or more *suffixes*, such as `nyud.net`. Any host name in front of a suffix has addresses there:
//! those of live proxies of this node's cluster at the level that the client is near to \[C04 §3.1\]. The names are served
//! in the suffix zone itself, without an alias.
//!
//! ```
//! use std::{net::UdpSocket, sync::Arc};
//! use coral_dns::{Config, Metrics, NAMESERVER, PROXY, Server, Sockets};
//! use coral_dsht::{Peer, memory::MemoryNetwork};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let me = Peer::new("192.0.2.1:4000".parse()?, PROXY | NAMESERVER);
//! let dsht = MemoryNetwork::new().node(me);
//! let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
//! let server = Server::new(Arc::new(Config::default()), vec!["nyud.net".parse()?], me, dsht, metrics);
//!
//! let sockets = Sockets { udp: vec![UdpSocket::bind("127.0.0.1:0")?], tcp: None };
//! let stop = std::future::ready(()); // or, say, ctrl_c()
//! server.run(sockets, stop).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A query goes [`server`] (sockets) → `handler` (messages; the only file that speaks hickory) → [`name`] (what the name
//! stands for), [`proximity`] (how near the client is) → [`answer`] (records). Beside the queries, [`candidates`] learns
//! who is alive and [`probe`] measures clients; a query reads what they know and waits for neither.
//!
//! It is no resolver, holds no zone file and transfers nothing. With a key it signs what it says ([`dnssec`]). Which node is alive, and in which cluster,
//! is the index's to say (`coral_dsht`).

pub mod answer;
pub mod appraisal;
pub mod candidates;
pub mod clients;
pub mod config;
pub mod cookie;
pub mod dnssec;
pub mod error;
mod handler;
pub mod metrics;
pub mod name;
pub mod near;
pub mod probe;
pub mod proximity;
pub mod rate;
pub mod records;
pub mod referral;
pub mod server;
pub mod wire;
pub mod zone;

use coral_dsht::Services;

pub use clients::Recollection;
pub use config::{Config, ProbeConfig};
pub use error::DnsError;
#[doc(hidden)]
pub use handler::check_query;
pub use metrics::Metrics;
pub use name::{ParseSuffixError, Suffix};
pub use server::{Memory, Server, Sockets};

/// The service bit of a node that runs a proxy at its IP address.
pub const PROXY: Services = Services::from_bits(1);
/// The service bit of a node that runs a nameserver at its IP address.
pub const NAMESERVER: Services = Services::from_bits(2);
