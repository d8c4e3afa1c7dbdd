//! What can be seen from outside only: a node of the network is asked to try the ports of this host (`crate::reach`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::{Request as HttpRequest, StatusCode, header};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::Finding;
use crate::config::Config;
use crate::http::Connection;
use crate::node::address::is_private;
use crate::reach::listen::{Listening, places};
use crate::reach::{FIELD, Found, Nonce, PATH, Request, Service, Told};

/// Where a node serves HTTP, unless it is said otherwise: browsers know no other port.
const PORT: u16 = 80;

/// Nodes that are asked, one after the other, until one helps.
const MOST: usize = 4;

/// How long one may take to accept a connection.
const CONNECTING: Duration = Duration::from_secs(2);

/// How long one may take to try all ports. It gives up after half of that.
const TRYING: Duration = Duration::from_secs(8);

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 4096;

/// The most of a stranger's words that are shown.
const MAX_WORDS: usize = 160;

/// Whether this host is reached at the ports that a node of this configuration has. `runs` says that one is up, `address` where others
/// are to come to it, and `nodes` whom to ask, unless `from` names somebody.
pub(super) async fn reached(
    config: &Config,
    runs: bool,
    address: Option<IpAddr>,
    nodes: &[SocketAddr],
    from: Option<&str>,
) -> Vec<Finding> {
    let what = "from outside";
    let advice = "name a node that runs elsewhere, by --from HOST:PORT of its cache";
    let helpers = match from {
        Some(name) => match look_up(name).await {
            Ok(helpers) => helpers,
            Err(e) => return vec![Finding::doubtful(what, format!("{e:#}"), advice)],
        },
        None => candidates(nodes, address),
    };
    if helpers.is_empty() {
        return vec![Finding::doubtful(what, "there is no other node that could try these ports", advice)];
    }
    let nonce = match Nonce::draw() {
        Ok(nonce) => nonce,
        Err(e) => return vec![Finding::doubtful(what, format!("{e:#}"), "mend the system")],
    };
    let listening = Listening::begin(config, nonce).await;
    let mut ports = listening.ports().clone();
    for (service, addr) in places(config) {
        if addr.port() != 0 {
            ports.entry(service).or_insert(addr.port());
        }
    }
    let request = Request { nonce, ports };
    let mut reasons = Vec::new();
    for helper in helpers.into_iter().take(MOST) {
        match ask(config, address, helper, &request).await {
            Ok(told) => {
                let mut findings = vec![seen_as(config, address, helper, told.seen_as)];
                for (service, port) in &request.ports {
                    let has_come = listening.ports().contains_key(service).then(|| listening.has_seen(*service));
                    let found = told.tried.get(service).copied();
                    findings
                        .extend(found.and_then(|found| judged(*service, *port, runs, has_come, found, helper.ip())));
                }
                return findings;
            }
            Err(e) => reasons.push(format!("{helper} {e:#}")),
        }
    }
    vec![Finding::doubtful(what, format!("not known: {}", reasons.join("; ")), advice)]
}

/// The addresses of the cache `name`, which may have a port.
async fn look_up(name: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addr = name.parse::<SocketAddr>().or_else(|_| name.parse().map(|ip| SocketAddr::new(ip, PORT)));
    if let Ok(addr) = addr {
        return Ok(vec![addr]);
    }
    let name = if name.contains(':') { name.to_owned() } else { format!("{name}:{PORT}") };
    let found = timeout(CONNECTING, lookup_host(&name)).await.map_err(io::Error::from).flatten();
    Ok(found.with_context(|| format!("{name} cannot be looked up"))?.collect())
}

/// The caches of `nodes`, each once, but for this host's.
fn candidates(nodes: &[SocketAddr], me: Option<IpAddr>) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for node in nodes {
        let cache = SocketAddr::new(node.ip(), PORT);
        if Some(cache.ip()) != me && !found.contains(&cache) {
            found.push(cache);
        }
    }
    found
}

/// Has the node whose cache is at `helper` try what `request` names. An error goes on from its address.
async fn ask(config: &Config, me: Option<IpAddr>, helper: SocketAddr, request: &Request) -> anyhow::Result<Told> {
    let opened = timeout(CONNECTING, open(config, me, helper)).await;
    let mut connection = match opened {
        Ok(Ok(connection)) => connection,
        Ok(Err(e)) => bail!("does not serve HTTP: {e}"),
        Err(_) => bail!("does not take a connection within {CONNECTING:?}"),
    };
    let suffix = config.suffixes[0].to_string();
    let asked = HttpRequest::get(PATH).header(header::HOST, &suffix).header(FIELD, request.to_string());
    let answer = timeout(TRYING, connection.text(asked.body(Default::default())?, MAX_ANSWER_BYTES)).await;
    let (status, text) = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => bail!("breaks off: {e:#}"),
        Err(_) => bail!("has not answered within {TRYING:?}"),
    };
    let words = words(&text);
    match status {
        StatusCode::OK => Told::read(&text).context("answers, but not as a node does"),
        StatusCode::NOT_FOUND => bail!("tries no ports: it is too old, or was told not to (`reach.serve`)"),
        StatusCode::MISDIRECTED_REQUEST => bail!("knows no {suffix}: it belongs to another network"),
        StatusCode::FORBIDDEN => bail!("refuses: {words}"),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => bail!("is busy: {words}"),
        other => bail!("answers {other}: {words}"),
    }
}

/// Connects from the address that is to be tried, where this host has it.
async fn open(config: &Config, me: Option<IpAddr>, helper: SocketAddr) -> io::Result<Connection> {
    let listen = Some(config.dsht.node.listen.ip()).filter(|ip| !ip.is_unspecified());
    match listen.or(me).filter(|ip| ip.is_ipv4() == helper.is_ipv4()) {
        Some(source) => match Connection::open_from(source, helper).await {
            // Behind address translation.
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Connection::open(helper).await,
            opened => opened,
        },
        None => Connection::open(helper).await,
    }
}

/// The first line of what a stranger has written, as far as it can be printed.
fn words(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|char| !char.is_control()).take(MAX_WORDS).collect()
}

/// What it means that this host speaks from `seen`.
fn seen_as(config: &Config, me: Option<IpAddr>, helper: SocketAddr, seen: IpAddr) -> Finding {
    let what = "from outside";
    let found = format!("{helper} sees this host as {seen}");
    match me {
        Some(me) if me.to_canonical() == seen => Finding::good(what, found),
        Some(me) if config.dsht.node.address.is_none() && is_private(me) && !is_private(seen) => {
            let advice = format!("set `dsht.address = \"{seen}\"`, and forward the ports to this host");
            Finding::bad(what, format!("{found}, and a node here would tell others {me}"), advice)
        }
        Some(me) => {
            let advice = format!(
                "set `dsht.address = \"{seen}\"`, unless {me} leads to this host as well; what follows is of {seen}"
            );
            Finding::doubtful(what, format!("{found}, and a node here would tell others {me}"), advice)
        }
        None => Finding::doubtful(what, found, format!("set `dsht.address = \"{seen}\"`")),
    }
}

/// What it means that `found` was found at a port. `has_come`: whether what was sent has come in here, if this process listens there; else
/// it is somebody else who does, the node that `runs` perhaps.
fn judged(
    service: Service,
    port: u16,
    runs: bool,
    has_come: Option<bool>,
    found: Found,
    helper: IpAddr,
) -> Option<Finding> {
    let what = match service {
        Service::Index => "index, outside",
        Service::DnsUdp | Service::DnsTcp => "nameserver, outside",
        Service::Http => "cache, outside",
        Service::Https => "cache, TLS, outside",
    };
    let place = format!("{} {port}", service.protocol());
    let let_in = format!(
        "let {place} in at the firewalls of this host and its network (a cloud's security group); behind address translation, forward it here"
    );
    let forward =
        format!("forward {place} to this host, or set `dsht.address` to an address that is this host's alone");
    let bad = |found: &str, advice: &str| Some(Finding::bad(what, format!("{place} {found}"), advice));
    match (has_come, found) {
        (Some(true), Found::Answered) => Some(Finding::good(what, format!("{place} is reached from {helper}"))),
        (Some(true), _) => {
            bad(&format!("is reached from {helper}, which gets no answer"), &format!("let answers from {place} out"))
        }
        (None, Found::Answered) => {
            Some(Finding::good(what, format!("{place} is reached from {helper}; a node answers there")))
        }
        // Somebody else has the port, which was said before.
        (None, _) if !runs => None,
        (Some(false), Found::Answered) => bad("leads to another node", &forward),
        (_, Found::Other) => bad("leads to something that is no node", &forward),
        (_, Found::Silent) => bad(&format!("is not reached from {helper}: nothing comes back"), &let_in),
        (_, Found::Refused) => bad(&format!("is not reached from {helper}: it is refused on the way"), &let_in),
        (_, Found::Unreachable) => bad(&format!("is not reached from {helper}: a firewall or router says so"), &let_in),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_found_is_understood_by_who_listens() {
        use Found::{Answered, Other, Refused, Silent};
        let judge = |runs, has_come, found| {
            let finding = judged(Service::Http, 80, runs, has_come, found, ip("9.9.9.9"));
            finding.map(|finding| (finding.verdict, finding.found))
        };
        let good = |found: &str| Some((Verdict::Good, found.to_owned()));
        let bad = |found: &str| Some((Verdict::Bad, found.to_owned()));
        assert_eq!(judge(false, Some(true), Answered), good("tcp 80 is reached from 9.9.9.9"));
        assert_eq!(judge(false, Some(true), Silent), bad("tcp 80 is reached from 9.9.9.9, which gets no answer"));
        // The answer was another's.
        assert_eq!(judge(false, Some(false), Answered), bad("tcp 80 leads to another node"));
        assert_eq!(judge(false, Some(false), Other), bad("tcp 80 leads to something that is no node"));
        assert_eq!(judge(false, Some(false), Silent), bad("tcp 80 is not reached from 9.9.9.9: nothing comes back"));
        assert_eq!(judge(true, None, Answered), good("tcp 80 is reached from 9.9.9.9; a node answers there"));
        assert_eq!(judge(true, None, Refused), bad("tcp 80 is not reached from 9.9.9.9: it is refused on the way"));
        assert_eq!(judge(false, None, Other), None);
    }

    #[test]
    fn an_address_that_others_do_not_see_is_named() {
        let mut config = Config::default();
        let mut verdict = |address: Option<&str>, me: &str, seen: &str| {
            config.dsht.node.address = address.map(ip);
            seen_as(&config, Some(ip(me)), "9.9.9.9:80".parse().unwrap(), ip(seen)).verdict
        };
        assert_eq!(verdict(None, "8.8.8.8", "8.8.8.8"), Verdict::Good);
        assert_eq!(verdict(None, "10.0.0.1", "8.8.8.8"), Verdict::Bad);
        assert_eq!(verdict(Some("8.8.4.4"), "8.8.4.4", "8.8.8.8"), Verdict::Doubtful);
    }

    #[test]
    fn each_node_is_asked_once_and_this_host_never() {
        let nodes = ["9.9.9.9:4160", "9.9.9.9:4170", "8.8.8.8:4160"].map(|node| node.parse().unwrap());
        assert_eq!(candidates(&nodes, Some(ip("8.8.8.8"))), ["9.9.9.9:80".parse().unwrap()]);
    }

    #[test]
    fn a_stranger_cannot_write_more_than_a_line_nor_move_the_cursor() {
        assert_eq!(words("\u{1b}[2Jno\nBAD"), "[2Jno");
        assert_eq!(words(&"é".repeat(1000)).chars().count(), MAX_WORDS);
    }
}
