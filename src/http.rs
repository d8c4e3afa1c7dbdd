//! A small HTTP/1.1 client: for asking a node's admin address, and for the crowd of the demonstration.
//!
//! One connection to one address, whatever the Host header says: a browser's resolver has done its work by then.
//! Nothing here follows redirects, keeps cookies or speaks TLS; fetching from origins is `coral_proxy`'s affair.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use anyhow::{bail, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a small answer, read whole, may take.
const WHOLE_ANSWER: Duration = Duration::from_secs(30);

/// The largest answer that [`get_text`] takes: a node with thousands of neighbours stays far below it.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// A connection that is kept between requests.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to `addr`. A task of the runtime drives the connection until either side closes it.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::over(timeout(CONNECT, TcpStream::connect(addr)).await??).await
    }

    /// The same from `source`, an address of this machine.
    pub async fn open_from(source: IpAddr, addr: SocketAddr) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        Self::over(timeout(CONNECT, socket.connect(addr)).await??).await
    }

    async fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // How it ends is seen by whoever waits for an answer.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender })
    }

    /// Whether another request can be sent; not so after the far end has said that it closes.
    pub async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends `GET path` for `host` and returns the head of the answer; the body is read from it as it comes.
    pub async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<Response<Incoming>> {
        let request = Request::get(path).header(header::HOST, host).body(Full::default())?;
        Ok(self.sender.send_request(request).await?)
    }

    /// The same for the bytes `range` of it, which must not be empty.
    pub async fn get_range(&mut self, host: &str, path: &str, range: Range<u64>) -> anyhow::Result<Response<Incoming>> {
        ensure!(!range.is_empty(), "a range of no bytes cannot be asked for");
        let range = format!("bytes={}-{}", range.start, range.end - 1);
        let request =
            Request::get(path).header(header::HOST, host).header(header::RANGE, range).body(Full::default())?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends `request`, and returns the answer as text, of which there may be `most` bytes.
    pub async fn text(&mut self, request: Request<Full<Bytes>>, most: usize) -> anyhow::Result<(StatusCode, String)> {
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > most {
                bail!("the answer is longer than {most} bytes");
            }
        }
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// One small answer as text: for the admin address.
pub async fn get_text(addr: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    text_of(addr, Request::get(path).header(header::HOST, addr.to_string()).body(Full::default())?).await
}

/// The same for `text` that is sent there with a bearer `token` (RFC 6750).
pub async fn post_text(
    addr: SocketAddr,
    path: &str,
    token: &str,
    text: String,
) -> anyhow::Result<(StatusCode, String)> {
    let request = Request::post(path).header(header::HOST, addr.to_string());
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(Full::from(text))?;
    text_of(addr, request).await
}

async fn text_of(addr: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, String)> {
    let mut connection = match Connection::open(addr).await {
        Ok(connection) => connection,
        Err(e) => bail!("no node answers at {addr} ({e}); is one running, with this `admin.listen`?"),
    };
    let answer = connection.text(request, MAX_TEXT_BYTES);
    match timeout(WHOLE_ANSWER, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(e.context(format!("{addr} accepts connections, but did not answer as a node does"))),
        Err(_) => bail!("{addr} accepts connections, but has not answered within {WHOLE_ANSWER:?}"),
    }
}
