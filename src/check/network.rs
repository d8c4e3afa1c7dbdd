//! What the network says: a node that runs here already, seeds that answer, a zone that is delegated.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::driver::Driver;
use coral_dsht::{Peer, Services};
use hickory_proto::rr::RData;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Finding;
use crate::config::Config;
use crate::demo::names;
use crate::http;
use crate::node::address;

/// How long seeds may take to answer.
const JOINING: Duration = Duration::from_secs(5);
/// How often it is looked whether one has.
const LOOK: Duration = Duration::from_millis(50);
/// How long a resolver may take.
const RESOLVING: Duration = Duration::from_secs(10);

/// Whether a node with this admin address is up.
pub(super) async fn runs_here(config: &Config) -> bool {
    let Some(admin) = config.admin.listen.filter(|addr| addr.port() != 0) else {
        return false;
    };
    matches!(timeout(JOINING, http::get_text(admin, "/health")).await, Ok(Ok((_, text))) if text.contains("healthy"))
}

/// What came of the attempt to join.
#[derive(Debug)]
pub(super) struct Met {
    /// The address at which others would reach this host.
    pub(super) address: Option<IpAddr>,
    /// Where nodes have their index: the seeds first, then those with a cache that were met through them.
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) findings: Vec<Finding>,
}

/// Whether a seed answers, and the address at which others would reach this host.
pub(super) async fn seeds(config: &Config) -> Met {
    let mut findings = Vec::new();
    let named = &config.dsht.node.seeds;
    let seeds = match address::look_up(named).await {
        Ok(seeds) => seeds,
        Err(e) => {
            findings.push(Finding::bad("seeds", format!("{e:#}"), "ask the network's operators for nodes to join by"));
            Vec::new()
        }
    };
    let address = match address::advertised(&config.dsht.node, &seeds) {
        Ok(ip) if address::is_private(ip) && !seeds.iter().any(|seed| address::is_private(seed.ip())) => {
            findings.push(Finding::doubtful(
                "address",
                format!("{ip}, which the public Internet cannot reach"),
                "behind address translation, give the public address as `dsht.address` and forward the ports",
            ));
            Some(ip)
        }
        Ok(ip) => {
            findings.push(Finding::good("address", ip.to_string()));
            Some(ip)
        }
        Err(e) => {
            findings.push(Finding::bad("address", format!("{e:#}"), "set `dsht.address`"));
            None
        }
    };
    if named.is_empty() {
        findings.push(Finding::good("seeds", "none: the first node of a network"));
    } else if let (Some(ip), false) = (address, seeds.is_empty()) {
        let (finding, mut met) = joined(config, ip, seeds.clone()).await;
        findings.push(finding);
        let mut nodes = seeds;
        nodes.append(&mut met);
        return Met { address, nodes, findings };
    }
    Met { address, nodes: seeds, findings }
}

/// Joins for a moment, from another port than the node's own; which caches were met.
async fn joined(config: &Config, ip: IpAddr, seeds: Vec<SocketAddr>) -> (Finding, Vec<SocketAddr>) {
    let what = "seeds";
    let count = seeds.len();
    let met = async {
        let socket = UdpSocket::bind((config.dsht.node.listen.ip(), 0)).await?;
        let me = Peer::new(SocketAddr::new(ip, socket.local_addr()?.port()), Services::NONE);
        let (dsht, driver) = Driver::new(socket, me, Arc::new(config.dsht.part.clone()))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(driver.run(seeds, async { drop(stopped.await) }));
        let met = timeout(JOINING, async {
            loop {
                match dsht.snapshot().await {
                    Ok(snapshot) if snapshot.neighbours.is_empty() => tokio::time::sleep(LOOK).await,
                    Ok(snapshot) => break snapshot.neighbours,
                    Err(_) => break Vec::new(),
                }
            }
        });
        let met = met.await.unwrap_or_default();
        drop(stop);
        let _ = running.await;
        anyhow::Ok(met)
    };
    let advice = "look whether their port is open over UDP (4160 mostly), from here and there, and whether `dsht.network_key` is theirs";
    match met.await {
        Ok(met) if met.is_empty() => {
            (Finding::bad(what, format!("none of {count} answers within {JOINING:?}"), advice), Vec::new())
        }
        Ok(met) => {
            let caches =
                met.iter().map(|neighbour| neighbour.peer).filter(|peer| peer.services.contains(coral_dns::PROXY));
            (Finding::good(what, format!("{} nodes answer", met.len())), caches.map(|peer| peer.addr).collect())
        }
        Err(e) => (Finding::bad(what, format!("{e:#}"), advice), Vec::new()),
    }
}

/// Whether the zone above sends resolvers to nameservers that answer.
pub(super) async fn delegation(config: &Config, address: Option<IpAddr>, resolver: Option<SocketAddr>) -> Vec<Finding> {
    let Some(listen) = config.dns.node.listen else {
        return Vec::new();
    };
    let what = "delegation";
    let asker = match stub(resolver) {
        Ok(asker) => asker,
        Err(e) => return vec![Finding::doubtful(what, format!("{e:#}"), "give a resolver with --resolver")],
    };
    let mut findings = Vec::new();
    for suffix in &config.suffixes {
        let zone = suffix.to_string();
        let asked = timeout(RESOLVING, nameservers(&asker, &zone)).await;
        let servers = match asked {
            Ok(Ok(servers)) => servers,
            Ok(Err(e)) => {
                let advice = "put NS and glue records into the zone above: deploy/README.md, \"Point a domain at it\"";
                findings.push(Finding::bad(what, format!("{zone}: {e:#}"), advice));
                continue;
            }
            Err(_) => {
                findings.push(Finding::doubtful(
                    what,
                    format!("{zone}: no resolver answers"),
                    "look at /etc/resolv.conf",
                ));
                continue;
            }
        };
        let mut dead = Vec::new();
        for ip in &servers {
            let answer = names::ask(SocketAddr::new(*ip, listen.port()), &zone).await;
            if !answer.is_ok_and(|answer| answer.authoritative) {
                dead.push(ip.to_string());
            }
        }
        let all: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let is_named = address.is_some_and(|ip| servers.contains(&ip));
        findings.push(if dead.len() == servers.len() {
            let found = format!("{zone}: none of {} answers for the zone", all.join(", "));
            Finding::bad(what, found, "start a node there, or name others in the zone above")
        } else if !dead.is_empty() {
            let found = format!("{zone}: {} of {} answers for the zone not", dead.join(", "), all.join(", "));
            Finding::doubtful(what, found, "resolvers lose time with each dead one: name others in the zone above")
        } else if servers.len() == 1 {
            let found = format!("{zone}: {} alone", all.join(", "));
            Finding::doubtful(what, found, "name a second node, on another network: with none left no name resolves")
        } else {
            let this = if is_named { "this host is one" } else { "this host is none, and need not be" };
            Finding::good(what, format!("{zone}: {}; {this}", all.join(", ")))
        });
    }
    findings
}

/// The system's resolver, or the one at `addr`.
fn stub(addr: Option<SocketAddr>) -> anyhow::Result<TokioResolver> {
    let Some(addr) = addr else {
        return Ok(TokioResolver::builder_tokio()?.build()?);
    };
    let mut server = NameServerConfig::udp_and_tcp(addr.ip());
    for connection in &mut server.connections {
        connection.port = addr.port();
    }
    let config = ResolverConfig::from_name_servers(vec![server]);
    Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()?)
}

/// The addresses of the nameservers of `zone`, in order.
async fn nameservers(resolver: &TokioResolver, zone: &str) -> anyhow::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    let lookup = match resolver.ns_lookup(format!("{zone}.")).await {
        Err(e) if e.is_no_records_found() || e.is_nx_domain() => anyhow::bail!("it is not delegated"),
        outcome => outcome?,
    };
    for record in lookup.answers() {
        if let RData::NS(name) = &record.data {
            found.extend(resolver.lookup_ip(name.0.clone()).await?.iter());
        }
    }
    anyhow::ensure!(!found.is_empty(), "it has no nameservers");
    found.sort();
    found.dedup();
    Ok(found)
}
