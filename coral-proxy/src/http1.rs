//! HTTP/1.1 towards clients (RFC 9112): one connection, request after request.
//!
//! This server takes no request bodies, so that what is left of the protocol is little: heads in, as [`request`] reads them with `httparse`, and framed
//! responses out ([`response`]). A hit that the URL alone decides is answered from the buffer that the request stands in ([`crate::service::plain`]);
//! everything else becomes the types of the `http` crate, and goes the way of all requests.
//!
//! One thing at a time is waited for, and what ends the connection is watched meanwhile: while a head is waited for, its time-out and the node's
//! end; while an answer is made or sent, whether the client is still there. A client who takes nothing is noticed below ([`crate::stall`]).

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::CONNECTION;
use http::{Method, Response, Version, request as head};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::Instant;

use crate::access::RequestId;
use crate::cache::body::BodyError;
use crate::connection::{Connection, LAST_HEAD};
use crate::error::ProxyError;
use crate::head_timer::HeadTimer;
use crate::headers::REQUEST_ID;
use crate::interim::Outbox;
use crate::reply::{ReplyBody, of_error};
use crate::service::plain::{Plain, PlainHit};
use request::{Framing, Read};
use response::{Ends, To};

pub(crate) mod request;
pub(crate) mod response;

/// Bytes that are read at once, as a rule: most heads have less.
const READ_BYTES: usize = 4 * 1024;
/// Up to here what belongs together is copied into one piece: that costs less than what the kernel does to look at several.
const COPIED_BYTES: usize = 4 * 1024;

/// How long, and for how many bytes, a client is listened to who was refused: were the connection closed with bytes unread, the kernel
/// would reset it, and the client might never see why (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Why a connection has ended otherwise than by both sides being through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client went before it had its answer, or in the middle of a head.
    #[error("the client went away")]
    Gone,
    /// The body broke off, and so the connection.
    #[error("the body broke off: {0}")]
    BrokenOff(BodyError),
    /// Likewise, of a body that ends with the connection: to end that as usual would make it look whole.
    #[error("the body broke off: {0}")]
    BrokenOffUnseen(BodyError),
    /// The body was not as long as its head had said.
    #[error("the body is not as long as its head says")]
    Length,
    /// What came was answered with this error.
    #[error("{0}")]
    Refused(ProxyError),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Http1<'c, S> {
    connection: &'c Connection,
    /// Whether the node stops, or another process has taken over.
    is_stopping: &'c AtomicBool,
    io: S,
    /// What has come and is not answered yet.
    received: BytesMut,
    /// What is to be written next; kept, as each response uses it.
    out: Vec<u8>,
    outbox: Outbox,
    timer: HeadTimer,
    /// When the head that is waited for is to be here.
    deadline: Option<Instant>,
    /// Likewise, once the node stops.
    last_deadline: Option<Instant>,
    /// Whether the client may still be sending when the connection ends.
    lingers: bool,
}

/// What stands in front of what was received.
enum Next<'b> {
    /// A hit that needs nothing else, and the length of its request.
    Plain(PlainHit<'b>, usize),
    /// Any other request, and its length.
    Request(head::Parts, Framing, usize),
}

/// What came of waiting for more.
enum Filled {
    More,
    /// Both sides are through.
    Nothing,
    /// The time is over.
    Late,
}

/// What is next to do for a body.
enum Step {
    /// To take this piece of it.
    Piece(Option<Result<Frame<Bytes>, BodyError>>),
    /// To write what is there before more is waited for.
    Write,
}

impl<'c, S: AsyncRead + AsyncWrite + Unpin> Http1<'c, S> {
    /// Over `io`. Once `is_stopping` is set and this is polled again, it takes no request that is not on its way.
    pub(crate) fn new(connection: &'c Connection, is_stopping: &'c AtomicBool, io: S) -> Self {
        Self {
            connection,
            is_stopping,
            io,
            received: BytesMut::new(),
            out: Vec::new(),
            outbox: Outbox::default(),
            timer: HeadTimer::default(),
            deadline: None,
            last_deadline: None,
            lingers: false,
        }
    }

    /// Answers requests until the connection ends. Gives back what it was written through.
    pub(crate) async fn serve(mut self) -> (S, Result<(), Ended>) {
        let ended = self.requests().await;
        if matches!(ended, Ok(()) | Err(Ended::Refused(_))) {
            // Whoever is gone already need not be told that this is the end.
            let _ = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await;
            if self.lingers {
                self.linger().await;
            }
        }
        (self.io, ended)
    }

    async fn requests(&mut self) -> Result<(), Ended> {
        let max_header = self.connection.max_header();
        loop {
            let read = match self.received.is_empty() {
                true => Read::Partial,
                false => self.read().await?,
            };
            match read {
                Read::Head(None) => {}
                Read::Head(Some((head, framing))) => {
                    if !self.answer(head, framing).await? {
                        return Ok(());
                    }
                }
                Read::Partial if self.received.len() >= max_header => {
                    return self.refuse(ProxyError::HeadTooLong).await;
                }
                Read::Partial => match self.fill().await? {
                    Filled::More => {}
                    Filled::Late if !self.received.is_empty() && !self.is_stopping() => {
                        return self.refuse(ProxyError::HeadTimeout).await;
                    }
                    Filled::Late | Filled::Nothing => return Ok(()),
                },
                Read::Bad(error) => return self.refuse(error).await,
                Read::Foreign => return Ok(()),
            }
        }
    }

    /// Reads a head. `None` if it was a plain request, which is answered already.
    async fn read(&mut self) -> Result<Read<Option<(head::Parts, Framing)>>, Ended> {
        let (request, length) = match next(self.connection, self.is_stopping, &self.received) {
            Read::Head(Next::Plain(hit, length)) => {
                let _handled = self.connection.in_hand.take();
                send_plain(&mut self.io, &mut self.out, hit).await?;
                (None, length)
            }
            Read::Head(Next::Request(head, framing, length)) => (Some((head, framing)), length),
            Read::Partial => return Ok(Read::Partial),
            Read::Bad(error) => return Ok(Read::Bad(error)),
            Read::Foreign => return Ok(Read::Foreign),
        };
        self.taken(length);
        Ok(Read::Head(request))
    }

    /// Notes that a request of `length` bytes is in hand.
    fn taken(&mut self, length: usize) {
        self.received.advance(length);
        self.deadline = None;
        self.connection.served.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Waits for more of a head.
    async fn fill(&mut self) -> Result<Filled, Ended> {
        poll_fn(|cx| match poll_receive(&mut self.io, &mut self.received, cx) {
            Poll::Ready(Ok(0)) if self.received.is_empty() => Poll::Ready(Ok(Filled::Nothing)),
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Ended::Gone)),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(Filled::More)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => self.poll_given_up(cx).map(Ok),
        })
        .await
    }

    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<Filled> {
        let limit = self.connection.service.fetcher.config.client.header_timeout;
        let mut deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limit);
        // Nothing is closed while another process takes over: a request may be on its way, whose response says that it is the last one here.
        if self.is_stopping() && !self.connection.is_leaving() {
            if self.received.is_empty() && self.connection.served.load(Ordering::Relaxed) {
                return Poll::Ready(Filled::Nothing);
            }
            deadline = deadline.min(*self.last_deadline.get_or_insert_with(|| Instant::now() + LAST_HEAD));
        }
        self.timer.poll_until(deadline, cx).map(|()| Filled::Late)
    }

    /// Answers a request. Whether the connection can be used again.
    async fn answer(&mut self, head: head::Parts, framing: Framing) -> Result<bool, Ended> {
        let connection = self.connection;
        let _handled = connection.in_hand.take();
        let (version, is_head) = (head.version, head.method == Method::HEAD);
        let outbox = self.outbox.clone();
        self.out.clear();
        let response = {
            let ticket = outbox.ticket(version);
            let mut answer = pin!(connection.service.answer(connection.caller(), head, framing.has_body, ticket));
            let (io, received, out) = (&mut self.io, &mut self.received, &mut self.out);
            poll_fn(|cx| {
                if let Poll::Ready(response) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Ok(response));
                }
                while let Poll::Ready(interim) = outbox.poll_next(cx) {
                    response::interim(out, &interim);
                }
                if !out.is_empty() {
                    ready!(poll_write_out(io, out, cx))?;
                }
                poll_gone(io, received, cx).map(Err)
            })
            .await?
        };
        while let Some(interim) = outbox.next_before_answer() {
            response::interim(&mut self.out, &interim);
        }
        let keep_alive = framing.keep_alive && !framing.has_body && !self.is_stopping() && !connection.is_leaving();
        let stays = self.send(response, To { version, is_head, keep_alive }).await?;
        // Whoever has said that this is the last one sends no more.
        self.lingers = !stays && (framing.keep_alive || framing.has_body);
        Ok(stays)
    }

    /// Answers what is no request that can be read. It is the last answer, as nobody knows where the next request begins.
    async fn refuse(&mut self, error: ProxyError) -> Result<(), Ended> {
        self.out.clear();
        let id = RequestId::new();
        let mut response = of_error(&error, &Method::GET, id);
        response.headers_mut().insert(REQUEST_ID, id.value());
        self.lingers = true;
        self.send(response, To { version: Version::HTTP_11, is_head: false, keep_alive: false }).await?;
        Err(Ended::Refused(error))
    }

    /// Sends a response, behind what is to be written already. Whether the connection can be used again.
    async fn send(&mut self, response: Response<ReplyBody>, to: To) -> Result<bool, Ended> {
        let (head, mut body) = response.into_parts();
        let length = body.size_hint().exact();
        let (ends, keep_alive) = response::head(&mut self.out, to, head.status, &head.headers, length);
        let mut left = match ends {
            Ends::After(length) => length,
            Ends::AtOnce | Ends::WithChunk | Ends::WithConnection => 0,
        };
        while ends != Ends::AtOnce
            && let Some(piece) = self.piece(&mut body, ends).await?
        {
            match ends {
                // An empty chunk would be the last one.
                Ends::WithChunk if piece.is_empty() => continue,
                Ends::WithChunk => response::chunk(&mut self.out, piece.len()),
                Ends::After(_) => left = left.checked_sub(piece.len() as u64).ok_or(Ended::Length)?,
                Ends::AtOnce | Ends::WithConnection => {}
            }
            let behind: &[u8] = if ends == Ends::WithChunk { b"\r\n" } else { b"" };
            if self.out.len() + piece.len() <= COPIED_BYTES {
                self.out.extend_from_slice(&piece);
                self.out.extend_from_slice(behind);
            } else {
                write_all(&mut self.io, [&self.out, &piece, behind]).await?;
                self.out.clear();
            }
        }
        if left > 0 {
            return Err(Ended::Length);
        }
        if ends == Ends::WithChunk {
            self.out.extend_from_slice(response::LAST_CHUNK);
        }
        self.write_out().await?;
        Ok(keep_alive)
    }

    /// The next piece of a body that `ends` so. Before it is waited for, what is there is written.
    async fn piece(&mut self, body: &mut ReplyBody, ends: Ends) -> Result<Option<Bytes>, Ended> {
        loop {
            let step = poll_fn(|cx| {
                if let Poll::Ready(piece) = Pin::new(&mut *body).poll_frame(cx) {
                    return Poll::Ready(Ok(Step::Piece(piece)));
                }
                if !self.out.is_empty() {
                    return Poll::Ready(Ok(Step::Write));
                }
                poll_gone(&mut self.io, &mut self.received, cx).map(Err)
            });
            match step.await? {
                Step::Write => self.write_out().await?,
                Step::Piece(None) => return Ok(None),
                // No body here has trailers.
                Step::Piece(Some(Ok(frame))) => return Ok(Some(frame.into_data().unwrap_or_default())),
                Step::Piece(Some(Err(error))) => {
                    return Err(match ends {
                        Ends::WithConnection => Ended::BrokenOffUnseen(error),
                        _ => Ended::BrokenOff(error),
                    });
                }
            }
        }
    }

    async fn write_out(&mut self) -> io::Result<()> {
        write_all(&mut self.io, [&self.out]).await?;
        self.out.clear();
        poll_fn(|cx| Pin::new(&mut self.io).poll_flush(cx)).await
    }

    /// Reads what a client still sends who was refused.
    async fn linger(&mut self) {
        let mut left = LINGER_BYTES;
        let listening = async {
            while left > 0 {
                self.received.clear();
                match poll_fn(|cx| poll_receive(&mut self.io, &mut self.received, cx)).await {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => left = left.saturating_sub(bytes),
                }
            }
        };
        // However it ends, the connection does.
        let _ = tokio::time::timeout(LINGER, listening).await;
    }
}

/// What stands in front of `received`.
fn next<'b>(connection: &'b Connection, is_stopping: &AtomicBool, received: &'b [u8]) -> Read<Next<'b>> {
    let service = &*connection.service;
    let most_fields = service.fetcher.config.client.max_headers.get();
    request::read(received, most_fields, |head| {
        if head.length > connection.max_header() {
            return Err(ProxyError::HeadTooLong);
        }
        let framing = head.framing()?;
        let may_be_plain = framing == Framing { has_body: false, keep_alive: true }
            && head.version == Version::HTTP_11
            && !is_stopping.load(Ordering::Relaxed)
            && !connection.is_leaving();
        // What this one says was understood.
        let others = || head.fields.iter().filter(|field| !field.name.eq_ignore_ascii_case(CONNECTION.as_str()));
        if may_be_plain
            && let Some(plain) = Plain::of(head.method, head.target, others().map(|field| (field.name, field.value)))
            && let Some(hit) = service.plain_hit(&connection.caller(), plain, usize::MAX)
        {
            return Ok(Next::Plain(hit, head.length));
        }
        Ok(Next::Request(head.to_parts()?, framing, head.length))
    })
}

/// Sends the answer to a plain request.
async fn send_plain<S>(io: &mut S, out: &mut Vec<u8>, mut hit: PlainHit<'_>) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    out.clear();
    hit.write_head(out);
    let head_bytes = out.len();
    let body = hit.body.clone();
    let behind = if body.len() <= COPIED_BYTES {
        out.extend_from_slice(&body);
        Bytes::new()
    } else {
        body
    };
    let mut pieces = [IoSlice::new(out), IoSlice::new(&behind)];
    let mut left = &mut pieces[..if behind.is_empty() { 1 } else { 2 }];
    let mut written = 0;
    while !left.is_empty() {
        let bytes = write_some(io, left).await?;
        IoSlice::advance_slices(&mut left, bytes);
        written += bytes;
        hit.sent = written.saturating_sub(head_bytes);
    }
    poll_fn(|cx| Pin::new(&mut *io).poll_flush(cx)).await
}

/// Writes all of these, one behind the other.
async fn write_all<S, const N: usize>(io: &mut S, pieces: [&[u8]; N]) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let mut pieces = pieces.map(IoSlice::new);
    let mut left = &mut pieces[..];
    // The empty ones in front.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let bytes = write_some(io, left).await?;
        IoSlice::advance_slices(&mut left, bytes);
    }
    Ok(())
}

/// Writes some of these, at least a byte.
async fn write_some<S>(io: &mut S, pieces: &[IoSlice<'_>]) -> io::Result<usize>
where
    S: AsyncWrite + Unpin,
{
    let written = poll_fn(|cx| match pieces {
        // The kernel has less to look at.
        [piece] => Pin::new(&mut *io).poll_write(cx, piece),
        _ => Pin::new(&mut *io).poll_write_vectored(cx, pieces),
    });
    match written.await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        bytes => Ok(bytes),
    }
}

/// Writes all of `out`, which is empty then.
fn poll_write_out<S>(io: &mut S, out: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
where
    S: AsyncWrite + Unpin,
{
    while !out.is_empty() {
        match ready!(Pin::new(&mut *io).poll_write(cx, out))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => drop(out.drain(..written)),
        }
    }
    Pin::new(io).poll_flush(cx)
}

/// Reads what comes.
fn poll_receive<S>(io: &mut S, received: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
where
    S: AsyncRead + Unpin,
{
    if received.capacity() - received.len() < READ_BYTES / 4 {
        received.reserve(READ_BYTES);
    }
    pin!(io.read_buf(received)).poll(cx)
}

/// Ready when the client is gone. It is not looked for where the client has sent more already.
fn poll_gone<S>(io: &mut S, received: &mut BytesMut, cx: &mut Context<'_>) -> Poll<Ended>
where
    S: AsyncRead + Unpin,
{
    if !received.is_empty() {
        return Poll::Pending;
    }
    match ready!(poll_receive(io, received, cx)) {
        Ok(0) => Poll::Ready(Ended::Gone),
        Ok(_) => Poll::Pending,
        Err(error) => Poll::Ready(error.into()),
    }
}
