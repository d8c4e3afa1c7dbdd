//! The testbed as a compose file, for docker-compose 1.29 and Compose v2 alike.
//!
//! Each site is two services: a *pause* container, which does nothing but hold the network namespace, and the container that
//! does the site's work in it. So a node that is killed and started again comes back at its address. Nobody is on any of
//! Docker's networks: the router moves a device into each pause container.
//!
//! The file is JSON, which is YAML too.

use std::path::Path;

use anyhow::bail;
use serde_json::{Value as Json, json};

use crate::command;
use crate::hosts::{FILES, Host};
use crate::images::Images;
use crate::map::Kind;

/// The name of the project, and the beginning of its containers' names.
pub const PROJECT: &str = "coral-testbed";

/// The label that all containers have.
pub const LABEL: &str = "coral-testbed";

/// The container that does the work of a site.
pub fn container(site: &str) -> String {
    format!("{PROJECT}-{site}")
}

/// The container that holds the network namespace of a site.
pub fn pause_container(site: &str) -> String {
    container(&pause(site))
}

/// The service that holds the network namespace of a site.
pub fn pause(site: &str) -> String {
    format!("pause-{site}")
}

/// The compose file for `hosts`, whose files are in `directory/NAME` each.
pub fn file(hosts: &[Host<'_>], images: &Images, directory: &Path) -> Json {
    let mut services = serde_json::Map::new();
    for host in hosts {
        services.insert(pause(&host.site.name), pause_service(host, images));
        services.insert(host.site.name.clone(), service(host, &directory.join(&host.site.name)));
    }
    json!({ "services": services })
}

fn pause_service(host: &Host<'_>, images: &Images) -> Json {
    let name = &host.site.name;
    json!({
        "image": images.tools,
        "container_name": pause_container(name),
        "hostname": name,
        "command": ["sleep", "infinity"],
        "network_mode": "none",
        // Nodes run as an ordinary user without capabilities: low ports and pings are open to all.
        "sysctls": {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
        },
        "cap_drop": ["ALL"],
        // The first process of a container heeds no other signal without a handler.
        "stop_signal": "SIGKILL",
        "read_only": true,
        "labels": { LABEL: "pause" },
        "logging": logging(),
    })
}

fn service(host: &Host<'_>, directory: &Path) -> Json {
    let name = &host.site.name;
    let mount = |from: &str, to: &str, how: &str| format!("{}:{to}:{how}", directory.join(from).display());
    let mut volumes = vec![
        mount("files", FILES, "ro"),
        mount("files/hosts", "/etc/hosts", "ro"),
        mount("files/resolv.conf", "/etc/resolv.conf", "ro"),
    ];
    volumes.extend(host.directories.iter().map(|(name, to, _)| mount(name, to, "rw")));
    let mut service = json!({
        "image": host.image,
        "container_name": container(name),
        "command": host.command,
        "network_mode": format!("service:{}", pause(name)),
        "volumes": volumes,
        "labels": { LABEL: host.site.kind.to_string() },
        "mem_limit": "256m",
        "cpus": 1.0,
        "logging": logging(),
    });
    if host.site.kind == Kind::Node {
        service["read_only"] = json!(true);
        service["cap_drop"] = json!(["ALL"]);
        service["security_opt"] = json!(["no-new-privileges:true"]);
        // The image's own check, less often: each one is a process more, and `up` and `status` ask for themselves.
        service["healthcheck"] = json!({ "test": ["CMD", "/coral", "health"], "interval": "30s", "timeout": "10s" });
        // As long as a node may take for its goodbyes.
        service["stop_grace_period"] = json!("45s");
    } else {
        service["tmpfs"] = json!(["/run", "/tmp"]);
    }
    service
}

/// Logs are kept by Docker, and stay small.
fn logging() -> Json {
    json!({ "driver": "json-file", "options": { "max-size": "5m", "max-file": "2" } })
}

/// The compose program of this machine.
#[derive(Debug, Clone)]
pub struct Compose {
    /// The program, and its first argument if it is Docker's own.
    program: Vec<&'static str>,
}

impl Compose {
    /// Finds it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn find() -> anyhow::Result<Self> {
        for program in [vec!["docker", "compose"], vec!["docker-compose"]] {
            let version = program[1..].iter().copied().chain(["version"]);
            if command::run(program[0], version).await.is_ok() {
                return Ok(Self { program });
            }
        }
        bail!("there is no docker compose; install one (on Debian: apt-get install docker-compose)")
    }

    /// Runs it on this project, whose file is `file`.
    ///
    /// # Errors
    ///
    /// If it fails: with the last lines that it said.
    pub async fn run(&self, file: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let mut compose = command::command(self.program[0], &self.program[1..]);
        compose.arg("--project-name").arg(PROJECT).arg("--file").arg(file).args(arguments);
        command::output(compose).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::hosts;
    use crate::map::Map;

    #[test]
    fn each_site_has_a_namespace_and_somebody_in_it() {
        let map = Map::four_regions();
        let images = Images { node: "node".to_owned(), tools: "tools".to_owned(), resolvers: "resolvers".to_owned() };
        let file = file(&hosts(&map, &images), &images, Path::new("/state"));
        assert_eq!(file["services"].as_object().unwrap().len(), 2 * map.sites().len());
        for site in map.sites() {
            let service = &file["services"][&site.name];
            assert_eq!(service["network_mode"], format!("service:pause-{}", site.name));
            assert_eq!(file["services"][format!("pause-{}", site.name)]["network_mode"], "none");
        }
        let node = &file["services"]["dallas-1"];
        assert_eq!((&node["read_only"], &node["cap_drop"][0]), (&json!(true), &json!("ALL")));
        assert!(node["volumes"].as_array().unwrap().contains(&json!("/state/dallas-1/state:/var/lib/coral:rw")));
    }
}
