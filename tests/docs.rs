//! What the documents say is true: commands exist, files parse, paths and links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{CommandFactory as _, Parser as _};
use coral::cli::Cli;
use coral::config::Config;
use coral::purge::key::Key;
use coral::purge::order;
use coral_dns::appraisal::{Promise, Reply, Request as Appraise};
use coral_dsht::message::{Body, ClusterInfo, Clusters, Header, Message, Request, Response, Token};
use coral_dsht::{Distance, Dsht, Id, Instant, Level, Peer, Services, hint, wire};
use coral_proxy::partial::Place;
use coral_proxy::stamp::Stamp;
use coral_proxy::url::{CoralUrl, Names};
use coral_proxy::version::Version;
use sha2::Digest as _;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents in which people look things up.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "PROTOCOL.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deploy/README.md",
    "deploy/SIZING.md",
];

/// The lines of a document's code blocks.
fn code(text: &str) -> Vec<&str> {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        inside && !fence
    });
    lines.collect()
}

/// A line as words, without a prompt and without what follows `#` or a pipe.
fn words(line: &str) -> Vec<&str> {
    let line = line.trim_start_matches("$ ").split(" #").next().unwrap_or_default();
    line.split(" | ").next().unwrap_or_default().split_whitespace().collect()
}

#[test]
fn every_coral_command_in_the_documents_and_in_help_is_one() {
    let mut lines: Vec<String> = Vec::new();
    for document in DOCUMENTS {
        lines.extend(code(&read(document)).into_iter().map(str::to_owned));
    }
    for command in Cli::command().get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains(&format!("  coral {}", command.get_name())), "{} has no example", command.get_name());
        lines.extend(help.lines().map(|line| line.trim().to_owned()));
    }
    let mut seen = 0;
    for line in &lines {
        let mut words = words(line);
        match words[..] {
            ["cargo", "run", "--release", "--", ..] => drop(words.splice(..4, ["coral"])),
            ["target/release/coral", ..] => words[0] = "coral",
            ["coral", ..] => {}
            _ => continue,
        }
        seen += 1;
        if let Err(e) = Cli::try_parse_from(&words) {
            panic!("`{line}`: {e}");
        }
    }
    assert!(seen >= 12, "only {seen} commands were found: the documents have changed their form");
}

#[test]
fn the_readme_has_the_two_commands_and_ci_runs_them_verbatim() {
    let readme = read("README.md");
    let ci = read(".ci/run");
    for command in ["cargo run --release -- demo", "cargo test"] {
        assert!(code(&readme).contains(&command), "README.md lacks `{command}`");
        assert!(ci.lines().any(|line| line.starts_with(&format!("step {command}"))), ".ci/run lacks `{command}`");
    }
}

#[test]
fn the_example_configuration_is_the_defaults_and_names_every_key() {
    let text = read("deploy/coral.toml");
    let as_json = |config: &Config| serde_json::to_value(config).unwrap();
    let untouched = Config::from_text(&text, "deploy/coral.toml", &[]).unwrap();
    assert_eq!(as_json(&untouched), as_json(&Config::default()));

    // Every option uncommented, but for those that are not set by default.
    let is_option = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
    let uncommented = |with_unset: bool| -> String {
        let lines = text.lines().filter_map(|line| match is_option(line) {
            true if line.ends_with("# not set") && !with_unset => None,
            true => Some(line.trim_start_matches('#')),
            false => Some(line),
        });
        lines.map(|line| format!("{line}\n")).collect()
    };
    let defaults = Config::from_text(&uncommented(false), "deploy/coral.toml, uncommented", &[]).unwrap();
    assert_eq!(as_json(&defaults), as_json(&Config::default()));

    let whole = uncommented(true);
    Config::from_text(&whole, "deploy/coral.toml, with examples", &[]).unwrap();
    let written: toml::Table = whole.parse().unwrap();
    let mut missing = Vec::new();
    missing_keys(&as_json(&Config::default()), &written, "", &mut missing);
    assert_eq!(missing, [""; 0], "deploy/coral.toml does not name these");
}

/// The keys of the defaults that the file has not.
fn missing_keys(defaults: &serde_json::Value, file: &toml::Table, above: &str, missing: &mut Vec<String>) {
    for (key, value) in defaults.as_object().into_iter().flatten() {
        match (value.is_object(), file.get(key)) {
            (_, None) => missing.push(format!("{above}{key}")),
            (true, Some(toml::Value::Table(inner))) => missing_keys(value, inner, &format!("{above}{key}."), missing),
            _ => {}
        }
    }
}

#[test]
fn the_configurations_in_the_documents_are_right() {
    for document in DOCUMENTS {
        let text = read(document);
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            if let Err(e) = Config::from_text(block, document, &[]) {
                panic!("{e:#}");
            }
        }
    }
}

#[test]
fn the_code_map_names_every_source_file_and_no_other() {
    let architecture = read("ARCHITECTURE.md");
    let map = architecture.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let (mut named, mut directories, mut prefix) = (BTreeSet::new(), Vec::new(), "");
    for line in code(map) {
        let path = line.split_whitespace().next().unwrap_or_default();
        match line.strip_prefix("  ") {
            None => prefix = path.trim_start_matches("./"),
            // A description that goes on.
            Some(entry) if entry.starts_with(' ') => {}
            // One line for all of a directory.
            Some(_) if path.ends_with('/') => directories.push(format!("{prefix}{path}")),
            Some(_) => assert!(named.insert(format!("{prefix}{path}")), "{prefix}{path} is named twice"),
        }
    }
    let mut exist = BTreeSet::new();
    for top in ["src", "tests", "fuzz", "coral-dsht", "coral-dns", "coral-proxy", "deploy/testbed"] {
        source_files(&root().join(top), &mut exist);
    }
    for directory in &directories {
        let before = exist.len();
        exist.retain(|path| !path.starts_with(directory));
        assert!(exist.len() < before, "the code map names {directory}, where there is nothing");
    }
    let lacking: Vec<_> = exist.difference(&named).collect();
    let stale: Vec<_> = named.difference(&exist).collect();
    assert!(lacking.is_empty() && stale.is_empty(), "the code map lacks {lacking:#?} and has too many {stale:#?}");
}

fn source_files(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn relative_links_lead_somewhere() {
    for document in DOCUMENTS {
        let directory: PathBuf = root().join(document).parent().unwrap().to_owned();
        let text = read(document);
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = target.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(directory.join(target).exists(), "{document} links to {target}, which is not there");
            }
        }
    }
}

#[test]
fn every_dependency_has_its_row() {
    let architecture = read("ARCHITECTURE.md");
    let table = architecture.split("## Dependencies").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let mut used = BTreeSet::new();
    for package in [".", "coral-dsht", "coral-dns", "coral-proxy", "deploy/testbed"] {
        let manifest: toml::Table = read(&format!("{package}/Cargo.toml")).parse().unwrap();
        for kind in ["dependencies", "dev-dependencies"] {
            used.extend(
                manifest.get(kind).and_then(toml::Value::as_table).into_iter().flatten().map(|(name, _)| name.clone()),
            );
        }
    }
    let lacking: Vec<_> = used
        .iter()
        .filter(|name| *name != "coral" && !name.starts_with("coral-") && !rows.contains(name.as_str()))
        .collect();
    assert!(lacking.is_empty(), "ARCHITECTURE.md does not say what these are for: {lacking:?}");
}

/// The bytes at the beginning of each line of a block in PROTOCOL.md; `00 × 3` is three zeros.
fn example(name: &str) -> Vec<Vec<u8>> {
    let protocol = read("PROTOCOL.md");
    let block = protocol.split(&format!("```text {name}\n")).nth(1).and_then(|rest| rest.split("```").next());
    let lines = block.unwrap_or_else(|| panic!("PROTOCOL.md has no block {name}")).lines();
    let bytes = lines.map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["00", "×", count, ..] => vec![0; count.parse().unwrap()],
        [hex, ..] => {
            let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_else(|e| panic!("{name}: {hex}: {e}"))).collect()
        }
        [] => Vec::new(),
    });
    bytes.collect()
}

#[test]
fn the_ids_and_values_in_the_protocol_are_those_of_the_code() {
    let (node, cache): (SocketAddr, SocketAddr) = ("192.0.2.1:4160".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    let url = coral_proxy::index_key("http://www.example.com/", &[], &[]).unwrap();
    let ids = [
        Id::of_node(node),
        url,
        coral_proxy::reference::stale_key(url),
        coral_proxy::reference::parts_key(url),
        coral_proxy::slice::slice_key(url, 3),
        hint::network(node.ip()),
        hint::router(node.ip()),
        Id::of_announcement(b"news"),
    ];
    assert_eq!(example("ids"), ids.map(|id| id.as_bytes().to_vec()));
    let headers = hyper::HeaderMap::from_iter([(hyper::header::ETAG, "\"a\"".parse().unwrap())]);
    let version = Version::of(hyper::StatusCode::OK, &headers, Some(5), None).unwrap();
    let stamp = Stamp::of(&version, &sha2::Sha256::digest("hello").into());
    let stamped = coral_proxy::reference::encode_stamped(cache, stamp);
    let place = hyper::HeaderMap::from_iter([(hyper::header::CONTENT_RANGE, "bytes 4-9/20".parse().unwrap())]);
    let part = coral_proxy::reference::encode_part(cache, Place::of(&place).unwrap(), None);
    let values = [coral_proxy::encode_reference(cache), hint::value(node), stamped, part];
    assert_eq!(example("values"), values.map(|value| value.as_bytes().to_vec()));
}

#[test]
fn the_datagrams_in_the_protocol_are_those_of_the_code() {
    let cluster = |age_minutes| ClusterInfo { id: Id::from_bytes([0xaa; 20]), age_minutes, size: 500 };
    let services = coral_dns::PROXY | coral_dns::NAMESERVER;
    let header = Header {
        services,
        clusters: Clusters::new(vec![cluster(3)]),
        instance: 0x0405_0607,
        token: None,
        wants_proof: false,
    };
    let key = coral_proxy::index_key("http://www.example.com/", &[], &[]).unwrap();
    let body = Body::Request(Request::Get { level: Level::new(1).unwrap(), key, aim: Distance::ZERO });
    let request_id = 0x0102_0304_0506_0708;
    let get = Message { header, request_id, body };
    assert_eq!(wire::decode(&example("get").concat()), Ok(get.clone()));
    assert_eq!(example("get").concat(), wire::encode(&get));

    let header = Header {
        services,
        clusters: Clusters::new(vec![cluster(4)]),
        instance: 0x0a0b_0c0d,
        token: Some(Token::from_bytes([0xbb; 16])),
        wants_proof: true,
    };
    let reference = coral_proxy::encode_reference("192.0.2.1:80".parse().unwrap());
    let answer = Message { header, request_id, body: Body::Response(Response::Values(vec![reference])) };
    assert_eq!(example("values-answer").concat(), wire::encode(&answer));

    let header = Header { services, instance: 0x0a0b_0c0d, ..Header::default() };
    let announcement = Response::Announcement { age: Duration::from_secs(60), message: (*b"news").into() };
    let answer = Message { header, request_id, body: Body::Response(announcement) };
    assert_eq!(example("announcement-answer").concat(), wire::encode(&answer));
}

/// Only who has sealed it rightly is answered.
#[test]
fn the_sealed_datagram_in_the_protocol_is_understood() {
    let me = Peer::new("192.0.2.1:4160".parse().unwrap(), Services::NONE);
    let answers = |digit: &str| {
        let config = coral_dsht::Config { network_key: Some(digit.repeat(64).parse().unwrap()), ..Default::default() };
        let mut node = Dsht::new(Arc::new(config), me, [1; 32], Instant::START);
        node.handle_datagram(Instant::START, "192.0.2.7:4160".parse().unwrap(), &example("sealed-ping").concat());
        std::iter::from_fn(|| node.poll_output()).count()
    };
    assert_eq!([answers("1"), answers("2")], [1, 0]);
}

#[test]
fn the_questions_between_nameservers_in_the_protocol_are_those_of_the_code() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let duty = Some(Promise { seconds: 185, distant: ip("192.0.2.1") });
    let question = Appraise { client: ip("198.51.100.7"), duty };
    assert_eq!(Appraise::decode(&example("appraisal-question").concat()), Some(question));
    let answer = Reply {
        level: Level::new(2).unwrap(),
        rtt: Some(Duration::from_millis(12)),
        services: Services::from_bits(3),
        has_promised: true,
        fellows: vec![ip("203.0.113.9")],
    };
    assert_eq!(Reply::decode(&example("appraisal-answer").concat()), Some(answer));
}

#[test]
fn the_announcements_of_purges_in_the_protocol_are_those_of_the_code() {
    let (key, time) = (Key::from_seed(&[7; 32]), SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200));
    let made = order::orders(&key, time, &["http://www.x.com/a/*".to_owned()]);
    assert_eq!(example("order").concat(), made.concat(), "{}", hex(&made[0]));
    assert_eq!(example("news-of-owner").concat(), order::owner("http://www.x.com", time));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cells of the table rows of a document that begin with something in backticks, which is the first of them.
fn rows(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (first, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((first, rest.split(" |").next()?))
    })
}

#[test]
fn the_defaults_in_the_documents_are_those_of_the_code() {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let as_text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut seen = 0;
    for document in ["PROTOCOL.md", "deploy/SIZING.md"] {
        for (key, said) in rows(&read(document)) {
            if !["dsht.", "dns.", "proxy.", "reach."].iter().any(|section| key.starts_with(section)) {
                continue;
            }
            let default = defaults.pointer(&format!("/{}", key.replace('.', "/")));
            let default = match default.unwrap_or_else(|| panic!("{document} names {key}, which is no key")) {
                serde_json::Value::Array(list) => list.iter().map(as_text).collect::<Vec<_>>().join(", "),
                other => as_text(other),
            };
            assert_eq!(said, default, "{key} in {document}");
            seen += 1;
        }
    }
    assert!(seen >= 40, "only {seen} defaults were found: the documents have changed their form");
}

#[test]
fn the_coralized_hosts_in_the_protocol_mean_what_it_says() {
    let names = Names { suffixes: vec!["nyud.net".parse().unwrap()], ..Names::default() };
    let mut seen = 0;
    for (host, canonical) in rows(&read("PROTOCOL.md")) {
        if let Some(canonical) = canonical.strip_prefix("`http") {
            let url = CoralUrl::parse(host, "/", &names).unwrap();
            assert_eq!(url.canonical(), format!("http{}/", canonical.trim_end_matches('`')), "{host}");
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} hosts were found: the document has changed its form");
}
