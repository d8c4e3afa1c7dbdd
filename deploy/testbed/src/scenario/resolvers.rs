//! Whether the resolvers of the real world find nodes, and curl then finds pages there.
//!
//! At each client's site all four run at the same time, each at a loopback address of its own and with an empty cache. What they
//! say is what libc hears, and so what curl connects to.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use comfy_table::{Table, presets};
use coral::demo::site;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::command;
use crate::compose::{LABEL, container, pause_container};
use crate::dns::{CORALIZED, ROOT_HINTS, configuration, resolv_conf, root_hints};
use crate::hosts::{FILES, coralized};
use crate::images;
use crate::map::{Map, Resolver, Site};

const ALL: [Resolver; 4] = [Resolver::Unbound, Resolver::Bind, Resolver::KnotResolver, Resolver::PdnsRecursor];

/// How long a resolver may take to start. It is asked for a name that it knows without asking others.
const START: Duration = Duration::from_secs(20);

/// How long curl may take for one page: the origin's line is a thin one.
const FETCH_SECONDS: u32 = 30;

/// What one resolver came to at one site.
#[derive(Debug)]
struct Outcome {
    site: String,
    resolver: Resolver,
    fetched: anyhow::Result<Fetched>,
}

/// What curl saw.
#[derive(Debug)]
struct Fetched {
    addresses: Vec<Ipv4Addr>,
    /// Where the first page came from.
    node: IpAddr,
    /// The time for the first name.
    lookup: Duration,
    /// The time for all pages, lookups included.
    all: Duration,
    pages: usize,
}

/// Runs all resolvers at all clients' sites. `directory` is for their files.
///
/// `Ok(false)`: one of them failed; the table says which and why.
///
/// # Errors
///
/// If the containers cannot be run at all.
pub async fn run(map: &Map, directory: &Path) -> anyhow::Result<bool> {
    ensure!(map.clients().next().is_some(), "the map has no clients, and so nobody to ask");
    let image = images::resolvers().await?;
    let mut running = JoinSet::new();
    for (site, _) in map.clients() {
        for (number, resolver) in (1..).zip(ALL) {
            let client = Client::write(map, site, resolver, number, directory)?;
            let image = image.clone();
            running.spawn(async move {
                let fetched = client.fetch(&image).await;
                Outcome { site: client.site, resolver, fetched }
            });
        }
    }
    let mut outcomes = running.join_all().await;
    outcomes.sort_by_key(|outcome| (outcome.site.clone(), outcome.resolver.to_string()));
    println!("{}", table(map, &outcomes));
    let failed = outcomes.iter().filter(|outcome| outcome.fetched.is_err()).count();
    println!(
        "{} of {} resolved {CORALIZED} and fetched all pages through the answer",
        outcomes.len() - failed,
        outcomes.len()
    );
    Ok(failed == 0)
}

/// A resolver, and curl beside it.
#[derive(Debug)]
struct Client {
    site: String,
    container: String,
    listen: Ipv4Addr,
    command: Vec<String>,
    /// Options of `docker run` for its files.
    mounts: Vec<String>,
}

impl Client {
    /// Writes the files of a resolver at a site. `number` is another one for each resolver of the site.
    fn write(map: &Map, site: &Site, resolver: Resolver, number: u8, directory: &Path) -> anyhow::Result<Self> {
        // The site's own resolver has 127.0.0.1.
        let listen = Ipv4Addr::new(127, 0, 1, number);
        let run = configuration(resolver, &[listen], site.ipv4, FILES);
        let name = format!("{}-try-{resolver}", site.name);
        let directory = directory.join(&name);
        let write = || {
            std::fs::create_dir_all(&directory)?;
            std::fs::write(directory.join(run.file), &run.text)?;
            std::fs::write(directory.join(ROOT_HINTS), root_hints(map))?;
            std::fs::write(directory.join("resolv.conf"), resolv_conf(listen))
        };
        write().with_context(|| format!("cannot write into {}", directory.display()))?;
        let mounts = vec![
            format!("{}:{FILES}:ro", directory.display()),
            format!("{}:/etc/resolv.conf:ro", directory.join("resolv.conf").display()),
        ];
        Ok(Self { site: site.name.clone(), container: container(&name), listen, command: run.command, mounts })
    }

    /// Runs the resolver, asks it, fetches the pages, and takes the resolver down again.
    async fn fetch(&self, image: &str) -> anyhow::Result<Fetched> {
        let mut run = command::command("docker", ["run", "--detach", "--rm", "--label", LABEL, "--tmpfs", "/run"]);
        run.args(["--name", &self.container, "--network", &format!("container:{}", pause_container(&self.site))]);
        for mount in &self.mounts {
            run.args(["--volume", mount]);
        }
        // BIND listens at addresses that an interface has, and all of 127.0.0.0/8 without having it is not enough.
        let script = format!("ip address replace {}/32 dev lo && exec {}", self.listen, self.command.join(" "));
        run.args(["--cap-add", "NET_ADMIN", image, "sh", "-c", &script]);
        command::output(run).await?;
        let fetched = self.ask().await;
        // `down` removes what stays.
        drop(command::run("docker", ["rm", "--force", &self.container]).await);
        fetched
    }

    async fn ask(&self) -> anyhow::Result<Fetched> {
        self.started().await?;
        let begun = Instant::now();
        let answer = self.exec(&format!("dig +time=10 +tries=1 +noall +comments +answer A {CORALIZED}")).await?;
        let lookup = begun.elapsed();
        let addresses = addresses(&answer);
        let status = answer.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("no answer");
        ensure!(!addresses.is_empty(), "it has no address for {CORALIZED}: {status}");
        let (mut node, mut pages) = (None, 0);
        for object in site::objects().into_iter().filter(|object| !object.is_large()) {
            let url = coralized(object.path);
            let from = self.fetch_page(&url, &object.digest).await.with_context(|| url.clone())?;
            node.get_or_insert(from);
            pages += 1;
        }
        let node = node.context("the site has no pages")?;
        Ok(Fetched { addresses, node, lookup, all: begun.elapsed(), pages })
    }

    /// Waits until the resolver answers at all.
    async fn started(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let asked = self.exec(&format!("dig +time=1 +tries=1 @{} localhost A", self.listen)).await;
            match asked {
                Ok(_) => return Ok(()),
                Err(e) if begun.elapsed() > START => {
                    let log =
                        command::run("docker", ["logs", "--tail", "3", &self.container]).await.unwrap_or_default();
                    return Err(e.context(format!("it has not started within {START:?}: {}", log.trim())));
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Fetches a page whose bytes have this digest, and says from where.
    async fn fetch_page(&self, url: &str, digest: &[u8]) -> anyhow::Result<IpAddr> {
        let wanted: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = "%{stderr}%{http_code} %{remote_ip}\\n";
        let script = format!("(curl -sS --max-time {FETCH_SECONDS} -w '{shown}' {url} | sha256sum) 2>&1");
        let said = self.exec(&script).await?;
        let mut words = said.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("200"), Some(ip), Some(hash)) if hash == wanted => {
                ip.parse().with_context(|| format!("curl says {ip}"))
            }
            (Some("200"), ..) => bail!("other bytes than the origin's came"),
            _ => bail!("{}", said.trim()),
        }
    }

    async fn exec(&self, script: &str) -> anyhow::Result<String> {
        command::run("docker", ["exec", &self.container, "sh", "-c", script]).await
    }
}

/// The addresses in what dig prints.
fn addresses(answer: &str) -> Vec<Ipv4Addr> {
    let records = answer.lines().filter(|line| !line.starts_with(';'));
    let of_record = |line: &str| {
        let mut words = line.split_whitespace().skip(3);
        if words.next() == Some("A") { words.next()?.parse().ok() } else { None }
    };
    records.filter_map(of_record).collect()
}

fn table(map: &Map, outcomes: &[Outcome]) -> Table {
    let name = |ip: IpAddr| map.site_at(ip).map_or_else(|| ip.to_string(), |site| site.name.clone());
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["client", "resolver", "is sent to", "fetched from", "RTT", "lookup", "all pages"]);
    for outcome in outcomes {
        let mut row = vec![outcome.site.clone(), outcome.resolver.to_string()];
        match &outcome.fetched {
            Ok(fetched) => {
                let names: Vec<String> = fetched.addresses.iter().map(|ip| name((*ip).into())).collect();
                let rtt = map.site(&outcome.site).zip(map.site_at(fetched.node)).map(|(a, b)| map.link(a, b).rtt());
                row.extend([
                    names.join(" "),
                    name(fetched.node),
                    rtt.map_or_else(|| "–".to_owned(), |rtt| format!("{:.0} ms", rtt.as_secs_f64() * 1e3)),
                    format!("{:.0} ms", fetched.lookup.as_secs_f64() * 1e3),
                    format!("{} in {:.1} s", fetched.pages, fetched.all.as_secs_f64()),
                ]);
            }
            Err(e) => row.push(format!("failed: {}", format!("{e:#}").lines().next().unwrap_or_default())),
        }
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_answer() {
        let answer = "\
;; Got answer:
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 17
www.x.com.nyud.net.\t30\tIN\tA\t198.18.1.1
www.x.com.nyud.net.\t30\tIN\tA\t198.18.6.1
www.x.com.nyud.net.\t30\tIN\tTXT\t\"198.18.7.1\"
";
        assert_eq!(addresses(answer), ["198.18.1.1", "198.18.6.1"].map(|ip| ip.parse::<Ipv4Addr>().unwrap()));
        assert!(addresses("").is_empty());
    }
}
