//! The binary as a user meets it: what it prints, what it says when something is wrong, and how it ends.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use support::PATIENCE;
use support::running::{Running, coral, run, stderr};

#[test]
fn url_prints_the_coralized_url_and_nothing_else() {
    let output = run(&["url", "http://www.example.com/a?b=c"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "http://www.example.com.nyud.net/a?b=c\n");
    let own = run(&["url", "www.example.com", "--suffix", "cdn.example.org"]);
    assert_eq!(String::from_utf8_lossy(&own.stdout), "http://www.example.com.cdn.example.org/\n");
    let bad = run(&["url", "ftp://www.example.com/"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(stderr(&bad).contains("ftp://www.example.com/"), "{}", stderr(&bad));
}

/// The file is made once; whatever zone is asked for, its DS record is of that key.
#[test]
fn a_key_is_made_once_and_its_ds_records_are_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dnssec.key");
    let path = path.to_str().unwrap();
    let [made, again, others] = [
        &["dnssec-key", path, "--algorithm", "ed25519"][..],
        &["dnssec-key", path],
        &["dnssec-key", path, "--suffix", "a.example", "--suffix", "b.example"],
    ]
    .map(|arguments| {
        let output = run(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    });
    assert!(made.starts_with("nyud.net. IN DS ") && made.contains(" 15 2 ") && made.lines().count() == 1, "{made}");
    assert_eq!(made, again);
    let tag = |line: &str| line.split(' ').nth(3).map(str::to_owned);
    let names: Vec<&str> = others.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["a.example.", "b.example."]);
    assert!(others.lines().all(|line| tag(line) == tag(&made)), "{others}");

    std::fs::write(path, "Private-key-format: v1.3\n").unwrap();
    let elsewhere = directory.path().join("missing/dnssec.key");
    for (bad, wanted) in [(path, "openssl pkcs8"), (elsewhere.to_str().unwrap(), "No such file")] {
        let output = run(&["dnssec-key", bad]);
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        assert!(said.contains(bad) && said.matches(wanted).count() == 1 && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_key_for_purges_is_made_once_and_its_public_part_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("purge.key");
    let path = path.to_str().unwrap();
    let [made, again] = [(); 2].map(|()| {
        let output = run(&["purge-key", path]);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    });
    assert_eq!((made.lines().count(), made.trim_end().len()), (1, 44), "{made}");
    assert_eq!(made, again);
    let set = format!("purge.operators=[\"{}\"]", made.trim_end());
    assert!(run(&["check-config", "--set", &set]).status.success());

    std::fs::write(path, "no key\n").unwrap();
    let elsewhere = directory.path().join("missing/purge.key");
    for (bad, wanted) in [(path, "coral purge-key FILE"), (elsewhere.to_str().unwrap(), "No such file")] {
        let output = run(&["purge-key", bad]);
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        assert!(said.contains(bad) && said.matches(wanted).count() == 1 && said.lines().count() == 1, "{said}");
    }
    let output = run(&["check-config", "--set", "purge.operators=[\"AAAA\"]"]);
    assert!(stderr(&output).contains("no public key"), "{}", stderr(&output));
    let key = format!("purge.key={path}");
    let off = ["--dns-listen", "off", "--proxy-listen", "off", "--admin-listen", "off"];
    let output = run(&[&["node", "--dsht-listen", "127.0.0.1:0", "--set", &key][..], &off].concat());
    assert!(stderr(&output).contains("cannot use the key"), "{}", stderr(&output));
}

#[test]
fn a_wrong_file_is_told_with_line_key_and_nearest_known_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrong.toml");
    std::fs::write(&path, "[proxy]\n# the cache\nlisten_at = '127.0.0.1:8080'\n").unwrap();
    let output = run(&["node", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("wrong.toml:3: unknown key `proxy.listen_at`"), "{said}");
    assert!(said.contains("the nearest known one is `proxy.listen`"), "{said}");
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    let mut command = coral(&["check-config"]);
    let output = command.env("CORAL_PROXY__MEMORY", "plenty").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("CORAL_PROXY__MEMORY"), "{}", stderr(&output));
}

#[test]
fn a_flag_counts_more_than_a_variable_and_a_variable_more_than_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("coral.toml");
    std::fs::write(
        &path,
        "[proxy]\nlisten = '127.0.0.1:1'\n[dns]\nlisten = '127.0.0.1:1'\n[admin]\nlisten = '127.0.0.1:1'\n",
    )
    .unwrap();
    let mut command = coral(&["check-config", "--proxy-listen", "127.0.0.1:3", "--config", path.to_str().unwrap()]);
    command.env("CORAL_PROXY__LISTEN", "127.0.0.1:2").env("CORAL_DNS__LISTEN", "127.0.0.1:2");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let config: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    let listens = |section: &str| config[section]["listen"].as_str().unwrap();
    assert_eq!((listens("proxy"), listens("dns"), listens("admin")), ("127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1"));
}

#[test]
fn a_node_that_does_not_run_is_told_in_one_line() {
    // Bound and not listening: nobody can answer there while this test runs.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "a-token-for-tests-alone").unwrap();
    let token = token.to_str().unwrap();
    for arguments in [
        &["status", "--admin", &addr][..],
        &["health", "--admin", &addr],
        &["lookup", "http://x.com/", "--admin", &addr],
        &["explain", "http://x.com/", "--admin", &addr],
        &["drain", "--admin", &addr, "--token", token],
        &["top", "--admin", &addr],
        &["map", "--admin", &addr],
        &["top", "--admin", &addr, "--once"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&format!("no node answers at {addr}")), "{said}");
    }
}

#[test]
fn a_node_starts_answers_its_operator_and_ends_cleanly_on_sigterm() {
    let free = "127.0.0.1:0";
    let mut node = Running::start(&["--dns-listen", free, "--admin-listen", free, "--log-format", "json"]);
    let started = node.line_with("started: ");
    let json: serde_json::Value = serde_json::from_str(&started).expect("a line of JSON");
    let message = json["fields"]["message"].as_str().unwrap();
    let admin = message.rsplit_once("admin ").unwrap().1.to_owned();

    let status = run(&["status", "--admin", &admin]);
    assert!(status.status.success(), "{}", stderr(&status));
    let page = String::from_utf8(status.stdout).unwrap();
    for part in ["node ", "clusters", "neighbours", "cache and traffic", "index"] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    let health = run(&["health", "--admin", &admin]);
    assert_eq!((health.status.code(), &health.stdout[..]), (Some(0), &b"healthy\n"[..]));
    let lookup = run(&["lookup", "www.example.com", "--admin", &admin]);
    assert!(String::from_utf8(lookup.stdout).unwrap().contains("no node is known to have it"));

    let explained = run(&["explain", "www.example.com", "--admin", &admin]);
    assert!(String::from_utf8(explained.stdout).unwrap().contains("miss: it is not here"));
    // Without a terminal it prints once.
    let top = run(&["top", "--admin", &admin]);
    let top = String::from_utf8(top.stdout).unwrap();
    assert!(top.contains("requests a second") && !top.contains('\u{1b}'), "{top}");
    let picture = tempfile::tempdir().unwrap();
    let file = picture.path().join("map.svg");
    let map = run(&["map", "--admin", &admin, "--svg", file.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&map.stdout).contains("0 nodes in reach"), "{}", stderr(&map));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("<svg xmlns="));
    let nowhere = run(&["map", "--admin", &admin, "--svg", "/nowhere/map.svg"]);
    assert_eq!((nowhere.status.code(), stderr(&nowhere).lines().count()), (Some(1), 1), "{}", stderr(&nowhere));
    let no_url = run(&["explain", "ftp://x.com/", "--admin", &admin]);
    assert_eq!((no_url.status.code(), stderr(&no_url).lines().count()), (Some(1), 1), "{}", stderr(&no_url));

    node.signal("-TERM");
    node.line_with("the cache has stopped");
    node.line_with("the index has stopped");
    assert_eq!(node.end(), Some(0));
}

#[test]
fn a_node_whose_seeds_are_silent_fails_its_health_check_and_says_why() {
    // Bound and never read: a seed that does not answer.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let seed = silent.local_addr().unwrap().to_string();
    let mut node = Running::start(&["--dns-listen", "off", "--admin-listen", "127.0.0.1:0", "--seed", &seed]);
    let started = node.line_with("started: ");
    let admin = started.rsplit_once("admin ").unwrap().1.split_whitespace().next().unwrap();
    let health = run(&["health", "--admin", admin]);
    assert_eq!(health.status.code(), Some(1));
    assert!(stderr(&health).contains("is not healthy: not joined"), "{}", stderr(&health));
    node.signal("-TERM");
    assert_eq!(node.end(), Some(0));
}

#[test]
fn a_second_signal_ends_a_node_that_still_drains() {
    // An origin that takes the request and never answers keeps the node busy.
    let origin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let site = format!("proxy.sites=[{{host='www.example.com',origin='http://{}'}}]", origin.local_addr().unwrap());
    let mut node = Running::start(&["--dns-listen", "off", "--admin-listen", "off", "--set", &site]);
    let started = node.line_with("started: ");
    let proxy = started.split("HTTP ").nth(1).unwrap().split(',').next().unwrap();
    let mut visitor = std::net::TcpStream::connect(proxy).unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com.nyud.net\r\n\r\n").unwrap();
    let _taken = origin.accept().unwrap();

    node.signal("-INT");
    node.line_with("Ctrl-C: stopping");
    node.signal("-TERM");
    node.line_with("a second signal (SIGTERM)");
    assert_eq!(node.end(), Some(130));
}

#[test]
fn there_is_a_manual_page_and_a_completion_for_each_subcommand() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("man1");
    assert!(run(&["man", folder.to_str().unwrap()]).status.success());
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        for page in std::fs::read_dir(&folder).unwrap() {
            let name = page.unwrap().file_name().into_string().unwrap();
            let subcommand = name.strip_suffix(".1").and_then(|name| name.strip_prefix("coral-")).unwrap_or("coral");
            assert!(script.contains(subcommand), "{shell} does not know {subcommand}");
        }
    }
    let pages = std::fs::read_dir(&folder).unwrap().count();
    assert!(pages > 10, "{pages}");
    let nowhere = run(&["man", "/dev/null/man1"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(stderr(&nowhere).contains("/dev/null/man1"), "{}", stderr(&nowhere));
}

#[test]
fn a_node_that_is_to_drain_stops_when_nobody_can_know_it_any_more() {
    let short = ["dns.ttl=100ms", "dns.near_ttl=100ms", "dns.referral_ttl=100ms", "dns.near_referral_ttl=100ms"];
    let short = short.into_iter().chain(["dns.max_age=100ms", "dsht.verified=100ms", "dsht.keepalive=50ms"]);
    let set: Vec<&str> = short.flat_map(|option| ["--set", option]).collect();
    let free = "127.0.0.1:0";
    let mut node = Running::start(&[&["--dns-listen", free, "--admin-listen", "off"], &set[..]].concat());
    node.line_with("started: ");
    node.signal("-USR1");
    assert!(node.line_with("draining: ").ends_with("stopping in 300ms"));
    node.line_with("drained: stopping");
    assert_eq!(node.end(), Some(0));

    // The same by a command, for who has the token.
    let directory = tempfile::tempdir().unwrap();
    let [token, other] = ["token", "other"].map(|name| directory.path().join(name).to_str().unwrap().to_owned());
    std::fs::write(&token, "a-token-for-tests-alone").unwrap();
    std::fs::write(&other, "another-token-for-tests").unwrap();
    let named = format!("admin.token={token}");
    let mut node =
        Running::start(&[&["--dns-listen", free, "--admin-listen", free, "--set", &named], &set[..]].concat());
    let started = node.line_with("started: ");
    let admin = started.rsplit_once("admin ").unwrap().1.split_whitespace().next().unwrap();
    let refused = run(&["drain", "--admin", admin, "--token", &other]);
    assert_eq!((refused.status.code(), stderr(&refused).lines().count()), (Some(1), 1), "{}", stderr(&refused));
    let drained = run(&["drain", "--admin", admin, "--token", &token]);
    let said = String::from_utf8(drained.stdout).unwrap();
    assert!(drained.status.success() && said.contains("stops in 300ms"), "{said}");
    node.line_with("drained: stopping");
    assert_eq!(node.end(), Some(0));
}

#[test]
fn a_lost_terminal_is_a_goodbye_too() {
    let mut node = Running::start(&["--dns-listen", "off", "--admin-listen", "off"]);
    node.line_with("started: ");
    node.signal("-HUP");
    node.line_with("SIGHUP: stopping");
    assert_eq!(node.end(), Some(0));
}

#[test]
fn a_hangup_has_the_configuration_read_again_and_a_connection_lives_on() {
    let origin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [file, deny] = ["coral.toml", "deny"].map(|name| directory.path().join(name));
    let text = format!(
        "[dns]\nlisten = \"off\"\n[admin]\nlisten = \"off\"\n[proxy]\ndeny = {deny:?}\nsites = [{{ host = \"a.b\", origin = \"http://{}\" }}]\n",
        origin.local_addr().unwrap()
    );
    std::fs::write(&file, &text).unwrap();
    std::fs::write(&deny, "").unwrap();
    let mut node = Running::start(&["--config", file.to_str().unwrap()]);
    let started = node.line_with("started: ");
    let proxy = started.split("HTTP ").nth(1).unwrap().split(',').next().unwrap();
    let mut visitor = BufReader::new(std::net::TcpStream::connect(proxy).unwrap());
    // What this node has not is a 504 for who wants it from the cache alone.
    let mut status = |host: &str| {
        let request = format!("HEAD / HTTP/1.1\r\nHost: {host}\r\nCache-Control: only-if-cached\r\n\r\n");
        visitor.get_mut().write_all(request.as_bytes()).unwrap();
        let head: Vec<String> =
            visitor.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        head[0].split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!([status("a.b"), status("new.b")], ["504", "421"]);

    std::fs::write(&deny, "a.b").unwrap();
    std::fs::write(
        &file,
        text.replace("}]", "}, { host = \"new.b\", origin = \"http://127.0.0.1:1\" }]\nmemory = \"1 MiB\""),
    )
    .unwrap();
    node.signal("-HUP");
    assert!(node.line_with("SIGHUP").ends_with("waits for the next start: proxy.memory"));
    assert_eq!([status("a.b"), status("new.b")], ["403", "504"]);

    std::fs::write(&file, "[proxy]\nmemroy = 1").unwrap();
    node.signal("-HUP");
    assert!(node.line_with("the configuration stays as it was").contains("memroy"));
    assert_eq!([status("a.b"), status("new.b")], ["403", "504"]);
    node.signal("-TERM");
    node.line_with("SIGTERM: stopping");
    assert_eq!(node.end(), Some(0));
}

#[test]
fn a_hangup_has_the_access_log_opened_again_where_it_was_moved_from() {
    let directory = tempfile::tempdir().unwrap();
    let [file, log, moved] = ["coral.toml", "access.log", "access.log.1"].map(|name| directory.path().join(name));
    let text = |more: &str| {
        format!(
            "[dns]\nlisten = \"off\"\n[admin]\nlisten = \"off\"\n[log.access]\nformat = \"combined\"\npath = {log:?}\n{more}"
        )
    };
    std::fs::write(&file, text("")).unwrap();
    let mut node = Running::start(&["--config", file.to_str().unwrap()]);
    let started = node.line_with("started: ");
    let proxy = started.split("HTTP ").nth(1).unwrap().split(',').next().unwrap();
    let ask = |path: &str| {
        let mut visitor = std::net::TcpStream::connect(proxy).unwrap();
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: a \"b\"\r\nConnection: close\r\n\r\n");
        visitor.write_all(request.as_bytes()).unwrap();
        visitor.read_to_end(&mut Vec::new()).unwrap();
    };
    let lines = |path: &std::path::Path, count: usize| {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(path).unwrap();
            if text.lines().count() == count {
                return text;
            }
            assert!(std::time::Instant::now() < deadline, "{text}");
            std::thread::yield_now();
        }
    };
    ask("/one");
    let line = lines(&log, 1);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.ends_with("+0000] \"HEAD /one HTTP/1.1\" 421 - \"-\" \"a \\x22b\\x22\"\n"), "{line}");

    // Also where the configuration cannot be read.
    std::fs::rename(&log, &moved).unwrap();
    std::fs::write(&file, text("no = 1")).unwrap();
    node.signal("-HUP");
    node.line_with("the configuration stays as it was");
    ask("/two");
    // What is logged just before the end is written, too.
    node.signal("-TERM");
    assert_eq!(node.end(), Some(0));
    assert!(lines(&log, 1).contains(" /two ") && lines(&moved, 1).contains(" /one "));
}

#[test]
fn an_access_log_in_json_is_an_object_a_line_whatever_a_client_writes() {
    let mut node = Running::start(&[
        "--dns-listen",
        "off",
        "--admin-listen",
        "off",
        "--set",
        "log.access.format=json",
        "--set",
        "log.access.anonymize=true",
    ]);
    let started = node.line_with("started: ");
    let proxy = started.split("HTTP ").nth(1).unwrap().split(',').next().unwrap();
    let mut visitor = std::net::TcpStream::connect(proxy).unwrap();
    let agent = b"\"}\\\t\xff{\"id\":\"";
    let request =
        [b"GET /\xc3\xa9\" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: ", &agent[..], b"\r\n\r\n"];
    visitor.write_all(&request.concat()).unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).unwrap();
    let line = node.line_with("user_agent");
    let json: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!(json["user_agent"], "\"}\\\t\u{fffd}{\"id\":\"", "{line}");
    assert_eq!((&json["client"], &json["uri"]), (&"127.0.0.0".into(), &"/é\"".into()), "{line}");
    let id = json["id"].as_str().unwrap();
    assert!(answer.contains(&format!("coral-request-id: {id}\r\n")) && answer.ends_with(&format!("Request {id}\n")));
    assert_eq!(json["bytes"], answer.split_once("\r\n\r\n").unwrap().1.len());
    node.signal("-TERM");
    assert_eq!(node.end(), Some(0));
}

#[test]
fn the_demonstration_ends_well() {
    let output = run(&["demo", "--once", "--nodes", "3", "--requests", "200"]);
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{said}{}", stderr(&output));
    assert!(said.contains("All is well"), "{said}");
    let total = said.lines().find(|line| line.starts_with("│ all ")).expect("a line of totals");
    let cells: Vec<&str> = total.split_whitespace().collect();
    // 11 objects, each asked of each node at first; then 200 of the crowd, and the large file once more for each node.
    assert_eq!(cells[4..6], ["236", "11"], "{total}");
}
