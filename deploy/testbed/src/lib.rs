//! A wide-area network of CoralCDN nodes on one machine, for people who want to see it work and for our own experiments.
//!
//! What this system promises (nodes nearby, clusters by round-trip time, once local stay local) only shows where hosts
//! have addresses of their own and real distances between them. So each host of a testbed is a *site* with a network
//! namespace of its own, and a router in user space carries packets between them as late, as slowly and as lossily as
//! a [`map`] says. It needs no netem, which is not in every kernel, only TUN devices.
//!
//! ```
//! use coral_testbed::map::Map;
//!
//! let map = Map::four_regions();
//! let (a, b) = (map.site("frankfurt-1").unwrap(), map.site("dallas-1").unwrap());
//! println!("{} at {} is {:?} from {} at {}", a.name, a.ipv4, map.link(a, b).rtt(), b.name, b.ipv4);
//! ```

pub mod cli;
pub mod client;
pub mod command;
pub mod commands;
pub mod compose;
pub mod dns;
pub mod down;
pub mod formation;
pub mod hosts;
pub mod images;
pub mod interrupt;
pub mod lab;
pub mod map;
pub mod netns;
pub mod nodes;
pub mod origin;
pub mod preflight;
pub mod router;
pub mod scenario;
pub mod state;
pub mod status;
pub mod up;
pub mod wan;
