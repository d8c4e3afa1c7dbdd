//! The commands that have to do with containers: `up`, `status`, `exec`, `down`.

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{DownArgs, ExecArgs, MapArgs};
use crate::compose::{LABEL, pause_container};
use crate::map::Map;
use crate::state::State;
use crate::{images, nodes, preflight, router, scenario};

/// The root of this project, where this binary was built: the script `testbed` builds it and runs it there.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// `up`: brings the network up, or leaves nothing.
///
/// # Errors
///
/// What is missing on this machine, or what failed, or which signal came.
pub fn up(args: &MapArgs) -> anyhow::Result<bool> {
    let map = args.load()?;
    let text = args.text()?;
    block_on(up_or_down(&map, &text))
}

async fn up_or_down(map: &Map, text: &str) -> anyhow::Result<bool> {
    let state = State::of_this_machine();
    // From here on a signal ends what is done and not this process.
    let interrupted = interrupted()?;
    let compose = preflight::check(&state, map.sites().len()).await?;
    let outcome = tokio::select! {
        outcome = crate::up::up(&state, &compose, Path::new(SOURCE), map, text) => outcome,
        name = interrupted => Err(anyhow!("{name}: interrupted")),
    };
    let Err(e) = outcome else {
        return outcome;
    };
    eprintln!("taking down what has been begun …");
    match crate::down::down(&state).await {
        Ok(()) => Err(e),
        Err(left) => Err(e.context(format!("and not all of it could be taken down again ({left:#})"))),
    }
}

/// The name of the first signal that asks this process to end.
fn interrupted() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    })
}

/// `status`: what the nodes and the router say.
///
/// # Errors
///
/// If no testbed is up, or not all of it.
pub fn status() -> anyhow::Result<bool> {
    let state = State::of_this_machine();
    let map = state.map()?;
    preflight::rights()?;
    block_on(async {
        let namespaces = nodes::namespaces(&map).await?;
        println!("{}", crate::status::page(&map, &nodes::statuses(&map, &namespaces).await));
        let mut router = router::client(&state)?;
        println!("{}", crate::status::links(&map, &router.status()?, &router.counters()?));
        Ok(true)
    })
}

/// `exec`: becomes `docker run`, in the site's network namespace and with its resolver.
///
/// # Errors
///
/// If there is no such site, or no Docker.
pub fn exec(args: &ExecArgs) -> anyhow::Result<bool> {
    let state = State::of_this_machine();
    let map = state.map()?;
    let Some(site) = map.site(&args.site) else {
        let names: Vec<&str> = map.sites().iter().map(|site| site.name.as_str()).collect();
        bail!("there is no site {}; there are {}", args.site, names.join(", "));
    };
    let image = block_on(images::tools())?;
    let mut run = std::process::Command::new("docker");
    run.args(["run", "--rm", "--interactive", "--init", "--label", LABEL]);
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        run.arg("--tty");
    }
    for file in ["hosts", "resolv.conf"] {
        let path = state.hosts().join(&site.name).join("files").join(file);
        run.arg("--volume").arg(format!("{}:/etc/{file}:ro", path.display()));
    }
    run.args(["--network", &format!("container:{}", pause_container(&site.name)), &image]).args(&args.command);
    Err(run.exec()).context("cannot run docker")
}

/// `run resolvers`: what real resolvers make of the testbed that is up.
///
/// # Errors
///
/// If none is up, or the experiment cannot be made.
pub fn resolvers() -> anyhow::Result<bool> {
    let state = State::of_this_machine();
    let map = state.map()?;
    preflight::rights()?;
    block_on(scenario::resolvers::run(&map, &state.hosts()))
}

/// `run browser`: a browser in the testbed that is up.
///
/// # Errors
///
/// If none is up, or the experiment cannot be made.
pub fn browser(options: &scenario::browser::Options) -> anyhow::Result<bool> {
    let state = State::of_this_machine();
    let map = state.map()?;
    preflight::rights()?;
    block_on(scenario::browser::run(&map, &state, options))
}

/// `down`: leaves nothing, but the images unless they are unwanted, too.
///
/// # Errors
///
/// If something cannot be removed.
pub fn down(args: &DownArgs) -> anyhow::Result<bool> {
    preflight::rights()?;
    block_on(async {
        crate::down::down(&State::of_this_machine()).await?;
        if args.images {
            images::remove().await?;
        }
        Ok(true)
    })
}
