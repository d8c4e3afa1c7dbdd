//! Traces over real routers: a chain of network namespaces that this test builds and takes down. It needs root, so it is
//! left out of `cargo test`; `.ci/run` runs it:
//!
//! ```sh
//! cargo test -p coral-dns --test trace -- --ignored
//! ```

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coral_dns::probe::trace::{Hop, Trace, TraceConfig, trace};
use coral_dns::probe::way::{LIMIT, last_routers};
use nix::sched::{CloneFlags, setns};

/// Routers between the two ends.
const ROUTERS: u8 = 8;
/// The whole chain is in one machine.
const NEAR: Duration = Duration::from_millis(100);

/// Namespaces 0, 1, … 9 in a row, 0 and 9 being the ends; the link between `n` and `n + 1` has the networks 10.98.n.0/24 and
/// fd98:n::/64, in which the left one is 1 and the right one 2. Dropped, they are gone.
struct Chain {
    prefix: String,
}

#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// An address on the link that begins at node `link`.
    fn on_link(self, link: u8, number: u8) -> IpAddr {
        match self {
            Self::V4 => [10, 98, link, number].into(),
            Self::V6 => [0xfd98, link.into(), 0, 0, 0, 0, 0, number.into()].into(),
        }
    }

    fn prefix_bits(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// The address at which the router `ttl` hops away answers; that of a destination that far away, too.
    fn at(self, ttl: u8) -> IpAddr {
        self.on_link(ttl - 1, 2)
    }
}

impl Chain {
    fn build() -> anyhow::Result<Self> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let chain = Self { prefix: format!("coral-trace-{}-{number}", std::process::id()) };
        for node in 0..=ROUTERS + 1 {
            ip(&["netns", "add", &chain.name(node)])?;
            chain.ip(node, &["link", "set", "lo", "up"])?;
            // The kernel's limits are meant for the Internet, not for fifty traces at once through one small machine.
            let settings = [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv4/icmp_msgs_per_sec", "10000"),
                ("ipv4/icmp_msgs_burst", "10000"),
                ("ipv6/icmp/ratelimit", "0"),
            ];
            chain.inside(node, || {
                for (name, value) in settings {
                    let path = format!("/proc/sys/net/{name}");
                    // What this kernel does not have in a namespace, it does not limit there.
                    if std::path::Path::new(&path).exists() {
                        std::fs::write(&path, value).with_context(|| path)?;
                    }
                }
                Ok(())
            })?;
        }
        for left in 0..=ROUTERS {
            let right = left + 1;
            let peer = ["peer", "name", "left", "netns", &chain.name(right)];
            chain.ip(left, &[&["link", "add", "right", "type", "veth"][..], &peer].concat())?;
            for (node, device, number) in [(left, "right", 1), (right, "left", 2)] {
                for family in Family::BOTH {
                    let address = format!("{}/{}", family.on_link(left, number), family.prefix_bits());
                    chain.ip(node, &["addr", "add", &address, "dev", device])?;
                }
                chain.ip(node, &["link", "set", device, "up"])?;
            }
        }
        for node in 0..=ROUTERS + 1 {
            for link in (0..=ROUTERS).filter(|link| *link != node && *link + 1 != node) {
                for family in Family::BOTH {
                    let network = format!("{}/{}", family.on_link(link, 0), family.prefix_bits());
                    let via = if link > node { family.on_link(node, 2) } else { family.on_link(node - 1, 1) };
                    chain.ip(node, &[family.flag(), "route", "add", &network, "via", &via.to_string()])?;
                }
            }
        }
        Ok(chain)
    }

    fn name(&self, node: u8) -> String {
        format!("{}-{node}", self.prefix)
    }

    fn ip(&self, node: u8, arguments: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.name(node)][..], arguments].concat())
    }

    /// IPv6 takes a moment until it uses a link that is up.
    fn wait_until_it_carries(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for family in Family::BOTH {
            while self.trace(family.at(ROUTERS + 1), TraceConfig::FIRST)?.reached.is_none() {
                ensure!(begun.elapsed() < Duration::from_secs(20), "the chain does not carry {family:?}");
            }
        }
        Ok(())
    }

    /// Makes a node forward as before, but say nothing itself.
    fn silence(&self, node: u8) -> anyhow::Result<()> {
        Family::BOTH.iter().try_for_each(|family| {
            self.ip(node, &[family.flag(), "rule", "add", "pref", "1", "iif", "lo", "blackhole"])
        })
    }

    fn end_silence(&self, node: u8) -> anyhow::Result<()> {
        Family::BOTH.iter().try_for_each(|family| self.ip(node, &[family.flag(), "rule", "del", "pref", "1"]))
    }

    /// Runs something within a node's namespace.
    fn inside<T: Send>(&self, node: u8, body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let path = format!("/run/netns/{}", self.name(node));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(File::open(&path).context("no namespace")?, CloneFlags::CLONE_NEWNET)?;
                body()
            });
            thread.join().expect("it does not panic")
        })
    }

    /// Traces at the left end.
    fn run<T: Send, F: Future<Output = T>>(&self, body: impl FnOnce() -> F + Send) -> anyhow::Result<T> {
        self.inside(0, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(body()))
        })
    }

    fn trace(&self, destination: IpAddr, config: TraceConfig) -> anyhow::Result<Trace> {
        Ok(self.run(|| async move { trace(destination, &config).await })??)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for node in 0..=ROUTERS + 1 {
            // Of a chain that was not built whole some are not there.
            let _ = ip(&["netns", "del", &self.name(node)]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("`ip` cannot be run (package iproute2)")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), complaint.trim());
    Ok(())
}

fn ttls(hops: &[Hop]) -> Vec<u8> {
    hops.iter().map(|hop| hop.ttl).collect()
}

fn check(family: Family, trace: &Trace, expected: impl IntoIterator<Item = u8>, distance: Option<u8>) {
    let expected: Vec<u8> = expected.into_iter().collect();
    assert_eq!(ttls(&trace.hops), expected, "{trace:?}");
    for hop in &trace.hops {
        assert_eq!(hop.addr, family.at(hop.ttl), "{trace:?}");
        assert!(hop.rtt > Duration::ZERO && hop.rtt < NEAR, "{trace:?}");
    }
    assert_eq!(trace.reached.map(|end| end.distance), distance, "{trace:?}");
    assert!(trace.reached.is_none_or(|end| end.rtt > Duration::ZERO && end.rtt < NEAR), "{trace:?}");
}

#[test]
#[ignore = "needs root, to make network namespaces"]
fn traces_over_real_routers() -> anyhow::Result<()> {
    let chain = Chain::build()?;
    chain.wait_until_it_carries()?;
    let (far, near) = (ROUTERS + 1, 3);
    for family in Family::BOTH {
        let end = family.at(far);
        check(family, &chain.trace(end, TraceConfig::LAST)?, 4..=8, Some(far));
        check(family, &chain.trace(end, TraceConfig::FIRST)?, 1..=5, Some(far));
        let end = family.at(near);
        check(family, &chain.trace(end, TraceConfig::LAST)?, 1..=2, Some(near));
        check(family, &chain.trace(end, TraceConfig::FIRST)?, 1..=2, Some(near));
    }

    chain.silence(6)?;
    for family in Family::BOTH {
        let begun = Instant::now();
        check(family, &chain.trace(family.at(far), TraceConfig::LAST)?, [4, 5, 7, 8], Some(far));
        assert!(begun.elapsed() < TraceConfig::LAST.timeout, "one silent router of five costs no whole time-out");
    }
    chain.end_silence(6)?;

    chain.silence(far)?;
    for family in Family::BOTH {
        let begun = Instant::now();
        check(family, &chain.trace(family.at(far), TraceConfig::LAST)?, 4..=8, None);
        check(family, &chain.trace(family.at(far), TraceConfig::FIRST)?, 1..=5, None);
        assert!(begun.elapsed() < 3 * TraceConfig::LAST.timeout, "{:?}", begun.elapsed());
        let begun = Instant::now();
        let way = chain.run(|| last_routers(family.at(far)))?;
        assert!(begun.elapsed() <= LIMIT, "{:?}", begun.elapsed());
        assert!(!way.answered && way.rtt_bound.is_some_and(|rtt| rtt < NEAR), "{way:?}");
        assert_eq!(way.routers, [] as [IpAddr; 0], "those of the chain are private");
    }
    chain.end_silence(far)?;

    for family in Family::BOTH {
        let end = family.at(far);
        let begun = Instant::now();
        let traces = chain.run(|| async move {
            let mut under_way = tokio::task::JoinSet::new();
            for _ in 0..50 {
                under_way.spawn(async move { trace(end, &TraceConfig::LAST).await });
            }
            under_way.join_all().await
        })?;
        println!("50 traces at once took {:?}", begun.elapsed());
        for trace in traces {
            check(family, &trace?, 4..=8, Some(far));
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root, to make network namespaces"]
fn without_a_route_there_is_an_error() -> anyhow::Result<()> {
    let chain = Chain::build()?;
    for nowhere in ["192.0.2.1", "2001:db8::1"] {
        assert!(chain.trace(nowhere.parse()?, TraceConfig::LAST).is_err(), "{nowhere}");
        let nowhere = nowhere.parse()?;
        assert_eq!(chain.run(|| last_routers(nowhere))?, Default::default());
    }
    Ok(())
}
