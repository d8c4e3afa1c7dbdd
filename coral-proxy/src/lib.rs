//! Coral's cooperative HTTP cache: an object comes from this node, else from a node that has it, else from the origin.
//!
//! # The life of one request
//!
//! 1. [`Proxy::run`] accepts a connection within the bounds of `limits`; `http1`, or hyper for HTTP/2, reads the head within its own.
//! 2. `service` refuses what is no request for a cache: other methods, bodies, a missing host, a loop.
//! 3. [`url`] turns host and target into the origin, the canonical URL and its key [C04 §3.2].
//! 4. `fetch` looks into the [`cache`]; [`policy`] says whether what is there is fresh (RFC 9111), [`partial`] whether a
//!    part that is there is the one that is wanted. A range further on in a large object is fetched in pieces, each as below ([`mod@slice`]).
//! 5. If not, `coalesce` joins the fetch that is under way, or begins one: [`mod@reference`] claims the key in the index;
//!    `peers` asks the nodes that were there before, nearest level first, and `chain` keeps them from waiting in a circle;
//!    the first of all has nobody to ask, and `origin` asks the origin.
//! 6. As soon as the head is here, all who wait stream from one growing [`cache::body`]. If its source breaks off, the next one
//!    goes on with the same [`version`].
//! 7. `reply` adds what a cache adds, cuts out the part that was asked for ([`conditional`]), or makes of an
//!    [`error`] a status and a `Proxy-Status`. [`cache_status`] is the one word for header, log and metric.
//! 8. What the kernel has measured of the way to the client, `hints` tells the index, for other clients of that network.
//! 9. When the body is sent, or given up, the caller's log is told all of it ([`access`]).
//!
//! A bare suffix, `http://nyud.net/`, is no origin's: there the caller's own page answers, if it has one ([`front`]).
//!
//! # How to run one
//!
//! The caller binds the socket, owns the stop signal, and says how the index is reached. Nothing is global: a test, or
//! `coral demo`, runs any number of proxies beside each other.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use coral_dsht::{Peer, Services, memory::MemoryNetwork};
//! use coral_proxy::{Config, Metrics, Proxy, coralize};
//! use prometheus_client::registry::Registry;
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let me = listener.local_addr()?;
//! let index = MemoryNetwork::new().node(Peer::new(me, Services::NONE));
//! let suffix = "nyud.net".parse()?;
//! assert_eq!(coralize("http://www.x.com:8080/p", &suffix)?, "http://www.x.com.8080.nyud.net/p");
//!
//! let metrics = Metrics::register(&mut Registry::default());
//! let proxy = Proxy::new(Arc::new(Config::default()), vec![suffix], me, index, metrics)?;
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let running = tokio::spawn({
//!     let proxy = proxy.clone();
//!     async move { proxy.run(listener, async { drop(stopped.await) }).await }
//! });
//! assert_eq!(proxy.status().objects, 0);
//! drop(stop);
//! running.await??;
//! # Ok(())
//! # }
//! ```
//!
//! # How it is built
//!
//! [`url`], [`policy`], [`conditional`], [`partial`], [`mod@slice`], [`version`], [`headers`], [`address`] and [`cache_status`] are values in, values out: most
//! tests and most fuzz targets live there. `fetch` holds the order of sources, and each source has a file. The index is
//! a [`coral_dsht::DshtHandle`], whatever is behind it.
//!
//! # What it is not, yet
//!
//! Of a range that begins at the first byte the whole is fetched, and slices are not joined to a whole.
//! Which parts of HTTP caching are kept, and which are not, with the public suite's figures: RESULTS.md.

pub mod access;
pub mod address;
mod auth;
mod budget;
pub mod cache;
pub mod cache_status;
mod certificates;
mod chain;
mod client;
mod coalesce;
pub mod conditional;
pub mod config;
mod connection;
pub mod digest;
pub mod error;
pub mod explain;
mod fetch;
pub mod front;
mod head_timer;
pub mod headers;
mod hints;
mod home;
mod http1;
mod http2;
mod interim;
mod limits;
pub mod metrics;
mod origin;
mod pace;
pub mod partial;
mod peers;
pub mod policy;
mod popular;
pub mod purge;
pub mod reference;
mod reply;
mod resolver;
mod searches;
mod server;
mod service;
pub mod slice;
mod stall;
pub mod stamp;
mod tls;
pub mod trace;
pub mod url;
pub mod version;
mod workers;

pub use certificates::{CertificateFiles, Examined};
pub use config::Config;
pub use error::ProxyError;
pub use explain::Explanation;
#[doc(hidden)]
pub use http1::request::fuzz as fuzz_head;
pub use metrics::Metrics;
pub use popular::Popular;
pub use purge::{Pattern, PatternError, PurgedBy};
pub use reference::{decode_reference, encode_reference};
pub use searches::Search;
pub use server::{Proxy, Sockets, Status, Traffic};
pub use tls::client_config as tls_client_config;
pub use url::{Passes, Site, Suffix, UrlError, coralize, index_key};
