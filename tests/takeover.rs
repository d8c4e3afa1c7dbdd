//! A new process takes the place of a node under load: nobody notices.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::PATIENCE;
use support::running::{Running, run};

/// The parts of a body that the origin holds the rest of back.
const HALF: usize = 100_000;

/// An origin whose `/slow` sends one half of its body, and the other once it is let go.
struct Origin {
    addr: SocketAddr,
    requests: Arc<AtomicUsize>,
    let_go: Arc<AtomicBool>,
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Self { addr: listener.local_addr().unwrap(), requests: Arc::default(), let_go: Arc::default() };
        let (requests, let_go) = (Arc::clone(&origin.requests), Arc::clone(&origin.let_go));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (requests, let_go) = (Arc::clone(&requests), Arc::clone(&let_go));
                std::thread::spawn(move || answer(stream, &requests, &let_go));
            }
        });
        origin
    }
}

fn answer(stream: TcpStream, requests: &AtomicUsize, let_go: &AtomicBool) {
    let mut stream = BufReader::new(stream);
    loop {
        let head: Vec<String> =
            stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let Some(first) = head.first() else {
            return;
        };
        requests.fetch_add(1, Ordering::SeqCst);
        let is_slow = first.contains(" /slow ");
        let length = if is_slow { 2 * HALF } else { HALF };
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {length}\r\n\r\n");
        let out = stream.get_mut();
        out.write_all(head.as_bytes()).unwrap();
        out.write_all(&vec![b'a'; HALF]).unwrap();
        if is_slow {
            wait_until("it is let go", || let_go.load(Ordering::SeqCst));
            out.write_all(&vec![b'a'; HALF]).unwrap();
        }
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A connection of a browser: it asks again and again, and opens another one where the server says that it closes this one.
struct Browser {
    proxy: String,
    host: &'static str,
    stream: Option<BufReader<TcpStream>>,
}

impl Browser {
    fn new(proxy: &str) -> Self {
        Self { proxy: proxy.to_owned(), host: "www.example.com.nyud.net", stream: None }
    }

    /// One that looks at the node's own page.
    fn at_suffix(proxy: &str) -> Self {
        Self { host: "nyud.net", ..Self::new(proxy) }
    }

    /// The Cache-Status of a 200 with a whole body, or what went wrong.
    fn get(&mut self, path: &str) -> Result<String, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(TcpStream::connect(&self.proxy).map_err(|e| format!("connect: {e}"))?),
        };
        stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        stream.get_mut().write_all(request.as_bytes()).map_err(|e| format!("send: {e}"))?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).map_err(|e| format!("head: {e}"))?;
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        let field = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        if !head.first().is_some_and(|line| line.contains(" 200 ")) {
            return Err(format!("answered {head:?}"));
        }
        let mut body = vec![0; field("content-length: ").parse().map_err(|e| format!("{e} in {head:?}"))?];
        stream.read_exact(&mut body).map_err(|e| format!("body: {e}"))?;
        if field("connection: ") != "close" {
            self.stream = Some(stream);
        }
        Ok(field("cache-status: "))
    }
}

/// Measurements of clients that the node has ended by its own account.
fn probes(admin: &str) -> u64 {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let counts = text.lines().filter(|line| line.starts_with("coral_dns_probes_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn node(directory: &Path, origin: &Origin) -> Running {
    let file = directory.join("coral.toml");
    std::fs::write(directory.join("token"), "a-token-for-tests-alone").unwrap();
    let text = format!(
        "[dns]\nlisten = \"127.0.0.1:0\"\nrate = 0\n[admin]\nlisten = \"127.0.0.1:0\"\ntoken = {:?}\n[proxy]\n\
         sites = [{{ host = \"www.example.com\", origin = \"http://{}\" }}]\n[proxy.disk]\npath = {:?}\n",
        directory.join("token"),
        origin.addr,
        directory.join("store"),
    );
    std::fs::write(&file, text).unwrap();
    Running::start(&["--config", file.to_str().unwrap()])
}

/// The address of one of its parts.
fn address<'a>(started: &'a str, part: &str) -> &'a str {
    started.split(&format!("{part} ")).nth(1).unwrap().split([',', ' ']).next().unwrap()
}

/// The process that has taken over, which is nobody's child here.
struct Successor(String);

impl Successor {
    fn of(line: &str) -> Self {
        Self(line.split("process ").nth(1).unwrap().split(' ').next().unwrap().to_owned())
    }

    fn signal(&self, signal: &str) -> bool {
        Command::new("kill").args([signal, &self.0]).output().unwrap().status.success()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal("-KILL");
    }
}

#[test]
fn under_load_no_request_fails_and_what_is_under_way_ends_whole() {
    let (directory, origin) = (tempfile::tempdir().unwrap(), Origin::start());
    let mut old = node(directory.path(), &origin);
    let started = old.line_with("started: ");
    let [proxy, dns, admin] = ["HTTP", "DNS", "admin"].map(|part| address(&started, part).to_owned());

    assert!(Browser::new(&proxy).get("/hot").unwrap().contains("fwd=uri-miss"));
    let slow = {
        let mut browser = Browser::new(&proxy);
        std::thread::spawn(move || browser.get("/slow"))
    };
    wait_until("the slow one is under way", || origin.requests.load(Ordering::SeqCst) == 2);

    // Some keep their connection, others open one for each request; and a resolver asks.
    let (done, answers, failures) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let mut load = Vec::new();
    for (number, keeps) in [true, true, false, false, true, false].into_iter().enumerate() {
        let (proxy, done, answers, failures) =
            (proxy.clone(), Arc::clone(&done), Arc::clone(&answers), Arc::clone(&failures));
        load.push(std::thread::spawn(move || {
            let at_suffix = number >= 4;
            let mut browser = if at_suffix { Browser::at_suffix(&proxy) } else { Browser::new(&proxy) };
            let (path, expected) = if at_suffix { ("/", "") } else { ("/hot", "hit") };
            while !done.load(Ordering::SeqCst) {
                match browser.get(path) {
                    Ok(status) if status.contains(expected) => drop(answers.fetch_add(1, Ordering::SeqCst)),
                    other => failures.lock().unwrap().push(format!("{other:?}")),
                }
                if !keeps {
                    browser.stream = None;
                }
            }
        }));
    }
    let asked = Arc::new(AtomicUsize::new(0));
    {
        let (done, asked, failures) = (Arc::clone(&done), Arc::clone(&asked), Arc::clone(&failures));
        load.push(std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                match resolve(&dns) {
                    Ok(()) => drop(asked.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => failures.lock().unwrap().push(error),
                }
            }
        }));
    }
    // A connection without a request meanwhile is still good for one, which is told that it is the last.
    let mut idle = Browser::new(&proxy);
    idle.get("/hot").unwrap();
    wait_until("some have been answered", || answers.load(Ordering::SeqCst) > 50);

    // By then it is measured. Where this process may not measure anybody, the new one may not either.
    wait_until("the resolver has asked", || asked.load(Ordering::SeqCst) > 20);
    old.signal("-USR2");
    let new = Successor::of(&old.line_with("has taken over"));
    let (before, asked_before) = (answers.load(Ordering::SeqCst), asked.load(Ordering::SeqCst));
    assert!(idle.get("/hot").unwrap().contains("hit"));
    assert!(idle.stream.is_none(), "the old process closes it");
    wait_until("the new one answers", || {
        answers.load(Ordering::SeqCst) > before + 50 && asked.load(Ordering::SeqCst) > asked_before + 5
    });
    assert_eq!(probes(&admin), 0, "the new process knows how far the resolver is");
    origin.let_go.store(true, Ordering::SeqCst);
    assert!(slow.join().unwrap().unwrap().contains("fwd=uri-miss"));
    done.store(true, Ordering::SeqCst);
    load.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*failures.lock().unwrap(), Vec::<String>::new());
    // The store came with the sockets.
    assert_eq!(origin.requests.load(Ordering::SeqCst), 2);
    assert_eq!(old.child.wait().unwrap().code(), Some(0), "it ends when its last response is sent");

    let health = run(&["health", "--admin", &admin]);
    assert!(health.status.success());
    // And again: the new one is as good as the first.
    assert!(new.signal("-USR2"));
    let newest = Successor::of(&old.line_with("has taken over"));
    assert!(Browser::new(&proxy).get("/hot").unwrap().contains("hit"));
    assert!(newest.signal("-TERM"));
    wait_until("the newest one has ended", || !newest.signal("-0"));
}

/// Asks for an address below the suffix, once, as a resolver would that does not repeat itself.
fn resolve(dns: &str) -> Result<(), String> {
    // Of another network than the browsers, whose distance the cache sees.
    let socket = UdpSocket::bind("127.0.1.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut query = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["www", "example", "com", "nyud", "net", ""] {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 1, 0, 1]);
    socket.send_to(&query, dns).map_err(|e| format!("query: {e}"))?;
    let mut answer = [0; 512];
    let (length, _) = socket.recv_from(&mut answer).map_err(|e| format!("no answer: {e}"))?;
    match (answer[3] & 15, answer[7]) {
        (0, 1..) => Ok(()),
        _ => Err(format!("answered {:?}", &answer[..length])),
    }
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let (directory, origin) = (tempfile::tempdir().unwrap(), Origin::start());
    let mut node = node(directory.path(), &origin);
    let started = node.line_with("started: ");
    let proxy = address(&started, "HTTP");
    assert!(Browser::new(proxy).get("/hot").unwrap().contains("fwd=uri-miss"));
    let file = directory.path().join("coral.toml");
    let text = std::fs::read_to_string(&file).unwrap();

    // It does not come so far that it would be ready.
    std::fs::write(&file, "[proxy]\nmemroy = 1\n").unwrap();
    node.signal("-USR2");
    node.line_with("coral.toml:2: unknown key `proxy.memroy`");
    node.line_with("this process stays: the new process has ended");
    assert!(Browser::new(proxy).get("/hot").unwrap().contains("hit"));

    // The old one has let go already, and begins anew.
    std::fs::write(&file, text.replace("[proxy]\n", "[proxy]\ndeny = \"/nowhere/deny\"\n")).unwrap();
    node.signal("-USR2");
    let said = node.line_with("this process stays");
    assert!(said.contains("the new process could not start") && said.contains("/nowhere/deny"), "{said}");
    assert!(Browser::new(proxy).get("/hot").unwrap().contains("hit"), "from the disk");
    assert_eq!(origin.requests.load(Ordering::SeqCst), 1);

    std::fs::write(&file, text).unwrap();
    node.signal("-USR2");
    let new = Successor::of(&node.line_with("has taken over"));
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert!(Browser::new(proxy).get("/hot").unwrap().contains("hit"));
    assert!(new.signal("-TERM"));
    wait_until("the new one has ended", || !new.signal("-0"));
}

#[test]
fn what_was_purged_stays_purged() {
    let (directory, origin) = (tempfile::tempdir().unwrap(), Origin::start());
    let mut node = node(directory.path(), &origin);
    let started = node.line_with("started: ");
    let (proxy, admin) = (address(&started, "HTTP"), address(&started, "admin"));
    assert!(Browser::new(proxy).get("/hot").unwrap().contains("fwd=uri-miss"));
    wait_until("it is stored", || Browser::new(proxy).get("/hot").unwrap().contains("hit"));
    let token = directory.path().join("token");
    let purged = run(&["purge", "--here", "--admin", admin, "--token", token.to_str().unwrap(), "www.example.com"]);
    assert!(purged.status.success(), "{}", support::running::stderr(&purged));

    node.signal("-USR2");
    let new = Successor::of(&node.line_with("has taken over"));
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert!(Browser::new(proxy).get("/hot").unwrap().contains("fwd=uri-miss"), "the origin is asked again");
    assert_eq!(origin.requests.load(Ordering::SeqCst), 2);
    assert!(new.signal("-TERM"));
    wait_until("the new one has ended", || !new.signal("-0"));
}
