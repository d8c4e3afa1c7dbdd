//! What can end the server. Nothing that comes from the network does: that is answered, or counted and dropped.

use std::io;
use std::path::PathBuf;

/// The server cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// There is no zone to answer for.
    #[error("no suffix is configured")]
    NoSuffix,
    /// There is nothing to listen on.
    #[error("no socket to answer on")]
    NoSocket,
    /// A socket broke for good. Those of this server are closed when this is returned.
    #[error("the {transport} socket failed: {source}")]
    Socket {
        /// `udp` or `tcp`.
        transport: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system gave no thread for a socket. Nothing runs.
    #[error("no thread for a socket: {source}")]
    Thread {
        /// What it said.
        source: io::Error,
    },
    /// A record that the operator wants to add is none.
    #[error("the record {name} {kind} cannot be added (`dns.records`): {why}")]
    Record {
        /// Its name, as configured.
        name: String,
        /// Its type, as configured.
        kind: String,
        /// What is wrong.
        why: String,
    },
    /// A key to sign with cannot be had.
    #[error("the DNSSEC key {} cannot be used (`dns.dnssec_keys`): {why}", path.display())]
    Key {
        /// Its file, as configured.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The operating system gave no randomness at start.
    #[error("no randomness from the operating system")]
    NoEntropy,
    /// A task of the server panicked: a bug. The other tasks were stopped.
    #[error("a task of the server panicked")]
    Panicked,
}
