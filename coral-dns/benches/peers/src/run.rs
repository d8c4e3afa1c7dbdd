//! The rounds: who is asked what, in which order.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use coral_rig::load_average;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Options;
use crate::load::{self, Asker, Load, Outcome, Pace};
use crate::report::{self, Sample};
use crate::responders;
use crate::servers::{self, Started};
use crate::traffic::{Kind, Traffic};

/// Queries outstanding when a server is to do what it can.
const OUTSTANDING: usize = 200;
/// Queries a second when it is to do what it is asked.
const RATE: u32 = 20_000;
/// What a server does before it is measured, so that its caches are as warm as they get.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a server may take to read 100,000 networks.
const STARTING: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    // The default, 50 µs, is the whole time between two queries.
    nix::sys::prctl::set_timerslack(1)?;
    isolate()?;
    let folder = tempfile::tempdir()?;
    let names: &[&'static str] = if options.sockets { &responders::NAMES } else { &servers::NAMES };
    let mut traffic = Traffic::new();
    let mut servers = servers::start(names, &options.only, folder.path())?;
    for server in &mut servers {
        let goes_on = || server.server.is_running() && !stop.load(Ordering::Relaxed);
        if !load::await_answer(&mut traffic, server.address, STARTING, goes_on)? {
            bail!("{} does not answer:\n{}", server.name, fs::read_to_string(&server.log)?);
        }
        servers::check_decision(server, &mut traffic)?;
    }
    ensure!(!servers.is_empty(), "nothing to measure");

    let loaded = load_average();
    let plan = plan(options);
    let mut samples = Vec::new();
    for round in 1..=options.rounds {
        for server in &servers {
            eprintln!("round {round} of {}: {}", options.rounds, server.name);
            let mut asker = Asker::new(&mut traffic, server.address, Arc::clone(&stop))?;
            for &load in &plan {
                asker.run(Load { span: WARM_UP, ..load })?;
                let before = server.server.cpu()?;
                let outcome = asker.run(load).with_context(|| failed(server))?;
                let cpu = server.server.cpu()? - before;
                samples.push(sample(round, server, load, outcome, cpu));
            }
        }
    }
    let text = match options.unmeasured {
        Some(_) => report::unmeasured(&samples),
        None => report::table(&samples) + &report::ratios(&samples),
    };
    println!("{text}");
    println!("Load average: {} before, {} after.", loaded, load_average());
    if let Some(file) = &options.json {
        fs::write(file, serde_json::to_vec_pretty(&samples)?).context("cannot write the figures")?;
    }
    if options.check {
        let broken = report::broken(&samples);
        ensure!(broken.is_empty(), "bounds broken:\n{}", broken.join("\n"));
    }
    Ok(())
}

fn plan(options: &Options) -> Vec<Load> {
    let base = Load {
        pace: Pace::PerSecond(RATE),
        kind: Kind::Ecs,
        unknown: 0.0,
        span: options.span,
        wants_address: !options.sockets,
    };
    let saturated = |kind| Load { pace: Pace::Outstanding(OUTSTANDING), kind, ..base };
    match options.unmeasured {
        Some(unknown) => vec![base, Load { unknown, ..base }],
        None if options.sockets => vec![saturated(Kind::Ecs), base],
        None => vec![saturated(Kind::Plain), saturated(Kind::Edns), saturated(Kind::Ecs), base],
    }
}

fn failed(server: &Started) -> String {
    let log = fs::read_to_string(&server.log).unwrap_or_default();
    format!("while {} was asked; its last words: {}", server.name, log.lines().last().unwrap_or("none"))
}

fn sample(round: usize, server: &Started, load: Load, outcome: Outcome, cpu: Duration) -> Sample {
    let is_paced = matches!(load.pace, Pace::PerSecond(_));
    Sample {
        round,
        server: server.name,
        kind: load.kind,
        is_paced,
        unknown_share: load.unknown,
        answers: outcome.answers,
        lost: outcome.lost,
        bad: outcome.bad.iter().sum(),
        per_second: outcome.answers as f64 / outcome.elapsed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / outcome.answers.max(1) as f64,
        lag_us: outcome.mean_lag().as_secs_f64() * 1e6,
        known: report::Latency::of(outcome.known),
        unknown: report::Latency::of(outcome.unknown),
        memory_bytes: server.server.memory(),
    }
}

/// Loopback, and a way out that leads nowhere: what a server sends to clients that do not exist is swallowed, as by a
/// network that drops it.
fn isolate() -> anyhow::Result<()> {
    for line in [
        "link set lo up",
        "link add sink type veth peer name hole",
        "address add 198.18.0.1/24 dev sink",
        "link set sink up",
        "link set hole up",
        // An address of nobody's: the far end drops what is for it.
        "neighbour add 198.18.0.2 lladdr 02:00:00:00:00:02 dev sink nud permanent",
        "route add default via 198.18.0.2",
    ] {
        let done = Command::new("ip").args(line.split(' ')).status().context("cannot start ip")?;
        ensure!(done.success(), "ip {line} has failed");
    }
    Ok(())
}
