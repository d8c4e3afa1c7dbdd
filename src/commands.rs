//! What each subcommand does, but for `coral demo`. Each says whether it ended well, or why it could not begin.

use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::{Context as _, bail};
use coral_dns::dnssec::key::{Algorithm, Key};
use sd_notify::NotifyState;
use serde_json::Value as Json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Sleep, sleep};

use crate::cli::{
    DnssecKeyArgs, DrainArgs, HealthArgs, KeyAlgorithm, LookupArgs, MapArgs, NodeArgs, PurgeArgs, PurgeKeyArgs,
    RunArgs, SearchArgs, StatusArgs, UrlArgs,
};
use crate::config::{Config, Override};
use crate::logging::Lines;
use crate::node::{Given, Node};
use crate::takeover::{self, Attempt, Predecessor};
use crate::{admin, http, logging, purge, tables};

/// What rereads the configuration; for who has none, the terminal is gone, as good a reason as any to leave in good order.
const HANGUP: &str = "SIGHUP";

/// The exit status of a process that a second signal ends, as a shell counts it: 128 and the number of SIGINT.
const FORCED: i32 = 130;

/// What has a node stop when nobody comes any more.
const USER_1: &str = "SIGUSR1";

/// What has a new process take over.
const USER_2: &str = "SIGUSR2";

/// `coral node`: runs until a signal, until a part of it fails, or until another process has taken over.
pub fn node(args: &RunArgs) -> anyhow::Result<bool> {
    // By the time that it is asked for, a newer one may lie there, and this one have no name any more.
    let binary = std::env::current_exe().context("cannot tell which program this is")?;
    let predecessor = if args.take_over { Some(Predecessor::meet()?) } else { None };
    let args = &args.node;
    let config = load_for_node(args)?;
    let log = logging::start(&config.log)?;
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let mut node = start(config, predecessor, log.requests()).await?;
        let mut drained = None;
        let failure = loop {
            tokio::select! {
                name = signals.next() => match name {
                    // Without a file there is nothing to read again: the terminal is gone.
                    HANGUP if args.config.is_some() => reload(&node, args),
                    USER_1 => drop(node.drain().await),
                    USER_2 => match takeover::hand_over(node, &binary).await? {
                        Attempt::Done(leaving, process) => {
                            tracing::info!("{USER_2}: process {process} has taken over; this one ends when its last response is sent");
                            return Ok(signals.or_force(leaving.finish()).await.is_clean());
                        }
                        Attempt::Failed(same, why) => {
                            tracing::error!("{USER_2}: this process stays: {why:#}");
                            node = *same;
                        }
                    },
                    _ => {
                        tracing::info!("{name}: stopping; a second signal ends at once");
                        break None;
                    }
                },
                after = node.draining(), if drained.is_none() => {
                    tracing::info!("draining: no name leads here any more; stopping in {after:?}");
                    drained = Some(Box::pin(sleep(after)));
                }
                () = over(&mut drained) => {
                    tracing::info!("drained: stopping");
                    break None;
                }
                why = node.failed() => break Some(why),
            }
        };
        let ending = signals.or_force(node.stop()).await;
        match failure {
            Some(why) => bail!("{why}"),
            None if !ending.is_clean() => {
                eprintln!("coral: the node did not end cleanly: {ending}");
                Ok(false)
            }
            None => Ok(true),
        }
    })
}

/// Waits until a time is over, for ever if there is none.
async fn over(time: &mut Option<Pin<Box<Sleep>>>) {
    match time {
        Some(time) => time.await,
        None => std::future::pending().await,
    }
}

/// Starts a node, in the place of the `predecessor` if there is one.
async fn start(config: Config, predecessor: Option<Predecessor>, log: Option<Lines>) -> anyhow::Result<Node> {
    let Some(mut predecessor) = predecessor else {
        let node = Node::start_with(config, Given { log, ..Given::default() }).await?;
        service_manager(&[NotifyState::Ready]);
        return Ok(node);
    };
    let given = predecessor.relieve(log)?;
    let started = Node::start_with(config, given).await;
    if started.is_ok() {
        // Before the other process may end, or the service would have ended with it. From one that has ended systemd takes no word.
        service_manager(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    }
    predecessor.tell(started.as_ref().map(drop));
    started
}

/// Tells systemd, if that waits for it.
fn service_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// Opens the access log again and reads the configuration again; what cannot be used changes nothing.
fn reload(node: &Node, args: &NodeArgs) {
    // Whatever is wrong with the configuration, a file that was moved is not to be written to for ever.
    if let Err(error) = node.reopen_log() {
        tracing::error!("{HANGUP}: {error:#}");
    }
    match load_for_node(args).and_then(|config| node.reload(&config)) {
        Ok(waiting) if waiting.is_empty() => tracing::info!("{HANGUP}: the configuration has been read again"),
        Ok(waiting) => tracing::warn!(
            "{HANGUP}: the configuration has been read again; what has changed of these waits for the next start: {}",
            waiting.join(", ")
        ),
        Err(error) => tracing::error!("{HANGUP}: the configuration stays as it was: {error:#}"),
    }
}

/// `coral url`.
pub fn url(args: &UrlArgs) -> anyhow::Result<bool> {
    let coralized = coral_proxy::coralize(&with_scheme(&args.url), &args.suffix.proxy)
        .with_context(|| format!("cannot coralize {}", args.url))?;
    println!("{coralized}");
    Ok(true)
}

/// As people type it into a browser: without a scheme, http is meant.
pub(crate) fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

/// `coral lookup`.
pub fn lookup(args: &SearchArgs) -> anyhow::Result<bool> {
    let SearchArgs { lookup, trace } = args;
    let path = format!("/lookup?url={}", admin::escaped(&with_scheme(&lookup.url)));
    print_answer(lookup.admin, &path, lookup.json, if *trace { tables::trace } else { tables::lookup })
}

/// `coral explain`.
pub fn explain(args: &LookupArgs) -> anyhow::Result<bool> {
    let path = format!("/explain?url={}", admin::escaped(&with_scheme(&args.url)));
    print_answer(args.admin, &path, args.json, tables::explain)
}

/// `coral purge`: an error unless all of it was purged, at the node that is asked.
pub fn purge(args: &PurgeArgs) -> anyhow::Result<bool> {
    let token = admin::token(&args.token)?;
    let path = if args.here { "/purge?here" } else { "/purge" };
    let posted = http::post_text(args.admin, path, &token, args.patterns.join("\n"));
    let (status, text) = runtime()?.block_on(posted)?;
    let answer = understood(args.admin, status, text)?;
    if args.json {
        print!("{}", answer.text);
        return Ok(true);
    }
    for pattern in answer.json["purged"].as_array().into_iter().flatten().filter_map(Json::as_str) {
        println!("purged {pattern}");
    }
    match (answer.json["network"].as_bool(), answer.json["note"].as_str()) {
        (Some(true), _) => println!("the other nodes have been told"),
        (_, Some(note)) => println!("at this node alone: {note}"),
        _ => println!("at this node alone"),
    }
    Ok(true)
}

/// `coral drain`: an error unless the node is about to stop.
pub fn drain(args: &DrainArgs) -> anyhow::Result<bool> {
    let token = admin::token(&args.token)?;
    let (status, text) = runtime()?.block_on(http::post_text(args.admin, "/drain", &token, String::new()))?;
    let answer = understood(args.admin, status, text)?;
    let after =
        answer.json["stops_in"].as_str().with_context(|| format!("{} does not say when it stops", args.admin))?;
    println!("no name leads to it any more; it serves on, and stops in {after}");
    Ok(true)
}

/// `coral purge-key`: makes the file unless it is there, and prints what other nodes know it by.
pub fn purge_key(args: &PurgeKeyArgs) -> anyhow::Result<bool> {
    let key = if args.file.exists() {
        purge::key::Key::read(&args.file)?
    } else {
        let key = purge::key::Key::create(&args.file)?;
        eprintln!("made {}, which only its owner can read", args.file.display());
        key
    };
    println!("{}", key.operator());
    Ok(true)
}

/// `coral map`.
pub fn map(args: &MapArgs) -> anyhow::Result<bool> {
    let Some(path) = &args.svg else {
        return print_answer(args.admin, "/map", args.json, tables::map);
    };
    let answer = ask(args.admin, "/map")?;
    let svg = answer.json["svg"].as_str().with_context(|| format!("{} gives no picture", args.admin))?;
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{}", if args.json { answer.text } else { tables::map(&answer.json) });
    Ok(true)
}

/// `coral status`.
pub fn status(args: &StatusArgs) -> anyhow::Result<bool> {
    print_answer(args.admin, "/status", args.json, tables::status)
}

/// `coral health`: an error, and so a failing health check, unless the node says that it is well.
pub fn health(args: &HealthArgs) -> anyhow::Result<bool> {
    let health = ask(args.admin, "/health")?.json;
    if health["healthy"].as_bool() == Some(true) {
        println!("healthy");
        return Ok(true);
    }
    let reasons: Vec<&str> = health["reasons"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    bail!(
        "{} is not healthy: {}",
        args.admin,
        if reasons.is_empty() { "it gives no reason".into() } else { reasons.join("; ") }
    );
}

/// `coral check-config`: the configuration that results, as TOML where each option is set.
pub fn check_config(args: &NodeArgs) -> anyhow::Result<bool> {
    print!("{}", toml::to_string(&load(args)?).context("cannot write the configuration as TOML")?);
    Ok(true)
}

/// `coral dnssec-key`: makes the file unless it is there, and prints what the zone above needs, as lines of a zone file.
pub fn dnssec_key(args: &DnssecKeyArgs) -> anyhow::Result<bool> {
    let path = args.file.display();
    let key = if args.file.exists() {
        Key::read(&args.file).with_context(|| format!("cannot use the key {path}"))?
    } else {
        let algorithm = match args.algorithm {
            KeyAlgorithm::EcdsaP256 => Algorithm::EcdsaP256,
            KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
        };
        let key = Key::create(&args.file, algorithm).with_context(|| format!("cannot make the key {path}"))?;
        eprintln!("made {path}, which only its owner can read");
        key
    };
    for suffix in &args.suffix {
        println!("{}", key.ds_line(&suffix.dns));
    }
    Ok(true)
}

/// With what a process of its own can do and a part of one should not.
pub(crate) fn load_for_node(args: &NodeArgs) -> anyhow::Result<Config> {
    let mut config = load(args)?;
    let threads = &mut config.proxy.part.threads;
    *threads = threads.or_else(|| std::thread::available_parallelism().ok());
    Ok(config)
}

fn load(args: &NodeArgs) -> anyhow::Result<Config> {
    let mut overrides = Override::from_variables(std::env::vars_os());
    overrides.extend(args.overrides()?);
    Config::load(args.config.as_deref(), &overrides)
}

fn print_answer(addr: SocketAddr, path: &str, as_json: bool, table: fn(&Json) -> String) -> anyhow::Result<bool> {
    let answer = ask(addr, path)?;
    if as_json {
        print!("{}", answer.text);
    } else {
        print!("{}", table(&answer.json));
    }
    Ok(true)
}

/// What an admin address answered, as it came and as it is understood.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) json: Json,
}

fn ask(addr: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    runtime()?.block_on(answer(addr, path))
}

/// What the admin address at `addr` answers to `path`.
pub(crate) async fn answer(addr: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let (status, text) = http::get_text(addr, path).await?;
    understood(addr, status, text)
}

/// What an admin address answered; an error if it says that something is wrong.
fn understood(addr: SocketAddr, status: hyper::StatusCode, text: String) -> anyhow::Result<Answer> {
    let json: Option<Json> = serde_json::from_str(&text).ok();
    let Some(json) = json else {
        bail!("{addr} is no node's admin address: it answered {status}, and not in JSON");
    };
    if let Some(error) = json.get("error").and_then(Json::as_str) {
        bail!("{addr} answered: {error}");
    }
    Ok(Answer { text, json })
}

/// The one runtime of a command.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().context("cannot start the runtime")
}

/// Ctrl-C, and what service managers send.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => HANGUP,
            _ = self.user_1.recv() => USER_1,
            _ = self.user_2.recv() => USER_2,
        }
    }

    /// `work`, unless another signal comes first: then the process ends without it.
    pub(crate) async fn or_force<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            name = self.next() => {
                eprintln!("coral: a second signal ({name}): ending at once, without a goodbye");
                std::process::exit(FORCED);
            }
        }
    }
}
