//! What the host gives: ports, the right to ping, files, limits and a clock.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use bytesize::ByteSize;
use coral_dns::dnssec::key::Key;
use coral_proxy::url::DenyList;
use nix::sys::statvfs::statvfs;
use socket2::{Domain, Protocol, Socket, Type};

use super::Finding;
use crate::config::{AccessFormat, Config};
use crate::node::advice;

/// Descriptors that a node needs besides those of its connections.
const OWN_DESCRIPTORS: u64 = 256;

/// Whether every address can be bound. `runs` says that a node of this configuration is up already, and has them.
pub(super) fn ports(config: &Config, runs: bool) -> Vec<Finding> {
    let tcp: fn(SocketAddr) -> io::Result<()> = |addr| TcpListener::bind(addr).map(drop);
    let udp: fn(SocketAddr) -> io::Result<()> = |addr| UdpSocket::bind(addr).map(drop);
    let proxy = &config.proxy;
    let over_tls = proxy.node.tls_listen.filter(|_| !proxy.part.certificates.is_empty());
    let wanted = [
        ("index", "udp", Some(config.dsht.node.listen), udp, "dsht.listen"),
        ("nameserver", "udp", config.dns.node.listen, udp, "dns.listen"),
        ("nameserver", "tcp", config.dns.node.listen, tcp, "dns.listen"),
        ("cache", "tcp", proxy.node.listen, tcp, "proxy.listen"),
        ("cache, TLS", "tcp", over_tls.filter(|_| proxy.node.listen.is_some()), tcp, "proxy.tls_listen"),
        ("admin address", "tcp", config.admin.listen, tcp, "admin.listen"),
    ];
    let mut findings = Vec::new();
    for (what, protocol, addr, bind, key) in wanted {
        let Some(addr) = addr else {
            continue;
        };
        let place = format!("{protocol} {addr}");
        findings.push(match bind(addr) {
            Ok(()) if runs => Finding::doubtful(
                what,
                format!("{place} is free, though a node runs here"),
                "it was started with another configuration",
            ),
            Ok(()) => Finding::good(what, format!("{place} is free")),
            Err(e) if runs && e.kind() == io::ErrorKind::AddrInUse => {
                Finding::good(what, format!("{place} is in use, by the node that runs here"))
            }
            Err(e) => Finding::bad(what, format!("{place}: {e}"), advice(&e, &format!("`{key}`"))),
        });
    }
    findings
}

/// Whether clients can be measured by ICMP echo.
pub(super) fn ping(config: &Config) -> Option<Finding> {
    if config.dns.node.listen.is_none() || config.dns.part.probe.is_none() {
        return None;
    }
    let what = "ping";
    let may = |kind| Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4)).is_ok();
    Some(if may(Type::DGRAM) {
        Finding::good(what, "clients can be measured, without privileges")
    } else if may(Type::RAW) {
        Finding::good(what, "clients can be measured, by CAP_NET_RAW")
    } else {
        Finding::doubtful(
            what,
            "this user may not ping, so that every client counts as far away",
            "sysctl net.ipv4.ping_group_range=\"0 2147483647\" lets everybody",
        )
    })
}

/// Directories and files that the configuration names.
pub(super) fn files(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let proxy = &config.proxy.part;
    if let Some(path) = &proxy.disk.path {
        findings.push(disk(path, proxy.disk.capacity));
    }
    if let Some(path) = &config.dsht.node.state {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        findings.push(match tempfile::tempfile_in(folder) {
            Ok(_) => Finding::good("peers", format!("{} can be written", path.display())),
            Err(e) => Finding::bad("peers", format!("{}: {e}", path.display()), writable(folder, "dsht.state")),
        });
    }
    let access = &config.log.access;
    if let Some(path) = access.path.as_deref().filter(|_| access.format != AccessFormat::Off) {
        findings.push(log(path));
    }
    for files in &proxy.certificates {
        findings.push(certificate(config, files));
    }
    if let Some(path) = &proxy.deny {
        let read = fs::read_to_string(path).map_err(|e| e.to_string());
        let list = read.and_then(|text| text.parse::<DenyList>().map_err(|e| e.to_string()));
        findings.push(match list {
            Ok(list) => Finding::good("deny list", format!("{}: {} hosts", path.display(), list.hosts())),
            Err(e) => Finding::bad("deny list", format!("{}: {e}", path.display()), "mend the file, or `proxy.deny`"),
        });
    }
    for path in &config.dns.part.dnssec_keys {
        findings.push(match Key::read(path) {
            Ok(_) => Finding::good("DNSSEC", format!("{} is a key", path.display())),
            Err(e) => Finding::bad("DNSSEC", format!("{}: {e}", path.display()), "`coral dnssec-key` makes a key"),
        });
    }
    if let Some(path) = &config.purge.key {
        findings.push(match crate::purge::key::Key::read(path) {
            Ok(_) => Finding::good("purges", format!("{} is a key", path.display())),
            Err(e) => Finding::bad("purges", format!("{e:#}"), "`coral purge-key` makes a key"),
        });
    }
    if let Some(path) = &config.admin.token {
        // A node runs without one.
        findings.push(match crate::admin::token(path) {
            Ok(_) => Finding::good("purges", format!("{} holds a token", path.display())),
            Err(e) => Finding::doubtful("purges", format!("{e:#}"), "nobody can purge here until it is mended"),
        });
    }
    findings
}

/// Whether lines can be added to the file, or it can be made. Nothing is written, and none is made.
fn log(path: &Path) -> Finding {
    let what = "access log";
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let opened = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => tempfile::tempfile_in(folder).map(drop),
        _ => fs::OpenOptions::new().append(true).open(path).map(drop),
    };
    match opened {
        Ok(()) => Finding::good(what, format!("{} can be written", path.display())),
        Err(e) => Finding::bad(what, format!("{}: {e}", path.display()), writable(folder, "log.access.path")),
    }
}

fn writable(folder: &Path, key: &str) -> String {
    format!("let the node's user write to {}, or choose another place with `{key}`", folder.display())
}

/// A directory that is not there yet is judged by the one in which it will be made.
fn disk(path: &Path, capacity: ByteSize) -> Finding {
    let what = "disk";
    let folder = path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    if let Err(e) = tempfile::tempfile_in(folder) {
        return Finding::bad(what, format!("{}: {e}", folder.display()), writable(folder, "proxy.disk.path"));
    }
    let Ok(room) = statvfs(folder) else {
        return Finding::doubtful(what, format!("{}: its room is not known", folder.display()), "look with df");
    };
    let free = ByteSize::b(room.blocks_available() * room.fragment_size());
    let used = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
    let used = used.map(|metadata| metadata.len()).sum::<u64>();
    if free.as_u64() + used < capacity.as_u64() {
        let advice = format!("lower `proxy.disk.capacity` ({capacity}): a full disk serves from memory alone");
        return Finding::doubtful(what, format!("{}: {free} are free", folder.display()), advice);
    }
    Finding::good(what, format!("{}: {free} are free, {capacity} may be used", folder.display()))
}

/// Whether a certificate can be shown, and to whom.
fn certificate(config: &Config, files: &coral_proxy::CertificateFiles) -> Finding {
    let what = "certificate";
    let path = files.chain.display();
    let names: Vec<String> = config.suffixes.iter().map(|suffix| format!("a.s.{}", suffix.proxy)).collect();
    match files.examine(&names) {
        Err(e) => Finding::bad(what, e.to_string(), "mend the file, or `proxy.certificates`"),
        Ok(found) if found.out_of_time.is_some() => {
            let wrong = found.out_of_time.unwrap_or_default();
            Finding::bad(what, format!("{path}: {wrong}"), "renew it; a running node reads it within seconds")
        }
        Ok(found) if found.other_names.is_empty() => Finding::good(what, format!("{path} is for every site")),
        Ok(found) => Finding::doubtful(
            what,
            format!("{path} is not for {}", found.other_names.join(", ").replace("a.s.", "*.s.")),
            "fine for sites of your own; browsers refuse it for all others",
        ),
    }
}

/// Descriptors and memory.
pub(super) fn limits(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let connections = config.proxy.part.client.max_connections.get() as u64;
    // A client's connection, and one to an origin or another node for it.
    let needed = 2 * connections + OWN_DESCRIPTORS;
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    if let Some(open) = open.and_then(|open| open.parse::<u64>().ok()) {
        findings.push(if open >= needed {
            Finding::good("descriptors", format!("{open} may be open"))
        } else {
            let advice = "`LimitNOFILE=65536` in the unit, `ulimit -n 65536` in a shell; or lower `proxy.client.max_connections`";
            Finding::doubtful("descriptors", format!("{open} may be open, {needed} may be wanted"), advice)
        });
    }
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next());
    if let Some(free) = free.and_then(|free| free.parse::<u64>().ok()).map(ByteSize::kib) {
        let wanted = config.proxy.part.memory;
        findings.push(if free.as_u64() > 2 * wanted.as_u64() {
            Finding::good("memory", format!("{free} are free, {wanted} are for objects"))
        } else {
            let advice = "lower `proxy.memory`: buffers of transfers and the index come on top";
            Finding::doubtful("memory", format!("{free} are free, {wanted} are for objects"), advice)
        });
    }
    findings
}

/// Whether something keeps the clock right, as far as this system tells.
pub(super) fn clock(config: &Config) -> Finding {
    let what = "clock";
    let advice = "run an NTP client (systemd-timesyncd, chrony): ages of pages are told by the clock, and signatures are valid by it";
    let told = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let synchronised = match told.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => Path::new("/run/systemd/timesync/synchronized").exists().then_some(true),
    };
    match synchronised {
        Some(true) => Finding::good(what, "it is kept right by NTP"),
        Some(false) if !config.dns.part.dnssec_keys.is_empty() => {
            Finding::bad(what, "nothing keeps it right, and this node signs", advice)
        }
        Some(false) => Finding::doubtful(what, "nothing keeps it right", advice),
        None => Finding::doubtful(what, "this system does not tell whether it is kept right", advice),
    }
}
