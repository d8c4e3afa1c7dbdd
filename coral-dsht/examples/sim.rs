//! A simulated network: how many hops a get takes, and how hot the hottest node gets.
//!
//! ```text
//! cargo run --profile sim -p coral-dsht --features sim --example sim -- --nodes 1000 --seed 42
//! ```
//!
//! With `--swarm` it replays a seed of the swarm test instead: faults first, then calm. With `--announce` one node announces
//! something to all, over links that lose one datagram in twenty.

use std::process::ExitCode;
use std::time::Duration;

use coral_dsht::sim::latency::Map;
use coral_dsht::sim::link::Link;
use coral_dsht::sim::{Simulation, check, swarm};
use coral_dsht::{Config, Id, Level, Levels, Value};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (mut nodes, mut seed, mut swarm, mut announces) = (200, 42, false, false);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--swarm" {
            swarm = true;
            continue;
        }
        if flag == "--announce" {
            announces = true;
            continue;
        }
        let number: u64 = args.next().and_then(|text| text.parse().ok()).ok_or(format!("{flag} wants a number"))?;
        match flag.as_str() {
            "--nodes" if number > 1 => nodes = usize::try_from(number).map_err(|error| error.to_string())?,
            "--seed" => seed = number,
            _ => {
                return Err(format!(
                    "unknown or impossible: {flag} {number}; there are --nodes N, --seed S, --swarm and --announce"
                ));
            }
        }
    }
    if swarm {
        return swarm::run(seed, nodes).map(|()| println!("{nodes} nodes, seed {seed}: everything was found"));
    }
    let mut sim = Simulation::new(seed, Config::default());
    if announces {
        sim.set_map(Map::planetlab(seed));
        return announce(sim, nodes);
    }
    sim.join(nodes);
    println!("{nodes} nodes, seed {seed}: {:.3} know the node nearest to them", check::know_their_nearest(&sim));

    let (mut hops, mut found) = (0, 0);
    for number in 0..GETS {
        let key = Id::hash(&[&number.to_be_bytes()]);
        let value = Value::new(&number.to_be_bytes()).ok_or("eight bytes fit")?;
        let (from, to) = (sim.random(nodes), sim.random(nodes));
        sim.put(from, key, value, Duration::from_secs(3600));
        let got = sim.get(to, key);
        found += got.values.len();
        hops += got.hops.iter().filter(|hop| hop.peer != sim.node(to).me()).count();
    }
    println!("gets: {found} of {GETS} found, {:.2} hops in the mean over all levels", hops as f64 / GETS as f64);

    let key = Id::hash(&[b"hot"]);
    let nearest = check::nearest(&sim, &key).ok_or("everybody is alive")?;
    let puts = |sim: &Simulation| sim.node(nearest).stats().requests.get("put").copied().unwrap_or(0);
    let before = puts(&sim);
    for second in 0..MINUTES * 60 {
        for number in 0..nodes {
            let value = Value::new(&number.to_be_bytes()).ok_or("eight bytes fit")?;
            let now = sim.now();
            sim.act(number, |dsht| dsht.put(now, key, value, Duration::from_secs(3600), Levels::only(Level::GLOBAL)));
        }
        sim.run_for(Duration::from_secs(1));
        if second == 0 {
            println!("every node now puts one key once a second, for {MINUTES} minutes");
        }
    }
    let bound = 12 * (nodes as f64).log2().ceil() as u64;
    println!(
        "puts a minute at the node nearest to the key: {} (β·⌈log2 n⌉ = {bound})",
        (puts(&sim) - before) / MINUTES
    );
    println!("{} events, trace {}", sim.trace().events(), sim.trace().hash());
    Ok(())
}

/// One node announces something that all others pass on: how long it takes, and what it costs.
fn announce(mut sim: Simulation, nodes: usize) -> Result<(), String> {
    if nodes <= MAX_JOINING {
        sim.join(nodes);
    } else {
        sim.settled(nodes);
    }
    sim.set_link(Link { loss_per_mille: 50, ..Link::default() });
    for number in 0..nodes {
        sim.listen(number, Some(Duration::from_secs(3600)));
    }
    sim.run_for(SPAN);
    let sent = |sim: &Simulation| -> Vec<(u64, u64)> {
        sim.alive().map(|(_, dsht)| (dsht.stats().datagrams_sent, dsht.stats().bytes_sent)).collect()
    };
    let quiet = sent(&sim);
    sim.run_for(SPAN);
    let (before, began, announcer) = (sent(&sim), sim.now(), sim.random(nodes));
    sim.act(announcer, |dsht| dsht.announce(began, &[7; 200], Duration::from_secs(3600)));
    sim.run_for(SPAN);
    let after = sent(&sim);
    let times: Vec<Duration> = sim.heard().iter().map(|heard| heard.at.saturating_since(began)).collect();
    let Some((half, last)) = times.get(times.len() / 2).zip(times.last()) else {
        return Err("nobody has heard of it".into());
    };
    println!("{} of {} others heard 200 bytes: half within {half:?}, the last after {last:?}", times.len(), nodes - 1);
    // What it would have sent anyway is what it sent in as long a time before.
    let spent = |part: fn(&(u64, u64)) -> u64| -> Vec<u64> {
        let spent = |number: usize| {
            let [quiet, before, after] = [&quiet, &before, &after].map(|sent| part(&sent[number]));
            (after - before).saturating_sub(before - quiet)
        };
        (0..nodes).map(spent).collect()
    };
    let (datagrams, bytes) = (spent(|sent| sent.0), spent(|sent| sent.1));
    println!(
        "datagrams sent for it by a node: {:.0} in the mean, {} at most; bytes {:.0} in the mean, {} at most",
        datagrams.iter().sum::<u64>() as f64 / nodes as f64,
        datagrams.iter().max().unwrap_or(&0),
        bytes.iter().sum::<u64>() as f64 / nodes as f64,
        bytes.iter().max().unwrap_or(&0),
    );
    Ok(())
}

/// Nodes that are watched before and after an announcement for so long.
const SPAN: Duration = Duration::from_secs(10);
/// More nodes begin settled: to let them join takes minutes.
const MAX_JOINING: usize = 1000;
const GETS: u64 = 200;
const MINUTES: u64 = 3;
