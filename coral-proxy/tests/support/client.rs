//! A client on a raw socket: it sends what it is told and shows what came, whole or broken off.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A response, or what there was of it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to the end that its head announced.
    pub whole: bool,
}

impl Reply {
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().rfind(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// The member of Cache-Status that the asked node added.
    pub fn cache(&self) -> &str {
        self.field("cache-status")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks `node` for `path` of `host`.
pub async fn get(node: SocketAddr, host: &str, path: &str) -> Reply {
    request(node, &format!("GET {path} HTTP/1.1\nhost: {host}\n\n")).await
}

/// The same, with more header lines.
pub async fn get_with(node: SocketAddr, host: &str, path: &str, lines: &str) -> Reply {
    request(node, &format!("GET {path} HTTP/1.1\nhost: {host}\n{lines}\n\n")).await
}

/// Sends `text`, with line feeds as line ends, and reads one response.
pub async fn request(node: SocketAddr, text: &str) -> Reply {
    let mut transfer = Transfer::begin(node, text).await;
    transfer.finish().await
}

/// A response of which the head is here.
pub struct Transfer {
    pub reply: Reply,
    stream: BufReader<TcpStream>,
    left: Length,
}

enum Length {
    Known(u64),
    Chunked,
    ToTheEnd,
}

impl Transfer {
    pub async fn begin(node: SocketAddr, text: &str) -> Self {
        let mut stream = BufReader::new(TcpStream::connect(node).await.unwrap());
        stream.write_all(text.replace('\n', "\r\n").as_bytes()).await.unwrap();
        let status = line(&mut stream).await;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut fields = Vec::new();
        loop {
            let line = line(&mut stream).await;
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let reply = Reply { status, fields, body: Vec::new(), whole: false };
        let left = if text.starts_with("HEAD") || matches!(status, 204 | 304) {
            Length::Known(0)
        } else if reply.field("transfer-encoding") == "chunked" {
            Length::Chunked
        } else {
            reply.field("content-length").parse().map_or(Length::ToTheEnd, Length::Known)
        };
        Self { reply, stream, left }
    }

    /// Reads `count` bytes of a body of known length.
    pub async fn read(&mut self, count: u64) -> Vec<u8> {
        let Length::Known(left) = &mut self.left else {
            panic!("the length is not known");
        };
        *left -= count;
        let mut bytes = vec![0; usize::try_from(count).unwrap()];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    pub async fn finish(&mut self) -> Reply {
        let mut body = Vec::new();
        let whole = match self.left {
            Length::Known(left) => {
                let read = (&mut self.stream).take(left).read_to_end(&mut body).await;
                read.is_ok_and(|count| count as u64 == left)
            }
            Length::ToTheEnd => self.stream.read_to_end(&mut body).await.is_ok(),
            Length::Chunked => self.chunks(&mut body).await.is_some(),
        };
        Reply { status: self.reply.status, fields: self.reply.fields.clone(), body, whole }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let size = usize::from_str_radix(&line(&mut self.stream).await, 16).ok()?;
            let mut chunk = vec![0; size];
            self.stream.read_exact(&mut chunk).await.ok()?;
            body.extend(chunk);
            line(&mut self.stream).await;
            if size == 0 {
                return Some(());
            }
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = Vec::new();
    let _ = stream.read_until(b'\n', &mut line).await;
    String::from_utf8_lossy(&line).trim_end().to_owned()
}
