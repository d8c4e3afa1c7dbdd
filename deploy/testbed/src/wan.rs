//! The wide area: one process with one thread that carries packets between sites, as late and as lossily as a map says.
//!
//! Each site's namespace has a TUN device `wan0` as its only way out ([`device`]). The [`server`] waits for packets on all of them,
//! hands them to the [`router`], which does no I/O, and writes them out again when they are due. While it runs it takes
//! orders over a Unix socket ([`control`]): other distances, cuts, devices for hosts that have come back.
//!
//! What it does not do: fragment (all devices have the same MTU), queue fairly, or reorder packets.

pub mod check;
pub mod command;
pub mod control;
pub mod device;
pub mod frame;
pub mod line;
pub mod packet;
pub mod path;
pub mod process;
pub mod router;
pub mod schedule;
pub mod server;
