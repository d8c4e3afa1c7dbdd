//! How many connections there may be, in all and from one address, and how many requests from one. How much is sent for whom is
//! shared out in [`crate::budget`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;
pub(crate) use rate::Rate;
use rate::Rates;

mod rate;

/// Counts connections against their bounds. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    all: Arc<Semaphore>,
    of_address: Arc<Mutex<HashMap<IpAddr, u32>>>,
    max_of_address: Arc<AtomicU32>,
    rates: Rates,
}

/// One connection, as long as it lives.
#[derive(Debug)]
pub(crate) struct Admitted {
    _permit: OwnedSemaphorePermit,
    limits: Limits,
    address: IpAddr,
    rate: Rate,
}

impl Admitted {
    /// How many requests its address may send.
    pub(crate) fn rate(&self) -> &Rate {
        &self.rate
    }
}

impl Limits {
    pub(crate) fn new(config: &config::Client) -> Self {
        Self {
            all: Arc::new(Semaphore::new(config.max_connections.get().min(Semaphore::MAX_PERMITS))),
            of_address: Arc::default(),
            max_of_address: Arc::new(config.max_connections_per_address.get().into()),
            rates: Rates::new(config.requests_per_address),
        }
    }

    /// From now on an address may have so many connections, and send so many requests. Those that it has stay.
    pub(crate) fn set(&self, connections_per_address: NonZeroU32, requests_per_address: NonZeroU32) {
        self.max_of_address.store(connections_per_address.get(), Ordering::Relaxed);
        self.rates.set(requests_per_address);
    }

    /// Room for one more connection, if there is any now.
    pub(crate) fn try_room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).try_acquire_owned().ok()
    }

    /// Whether `address` has as many connections as it may have.
    pub(crate) fn is_crowded(&self, address: IpAddr) -> bool {
        let of_address = self.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        of_address.get(&client(address)).is_some_and(|count| *count >= self.max_of_address.load(Ordering::Relaxed))
    }

    /// Waits until there is room for one more connection; more wait in the kernel's queue.
    pub(crate) async fn room(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.all).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Lets a connection from `address` in, unless there are too many from there.
    pub(crate) fn admit(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Admitted> {
        let address = client(address);
        let mut of_address = self.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_address.entry(address).or_default();
        if *count >= self.max_of_address.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        Some(Admitted { _permit: permit, limits: self.clone(), address, rate: self.rates.of(address) })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut of_address = self.limits.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                of_address.remove(&self.address);
            }
        }
    }
}

/// The requests that a connection has in hand: without any it may be cut when others need the room.
#[derive(Debug, Clone, Default)]
pub(crate) struct InHand(Arc<AtomicUsize>);

/// One of them, until the last of its response has been written, or in HTTP/2 put into its stream.
#[derive(Debug)]
pub(crate) struct Handled(InHand);

impl InHand {
    pub(crate) fn take(&self) -> Handled {
        self.0.fetch_add(1, Ordering::Relaxed);
        Handled(self.clone())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whom an address belongs to: an IPv6 client has a /64 of them.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_gets_its_share_and_gives_it_back() {
        let config =
            config::Client { max_connections_per_address: NonZeroU32::new(1).unwrap(), ..config::Client::default() };
        let limits = Limits::new(&config);
        let (near, neighbour) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let first = limits.admit(limits.room().await, near).unwrap();
        assert!(limits.admit(limits.room().await, neighbour).is_none());
        assert!(limits.admit(limits.room().await, "192.0.2.1".parse().unwrap()).is_some());
        drop(first);
        assert!(limits.admit(limits.room().await, neighbour).is_some());
        assert!(limits.of_address.lock().unwrap().is_empty());
        limits.set(NonZeroU32::new(2).unwrap(), config.requests_per_address);
        let _both =
            [limits.admit(limits.room().await, near), limits.admit(limits.room().await, near)].map(Option::unwrap);
        assert!(limits.is_crowded(near));
    }
}
