//! The servers: whether they are installed, their configurations, and how they are started.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use coral_rig::find;
use coral_rig::process::Server;

use crate::load;
use crate::responders;
use crate::traffic::{PLACES, PREFIXES, Traffic, ZONE, known_prefixes};

/// In the namespace all ports are free.
const FIRST_PORT: u16 = 5301;

/// Those that can be compared. Ours is the first, and each round begins with it.
pub(crate) const NAMES: [&str; 6] = ["coral", "gdnsd", "knot", "nsd", "pdns-geoip", "pdns-bind"];

/// What a server that has been started is known by.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) log: PathBuf,
    pub(crate) server: Server,
}

/// Starts those of `names` that are installed, with all their files in `folder`.
pub(crate) fn start(names: &[&'static str], only: &[String], folder: &Path) -> anyhow::Result<Vec<Started>> {
    for name in only {
        ensure!(names.contains(&name.as_str()), "unknown: {name}; there are {}", names.join(", "));
    }
    let mut started = Vec::new();
    for (&name, port) in names.iter().zip(FIRST_PORT..) {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let folder = folder.join(name);
        fs::create_dir(&folder)?;
        let Some((program, arguments)) = prepare(name, &folder, port)? else {
            eprintln!("{name} is not installed, and left out");
            continue;
        };
        let log = folder.join("log");
        let server = Server::start(&program, &arguments, &log).with_context(|| format!("cannot start {name}"))?;
        started.push(Started { name, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), log, server });
    }
    Ok(started)
}

/// Writes a server's files. Its program and arguments, unless it is not installed.
fn prepare(name: &'static str, folder: &Path, port: u16) -> anyhow::Result<Option<(PathBuf, Vec<String>)>> {
    let dir = folder.to_str().context("a path that is no text")?;
    let file = |name: &str, text: String| fs::write(folder.join(name), text);
    let program = match name {
        "gdnsd" => "gdnsd",
        "knot" => "knotd",
        "nsd" => "nsd",
        "pdns-geoip" | "pdns-bind" => "pdns_server",
        _ => {
            debug_assert!(name == "coral" || responders::NAMES.contains(&name));
            let arguments = ["--child", name, &port.to_string()].map(str::to_owned).to_vec();
            return Ok(Some((std::env::current_exe()?, arguments)));
        }
    };
    let Some(program) = find(program) else {
        return Ok(None);
    };
    let arguments: &[&str] = match name {
        "gdnsd" => {
            fs::create_dir_all(folder.join("zones"))?;
            file("config", gdnsd(dir, port))?;
            file(&format!("zones/{ZONE}"), format!("{}* 30 DYNA geoip!places\n", zone_head()))?;
            &["-c", dir, "start"]
        }
        "knot" => {
            file("zone", zone())?;
            file("config", knot(dir, port))?;
            &["-c", &format!("{dir}/config")]
        }
        "nsd" => {
            file("zone", zone())?;
            file("config", nsd(dir, port))?;
            &["-d", "-c", &format!("{dir}/config")]
        }
        "pdns-geoip" => {
            file("zones.yaml", pdns_places())?;
            let backend = format!(
                "launch=geoip\ngeoip-database-files=\ngeoip-zones-file={dir}/zones.yaml\nedns-subnet-processing=yes\n"
            );
            file("pdns.conf", pdns(dir, port) + &backend)?;
            &[&format!("--config-dir={dir}")]
        }
        _ => {
            file("zone", zone())?;
            file("named.conf", format!("zone \"{ZONE}\" {{ type master; file \"{dir}/zone\"; }};\n"))?;
            file("pdns.conf", pdns(dir, port) + &format!("launch=bind\nbind-config={dir}/named.conf\n"))?;
            &[&format!("--config-dir={dir}")]
        }
    };
    Ok(Some((program, arguments.iter().map(|&argument| argument.to_owned()).collect())))
}

fn zone_head() -> String {
    format!(
        "$ORIGIN {ZONE}.\n$TTL 30\n@ SOA ns1.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 30\n@ NS ns1.{ZONE}.\n\
         ns1 A 192.0.2.1\n"
    )
}

fn zone() -> String {
    addresses(0).iter().fold(zone_head(), |zone, ip| format!("{zone}* A {ip}\n"))
}

/// What a client gets of a place.
fn addresses(place: usize) -> [Ipv4Addr; 3] {
    [1, 2, 3].map(|host| Ipv4Addr::new(192, 0, 2, place as u8 * 10 + host))
}

/// Fails unless a server that is told of places answers by them.
pub(crate) fn check_decision(server: &Started, traffic: &mut Traffic) -> anyhow::Result<()> {
    if !["gdnsd", "pdns-geoip"].contains(&server.name) {
        return Ok(());
    }
    for i in (0..PREFIXES).step_by(PREFIXES / 50 + 1) {
        let got = load::ask(traffic, server.address, i)?;
        let place = i % PLACES;
        ensure!(
            got.is_some_and(|ip| addresses(place).contains(&ip)),
            "{} sends prefix {i}, of place {place}, to {got:?}",
            server.name
        );
    }
    Ok(())
}

fn gdnsd(dir: &str, port: u16) -> String {
    let mut nets = String::new();
    for (i, prefix) in known_prefixes().iter().enumerate() {
        let _ = writeln!(nets, "{prefix}/24 => [p{}]", i % PLACES);
    }
    let places = (0..PLACES).map(|place| format!("p{place}")).collect::<Vec<_>>().join(", ");
    let all: String = (0..PLACES)
        .map(|place| format!("p{place} => [{}]\n", addresses(place).map(|ip| ip.to_string()).join(", ")))
        .collect();
    format!(
        "options => {{ listen => [127.0.0.1:{port}], udp_threads => 2, tcp_threads => 1, run_dir => {dir}/run,\n\
         state_dir => {dir}/state, edns_client_subnet => true, max_edns_response => 1232 }}\n\
         plugins => {{ geoip => {{\nmaps => {{ clients => {{ datacenters => [{places}], nets => {{\n{nets}}} }} }}\n\
         resources => {{ places => {{ map => clients, dcmap => {{\n{all}}} }} }} }} }}\n"
    )
}

fn knot(dir: &str, port: u16) -> String {
    format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: {dir}\n  udp-workers: 2\n  tcp-workers: 1\n  \
         background-workers: 1\ndatabase:\n  storage: {dir}/db\nzone:\n  - domain: {ZONE}\n    file: {dir}/zone\n    \
         zonefile-load: whole\n"
    )
}

/// Without its limit of 200 answers a second for a client network, which Debian's build has on: all clients are in one here.
fn nsd(dir: &str, port: u16) -> String {
    format!(
        "server:\n  ip-address: 127.0.0.1@{port}\n  server-count: 2\n  reuseport: yes\n  username: \"\"\n  \
         database: \"\"\n  zonesdir: {dir}\n  pidfile: {dir}/pid\n  xfrdfile: {dir}/xfrd\n  xfrdir: {dir}\n  \
         zonelistfile: {dir}/zonelist\n  rrl-ratelimit: 0\n  \
         rrl-whitelist-ratelimit: 0\nremote-control:\n  control-enable: no\nzone:\n  name: {ZONE}\n  zonefile: zone\n"
    )
}

fn pdns(dir: &str, port: u16) -> String {
    format!(
        "daemon=no\nguardian=no\ndisable-syslog=yes\nlocal-address=127.0.0.1\nlocal-port={port}\nreceiver-threads=2\n\
         reuseport=yes\nsocket-dir={dir}\nwrite-pid=no\nsecurity-poll-suffix=\n"
    )
}

fn pdns_places() -> String {
    let mut text = format!(
        "domains:\n- domain: {ZONE}\n  ttl: 30\n  records:\n    {ZONE}:\n      - soa: ns1.{ZONE}. hostmaster.{ZONE}. 1 3600 \
         600 86400 30\n      - ns: ns1.{ZONE}.\n"
    );
    for place in 0..PLACES {
        let _ = writeln!(text, "    p{place}.pool.{ZONE}:");
        for ip in addresses(place) {
            let _ = writeln!(text, "      - a: {ip}");
        }
    }
    let _ = writeln!(text, "  services:\n    '*.{ZONE}':\n      default: 'p0.pool.{ZONE}'");
    for (i, prefix) in known_prefixes().iter().enumerate() {
        let _ = writeln!(text, "      '{prefix}/24': 'p{}.pool.{ZONE}'", i % PLACES);
    }
    text
}
