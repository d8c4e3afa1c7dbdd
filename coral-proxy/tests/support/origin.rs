//! An origin on a raw socket: it counts requests, and answers each path with the bytes it was told, lies included.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

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

/// The head and fields of one request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub fields: HashMap<String, String>,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<String, Vec<Vec<Step>>>,
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
        Self::start_with(None).await
    }

    /// One that speaks TLS; what it answers to is told as to any other.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::start_with(Some(acceptor)).await
    }

    async fn start_with(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
                shared.seen.push(seen);
                match shared.answers.get_mut(&path) {
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
