//! What the tests of the proxy share: a scripted origin, nodes on one index, a client that shows everything.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod client;
pub mod film;
pub mod line;
pub mod node;
pub mod origin;
pub mod script;
pub mod tls;

/// Waits until `condition` holds; a test that it never does hangs, and says so by its name.
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::task::yield_now().await;
    }
}
