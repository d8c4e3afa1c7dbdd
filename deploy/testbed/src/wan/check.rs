//! `coral-testbed wan check`: whether the wide area is what its map says, measured from its hosts.
//!
//! It makes a namespace for each site and nothing else, starts the router, measures, and removes all of it, however it ends. It
//! takes root (or CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_NET_RAW), and less than two minutes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use comfy_table::{Table, presets};
use nix::sys::signal::{SigSet, Signal};

use super::control::{Attachment, Client, Limit, LinkChange};
use super::path::Routers;
use super::process::Process;
use crate::cli::MapArgs;
use crate::map::{Link, Map, Rate, Site};
use crate::netns::Namespace;
use measure::{Echo, Sink};

mod measure;

/// What to check.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    map: MapArgs,
}

/// Builds the network, measures it, prints what was asked for and what was measured. `Ok(false)`: something is not as asked.
///
/// # Errors
///
/// If it cannot be built or measured, or was interrupted.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let map = options.map.load()?;
    let interrupted = watch_signals()?;
    let mut check = Check::build(map, options, interrupted)?;
    let outcome = check.measure();
    println!("{}", check.table);
    let failures = std::mem::take(&mut check.failures);
    let interrupted = check.interrupted.load(Ordering::Relaxed);
    let down = check.tear_down();
    // Ctrl-C reaches the router, too, so that what failed in consequence is no news.
    ensure!(!interrupted, "interrupted; what there was has been taken down");
    outcome?;
    down?;
    for failure in &failures {
        println!("not as asked: {failure}");
    }
    Ok(failures.is_empty())
}

/// The network under test.
struct Check {
    map: Map,
    router: Process,
    hosts: Vec<Namespace>,
    client: Client,
    table: Table,
    failures: Vec<String>,
    interrupted: Arc<AtomicBool>,
    begun: Instant,
}

/// Takes SIGINT and SIGTERM for this process, on a thread that sets the flag: measurements look at it between steps.
fn watch_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask.thread_block().context("cannot block signals")?;
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    thread::spawn(move || {
        if mask.wait().is_ok() {
            set.store(true, Ordering::Relaxed);
        }
    });
    Ok(flag)
}

impl Check {
    fn build(map: Map, options: &Options, interrupted: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let begun = Instant::now();
        // Names of its own, so that it can run beside a testbed.
        let run = std::process::id();
        let mut hosts = Vec::new();
        for site in map.sites() {
            ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
            hosts.push(Namespace::create(&format!("check-{run}-{}", site.number))?);
        }
        let namespaces = begun.elapsed();
        let control = PathBuf::from(format!("/run/coral-testbed/check-{run}.sock"));
        let router = Process::start(options.map.map.as_deref(), &control)?;
        let mut client = router.client()?;
        let attachment =
            |(site, host): (&Site, &Namespace)| Attachment { site: site.name.clone(), netns: host.netns() };
        client.attach(map.sites().iter().zip(&hosts).map(attachment).collect())?;
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY).set_header(["what", "asked for", "measured", ""]);
        let mut check = Self { map, router, hosts, client, table, failures: Vec::new(), interrupted, begun };
        let (sites, all) = (check.map.sites().len(), begun.elapsed());
        let measured = format!("{:.2} s, of which {:.2} s for namespaces", all.as_secs_f64(), namespaces.as_secs_f64());
        check.row(&format!("{sites} sites come up"), "", &measured, true);
        Ok(check)
    }

    /// Takes everything down.
    fn tear_down(self) -> anyhow::Result<()> {
        self.router.stop()
    }

    fn measure(&mut self) -> anyhow::Result<()> {
        self.round_trips()?;
        self.traces()?;
        let (a, b) = self.far_pair();
        let before = *self.map.link(&a, &b);
        self.jitter(&a, &b)?;
        self.loss(&a, &b)?;
        self.new_distance(&a, &b)?;
        self.rate(&a, &b)?;
        self.set(&a, &b, &before)?;
        self.cut(&a, &b)?;
        self.throughput()?;
        self.router_itself()
    }

    fn row(&mut self, what: &str, asked: &str, measured: &str, right: bool) {
        self.table.add_row([what, asked, measured, if right { "" } else { "NOT AS ASKED" }]);
        if !right {
            self.failures.push(format!("{what}: {measured} instead of {asked}"));
        }
    }

    /// Ends the check between two steps, if it was interrupted or takes too long.
    fn step(&self) -> anyhow::Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        ensure!(self.begun.elapsed() < LONGEST, "not done after {LONGEST:?}");
        Ok(())
    }

    fn host(&self, site: &Site) -> &Namespace {
        &self.hosts[usize::from(site.number) - 1]
    }

    /// One pair within each region and between each two, as far as they have unlimited lines, and not too many of them.
    fn sample(&self) -> Vec<(Site, Site)> {
        let mut seen = std::collections::BTreeSet::new();
        let mut pairs = Vec::new();
        let free = |site: &&Site| site.access.up.is_none() && site.access.down.is_none();
        for a in self.map.sites().iter().filter(free) {
            for b in self.map.sites().iter().filter(free).filter(|b| b.number > a.number) {
                if seen.insert((a.region, b.region)) {
                    pairs.push((a.clone(), b.clone()));
                }
            }
        }
        let every = pairs.len().div_ceil(MOST_PAIRS).max(1);
        pairs.into_iter().step_by(every).collect()
    }

    /// The pair of the sample with the longest way, for what needs one pair.
    fn far_pair(&self) -> (Site, Site) {
        let pairs = self.sample();
        let far = pairs.into_iter().max_by_key(|(a, b)| self.map.link(a, b).delay);
        far.unwrap_or_else(|| (self.map.origin().clone(), self.map.root().clone()))
    }

    fn round_trips(&mut self) -> anyhow::Result<()> {
        let pairs = self.sample();
        let mut targets: Vec<&Site> = pairs.iter().map(|(_, b)| b).collect();
        targets.sort_by_key(|site| site.number);
        targets.dedup();
        let echoes = targets.iter().map(|site| Echo::start(self.host(site))).collect::<anyhow::Result<Vec<_>>>()?;
        for (n, (a, b)) in pairs.iter().enumerate() {
            self.step()?;
            let link = *self.map.link(a, b);
            let (family, to) = if n % 2 == 0 { ("IPv4", b.ipv4.into()) } else { ("IPv6", b.ipv6.into()) };
            let mut times = self.host(a).run(|| measure::round_trips(to, probes(&link)))??;
            times.sort();
            ensure!(!times.is_empty(), "no answer from {} to {}", b.name, a.name);
            let median = times[times.len() / 2];
            // The least tells the distance: whoever else uses this machine adds to some, by a millisecond in the median at times, and takes
            // from none. Each way is late by the jitter at most, which has a row of its own.
            let right = within(times[0], link.rtt() + link.jitter, TOLERANCE + link.jitter);
            let what = format!("RTT {} to {}, {family}", a.name, b.name);
            let asked = match link.jitter {
                Duration::ZERO => millis(link.rtt()),
                jitter => format!("{} + {}", millis(link.rtt()), millis(jitter)),
            };
            let most = times.last().copied().unwrap_or_default();
            let measured = format!("{} ({} to {})", millis(median), millis(times[0]), millis(most));
            self.row(&what, &asked, &measured, right);
        }
        drop(echoes);
        Ok(())
    }

    fn traces(&mut self) -> anyhow::Result<()> {
        let routers = Routers::new(self.map.regions().len());
        let (far, near) = (self.far_pair(), self.sample().into_iter().find(|(a, b)| a.region == b.region));
        for (a, b) in [Some(far), near].into_iter().flatten() {
            self.step()?;
            let path = routers.path(a.region, b.region, self.map.link(&a, &b).delay);
            let asked: Vec<String> = path.map(|hop| routers.addresses(hop.router).0.to_string()).collect();
            let hops = self.host(&a).run(|| measure::trace(b.ipv4))??;
            let hops: Vec<String> =
                hops.iter().map(|hop| hop.map_or_else(|| "*".to_owned(), |ip| ip.to_string())).collect();
            self.row(&format!("trace {} to {}", a.name, b.name), &asked.join("\n"), &hops.join("\n"), hops == asked);
        }
        Ok(())
    }

    /// Makes the way between two sites this one.
    fn set(&mut self, a: &Site, b: &Site, link: &Link) -> anyhow::Result<()> {
        let rate = link.rate.map_or(Limit::Unlimited, Limit::At);
        let change =
            LinkChange { rtt: Some(link.rtt()), jitter: Some(link.jitter), loss: Some(link.loss), rate: Some(rate) };
        Ok(self.client.link(&a.name, &b.name, change)?)
    }

    /// Sends a stream from `a` to `b`: how long each that arrived took, in the order of sending, and whether any overtook another.
    fn stream(&mut self, a: &Site, b: &Site, count: u32, pace: Duration) -> anyhow::Result<(Vec<Duration>, bool)> {
        let echo = Echo::start(self.host(b))?;
        let to = b.ipv4.into();
        let sent = self.host(a).run(|| measure::stream(to, count, pace))??;
        // The last has arrived when one that is sent now has come back: none overtakes another. One may be lost, not all.
        let mut arrived = Vec::new();
        for _ in 0..10 {
            let back = self.host(a).run(|| measure::answers(to, Duration::from_secs(1)))??;
            arrived.extend(echo.arrivals());
            if back {
                break;
            }
        }
        // Those sent to see that all is through have number 0 as well, and are after the first.
        let mut seen = std::collections::BTreeSet::new();
        arrived.retain(|arrival| seen.insert(arrival.number));
        let in_order = arrived.is_sorted_by_key(|arrival| arrival.number);
        let times = arrived.iter().filter_map(|arrival| Some(arrival.at - *sent.get(arrival.number as usize)?));
        Ok((times.collect(), in_order))
    }

    fn jitter(&mut self, a: &Site, b: &Site) -> anyhow::Result<()> {
        self.step()?;
        let jitter = Duration::from_millis(10);
        let delay = Duration::from_millis(20);
        self.set(a, b, &Link { delay, jitter, loss: 0.0, rate: None })?;
        let (mut times, in_order) = self.stream(a, b, 400, Duration::from_millis(4))?;
        times.sort();
        let least = times.first().copied().unwrap_or_default();
        // Some of the last are late because whoever reads them was, on a busy machine.
        let most = times.get(times.len() * 98 / 100).copied().unwrap_or_default();
        // Of 400 draws the least and the 98th hundredth are within 5 % of the ends, but for one time in a thousand million.
        let slack = TOLERANCE + jitter / 20;
        let right = within(least, delay, slack) && within(most, delay + jitter, slack) && in_order;
        let measured = format!(
            "{} to {}, 2 % left out, {}",
            millis(least),
            millis(most),
            if in_order { "in order" } else { "out of order" }
        );
        let asked = format!("{} to {}, in order", millis(delay), millis(delay + jitter));
        self.row("one way, with jitter", &asked, &measured, right);
        Ok(())
    }

    fn loss(&mut self, a: &Site, b: &Site) -> anyhow::Result<()> {
        self.step()?;
        self.set(a, b, &Link { delay: Duration::from_millis(5), jitter: Duration::ZERO, loss: 0.1, rate: None })?;
        let count = 3000;
        let (times, _) = self.stream(a, b, count, Duration::from_millis(1))?;
        let lost = 100.0 * (1.0 - times.len() as f64 / f64::from(count));
        // Four standard deviations of such a count are 2.2 %.
        self.row("loss, one way", "10 % ± 2.2 %", &format!("{lost:.1} %"), (lost - 10.0).abs() < 2.2);
        Ok(())
    }

    fn new_distance(&mut self, a: &Site, b: &Site) -> anyhow::Result<()> {
        self.step()?;
        let _echo = Echo::start(self.host(b))?;
        for rtt in [150, 25].map(Duration::from_millis) {
            let link = Link { delay: rtt / 2, jitter: Duration::ZERO, loss: 0.0, rate: None };
            self.set(a, b, &link)?;
            let to = b.ipv4.into();
            let mut times = self.host(a).run(|| measure::round_trips(to, probes(&link)))??;
            times.sort();
            // As above.
            let least = times.first().copied().unwrap_or_default();
            self.row("RTT, changed while it runs", &millis(rtt), &millis(least), within(least, rtt, TOLERANCE));
        }
        Ok(())
    }

    fn rate(&mut self, a: &Site, b: &Site) -> anyhow::Result<()> {
        self.step()?;
        let rate = Rate::from_bits_per_second(20_000_000).context("that is a rate")?;
        self.set(
            a,
            b,
            &Link { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0.0, rate: Some(rate) },
        )?;
        let mbits = self.pour(&[(a.clone(), b.clone())], Duration::from_secs(4))?;
        // What TCP carries is a little less than what the packets are.
        self.row("rate of a pair", "18 to 20 Mbit/s", &format!("{mbits:.1} Mbit/s"), (18.0..=20.0).contains(&mbits));
        Ok(())
    }

    fn cut(&mut self, a: &Site, b: &Site) -> anyhow::Result<()> {
        self.step()?;
        let _echo = Echo::start(self.host(b))?;
        let (region, to) = (self.map.region_of(a).name.clone(), b.ipv4.into());
        let patience = self.map.link(a, b).rtt() * 2 + Duration::from_millis(200);
        self.client.cut(&region, None)?;
        let during = self.host(a).run(|| measure::answers(to, patience))??;
        self.client.heal(&region, None)?;
        let mut after = false;
        for _ in 0..10 {
            after |= self.host(a).run(|| measure::answers(to, patience))??;
        }
        let word = |answers| if answers { "an answer" } else { "none" };
        let measured = format!("{}, then {}", word(during), word(after));
        self.row(&format!("{region} cut off, then healed"), "none, then an answer", &measured, !during && after);
        Ok(())
    }

    /// Sends over all pairs at once, and says how many Mbit/s arrive in all, without the first second.
    fn pour(&self, pairs: &[(Site, Site)], time: Duration) -> anyhow::Result<f64> {
        let sinks = pairs.iter().map(|(_, b)| Sink::start(self.host(b))).collect::<anyhow::Result<Vec<_>>>()?;
        let received = || sinks.iter().map(Sink::bytes).sum::<u64>();
        thread::scope(|scope| {
            let work = |(a, b): &(Site, Site)| {
                let (host, to) = (self.host(a), b.ipv4.into());
                scope.spawn(move || host.run(|| measure::pour(to, time)))
            };
            let threads: Vec<_> = pairs.iter().map(work).collect();
            // These are the spans that are measured, not conditions.
            thread::sleep(Duration::from_secs(1));
            let (begun, before) = (Instant::now(), received());
            thread::sleep(time - Duration::from_millis(1500));
            let mbits = (received() - before) as f64 * 8e-6 / begun.elapsed().as_secs_f64();
            for thread in threads {
                match thread.join() {
                    Ok(outcome) => outcome?.map_err(|e: io::Error| anyhow::Error::new(e).context("cannot send"))?,
                    Err(_) => bail!("a sender has panicked"),
                }
            }
            Ok(mbits)
        })
    }

    fn throughput(&mut self) -> anyhow::Result<()> {
        self.step()?;
        // Neighbours in the list, which are near: what a flow reaches over a long way is TCP's matter.
        let free: Vec<Site> =
            self.map.nodes().filter(|site| site.access == crate::map::Access::default()).cloned().collect();
        let pairs: Vec<(Site, Site)> =
            free.chunks_exact(2).take(MOST_FLOWS).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let pid = self.router.pid();
        let (before, begun) = (cpu_time(pid)?, Instant::now());
        let mbits = self.pour(&pairs, Duration::from_secs(5))?;
        let cpu = 100.0 * (cpu_time(pid)? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        let what = format!("{} flows at once", pairs.len());
        let measured = format!("{mbits:.0} Mbit/s with {cpu:.0} % of a processor");
        self.row(&what, "300 Mbit/s or more", &measured, mbits >= 300.0);
        Ok(())
    }

    fn router_itself(&mut self) -> anyhow::Result<()> {
        let status = self.client.status()?;
        let text = fs::read_to_string(format!("/proc/{}/status", status.pid)).context("cannot look at the router")?;
        let memory = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        self.row("the router's memory at most", "", memory.trim(), true);
        let late = format!("{} µs in the mean, {} µs at most", status.late_mean_us, status.late_most_us);
        self.row("packets passed on later than due", "", &late, true);
        let priority = if status.realtime { "SCHED_RR" } else { "ordinary: a busy machine makes distances longer" };
        self.row("the router's priority", "", priority, true);
        Ok(())
    }
}

/// What a process has had of the processors so far (proc(5)).
fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot look at the router")?;
    // After the name, which may have anything in it, user and system time are fields 12 and 13 from 0.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

/// As many round trips as take a few seconds, within reason.
fn probes(link: &Link) -> u32 {
    let fit = Duration::from_secs(3).as_micros() / link.rtt().as_micros().max(1);
    (fit as u32).clamp(5, PROBES)
}

fn within(measured: Duration, asked: Duration, tolerance: Duration) -> bool {
    measured.abs_diff(asked) <= tolerance
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// What a distance may be off.
const TOLERANCE: Duration = Duration::from_millis(1);
const PROBES: u32 = 40;
const MOST_PAIRS: usize = 12;
const MOST_FLOWS: usize = 10;
const LONGEST: Duration = Duration::from_secs(100);
