//! An origin on a raw socket: it counts requests, and answers each path with the bytes it was told, lies included.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// One step of an answer.
#[derive(Clone)]
pub enum Step {
    /// Bytes, as they are.
    Send(Vec<u8>),
    /// So many bytes of `pattern`, from this place on.
    Pattern(u64, u64),
    /// Nothing, until the test lets it go on.
    Wait(Gate),
    /// Nothing, for a while: how far away it is, or how slow.
    Delay(Duration),
    /// Nothing, for ever.
    Stall,
    /// The end of the connection.
    Close,
    /// The same, but over TLS without the farewell that tells an end from a cut (RFC 8446 §6.1).
    Cut,
}

/// Where an answer waits for the test.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self) {
        self.0.add_permits(Semaphore::MAX_PERMITS >> 1);
    }
}

/// What is served by ranges, as web servers do: a body of `pattern`.
#[derive(Clone)]
pub struct File {
    total: u64,
    fields: String,
    /// Where its pattern begins, by which versions are told apart.
    pub seed: u64,
    ranges: bool,
    /// What comes before the head.
    before: Vec<Step>,
    /// After so many bytes of an answer.
    within: Option<(u64, Vec<Step>)>,
    /// So many bytes in this time.
    pace: Option<(u64, Duration)>,
}

impl File {
    /// One of `total` bytes that is fresh for ten minutes, with these fields.
    pub fn of(total: u64, fields: &str) -> Self {
        let fields = format!("cache-control: max-age=600\n{fields}");
        Self { total, fields, seed: 0, ranges: true, before: Vec::new(), within: None, pace: None }
    }

    /// The same with other bytes.
    pub fn version(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same from a server that knows no ranges.
    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }

    /// `steps` come before each answer.
    pub fn after(mut self, steps: Vec<Step>) -> Self {
        self.before = steps;
        self
    }

    /// `steps` come after the first `count` bytes of each answer.
    pub fn interrupted(mut self, count: u64, steps: Vec<Step>) -> Self {
        self.within = Some((count, steps));
        self
    }

    /// A connection brings `count` bytes in this `time`.
    pub fn paced(mut self, count: u64, time: Duration) -> Self {
        self.pace = Some((count, time));
        self
    }

    /// These bytes of it.
    pub fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        pattern(self.seed + range.start, range.end - range.start)
    }

    fn answer(&self, request: &Seen) -> Vec<Step> {
        let holds = |condition: &String| self.fields.contains(condition.as_str());
        let range = request.fields.get("range").filter(|_| self.ranges);
        let range = range.filter(|_| request.fields.get("if-range").is_none_or(holds));
        let (status, place) = match range.map(|range| self.place(range)) {
            None => ("200 OK".to_owned(), 0..self.total),
            Some(place) if place.is_empty() => {
                (format!("416 Range Not Satisfiable\ncontent-range: bytes */{}", self.total), 0..0)
            }
            Some(place) => (
                format!("206 Partial Content\ncontent-range: bytes {}-{}/{}", place.start, place.end - 1, self.total),
                place,
            ),
        };
        let length = place.end - place.start;
        let head = format!("HTTP/1.1 {status}\n{}\ncontent-length: {length}\n\n", self.fields);
        let mut steps = self.before.clone();
        steps.push(Step::Send(head.replace('\n', "\r\n").into_bytes()));
        let (first, within) = self.within.clone().unwrap_or_default();
        let first = first.min(length);
        steps.push(Step::Pattern(self.seed + place.start, first));
        steps.extend(within);
        let (count, time) = self.pace.unwrap_or((length, Duration::ZERO));
        let (mut next, end) = (self.seed + place.start + first, self.seed + place.end);
        while next < end {
            let now = count.min(end - next);
            steps.push(Step::Pattern(next, now));
            if !time.is_zero() {
                steps.push(Step::Delay(time));
            }
            next += now;
        }
        steps
    }

    fn place(&self, range: &str) -> Range<u64> {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => first..self.total.min(last + 1),
            (Ok(first), Err(_)) => first..self.total,
            (Err(_), last) => self.total.saturating_sub(last.unwrap())..self.total,
        }
    }
}

/// The head and fields of one request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub fields: HashMap<String, String>,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<String, Vec<Vec<Step>>>,
    files: HashMap<String, File>,
    seen: Vec<Seen>,
}

/// The origin.
#[derive(Clone)]
pub struct Origin {
    pub addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

/// A body in which every byte tells its place.
pub fn pattern(from: u64, length: u64) -> Vec<u8> {
    (from..from + length).map(|place| (place * 31 % 251) as u8).collect()
}

impl Origin {
    pub async fn start() -> Self {
        Self::start_with("127.0.0.1", None).await
    }

    /// One at this loopback address.
    pub async fn start_at(ip: &str) -> Self {
        Self::start_with(ip, None).await
    }

    /// One that speaks TLS; what it answers to is told as to any other.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::start_with("127.0.0.1", Some(acceptor)).await
    }

    async fn start_with(ip: &str, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let origin = Self { addr: listener.local_addr().unwrap(), shared: Arc::default() };
        let served = origin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (origin, acceptor) = (served.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => origin.serve(stream).await,
                        // A client that does not like the certificate hangs up here.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                origin.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        origin
    }

    /// `path` is answered with these steps from now on. Told several times, the answers follow one another; the last stays.
    pub fn on(&self, path: &str, steps: Vec<Step>) -> &Self {
        let mut shared = self.shared.lock().unwrap();
        shared.answers.entry(path.to_owned()).or_default().push(steps);
        self
    }

    /// `path` is this file from now on.
    pub fn file(&self, path: &str, file: &File) -> &Self {
        self.shared.lock().unwrap().files.insert(path.to_owned(), file.clone());
        self
    }

    /// `path` is what `on` says again.
    pub fn no_file(&self, path: &str) -> &Self {
        self.shared.lock().unwrap().files.remove(path);
        self
    }

    /// The ranges of `path` that were asked for, sorted.
    pub fn ranges(&self, path: &str) -> Vec<String> {
        let range = |seen: Seen| seen.fields.get("range").map_or("all", |range| &range["bytes=".len()..]).to_owned();
        let mut ranges: Vec<String> = self.requests(path).into_iter().map(range).collect();
        ranges.sort();
        ranges
    }

    /// The next answer to `path` is this text, with line feeds as line ends of the head.
    pub fn text(&self, path: &str, head: &str, body: &str) -> &Self {
        let length = body.len();
        let head = format!("{}\ncontent-length: {length}\n\n", head.trim_end()).replace('\n', "\r\n");
        self.on(path, vec![Step::Send(format!("{head}{body}").into_bytes())])
    }

    /// How often `path` was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    pub fn requests(&self, path: &str) -> Vec<Seen> {
        let shared = self.shared.lock().unwrap();
        let asked = |seen: &&Seen| seen.line.split(' ').nth(1) == Some(path);
        shared.seen.iter().filter(asked).cloned().collect()
    }

    /// The request lines of all that was asked for.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lock().unwrap().seen.iter().map(|seen| seen.line.clone()).collect()
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        while let Some(seen) = read_head(&mut stream).await {
            let path = seen.line.split(' ').nth(1).unwrap_or_default().to_owned();
            let steps = {
                let mut shared = self.shared.lock().unwrap();
                let of_file = shared.files.get(&path).map(|file| file.answer(&seen));
                shared.seen.push(seen);
                match shared.answers.get_mut(&path) {
                    _ if of_file.is_some() => of_file.unwrap_or_default(),
                    Some(answers) if answers.len() > 1 => answers.remove(0),
                    Some(answers) => answers[0].clone(),
                    None => vec![Step::Send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec())],
                }
            };
            for step in steps {
                let sent = match step {
                    Step::Send(bytes) => stream.write_all(&bytes).await,
                    Step::Pattern(from, length) => send_pattern(&mut stream, from, length).await,
                    Step::Wait(gate) => {
                        gate.0.acquire().await.unwrap().forget();
                        Ok(())
                    }
                    Step::Delay(time) => {
                        tokio::time::sleep(time).await;
                        Ok(())
                    }
                    Step::Stall => std::future::pending().await,
                    Step::Close => {
                        let _ = stream.shutdown().await;
                        return;
                    }
                    Step::Cut => return,
                };
                // TLS keeps small pieces back until it is told to send them.
                if sent.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn send_pattern(stream: &mut (impl AsyncWrite + Unpin), from: u64, length: u64) -> std::io::Result<()> {
    const BLOCK: u64 = 251 * 256;
    let mut sent = 0;
    while sent < length {
        let now = BLOCK.min(length - sent);
        stream.write_all(&pattern(from + sent, now)).await?;
        sent += now;
    }
    Ok(())
}

async fn read_head(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let fields = lines[1..].iter().filter_map(|line| line.split_once(": "));
    Some(Seen {
        line: lines[0].clone(),
        fields: fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
    })
}
