//! The name service of the testbed's Internet: a root, two top-level domains, the origin's zone, and resolvers.
//!
//! One authoritative server, at the root's site, has all that is not the network's own. It delegates the suffix zone to some
//! of the nodes, as a registry would. Each resolver knows that root alone, has no trust anchor and asks nobody else.

mod resolvers;
mod zones;

pub use resolvers::{ANCHORS, Configuration, Trust, configuration, resolv_conf, trixie_configuration};
pub use zones::{ROOT_HINTS, file as zone_file, registered, root_hints, server, zones};

/// The zone under which host names are coralized.
pub const SUFFIX: &str = "nyud.net";

/// The origin's host name.
pub const ORIGIN: &str = "www.x.com";

/// The origin's host name under the suffix: what clients ask for.
pub const CORALIZED: &str = "www.x.com.nyud.net";
