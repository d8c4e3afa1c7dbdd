//! HTTP/2 towards clients (RFC 9113), over the `h2` crate: many requests at once on one connection.
//!
//! All requests that have come are taken together, and plain hits ([`crate::service::plain`]) are answered at once, so that their responses leave in one write ([`batch`]). Every
//! other request is a task of its own, which ends with the connection.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::config::Config;
use crate::connection::{Connection, LAST_HEAD, stopped};
use crate::http1::response::date;
use crate::interim::Outbox;
use crate::limits::Handled;
use crate::reply::ReplyBody;
use crate::service::plain::Plain;
use crate::stall::Progress;
use batch::{Batch, Hold};

mod batch;

/// Requests that one connection may have under way at once: as many as browsers ask for.
const MAX_STREAMS: u32 = 100;

/// Bytes of a response that are taken beyond what the client has asked for.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Fields that are of HTTP/1.1 connections (RFC 9113 §8.2.2).
const OF_CONNECTIONS: [HeaderName; 3] = [CONNECTION, TRANSFER_ENCODING, UPGRADE];

type Incoming = (Request<RecvStream>, SendResponse<Bytes>);

/// Answers requests over `io` until the connection ends, which it also does when nothing is written for too long or the node is to stop:
/// then the requests in hand are answered and no more are taken.
pub(crate) async fn serve<S>(
    connection: &Arc<Connection>,
    io: S,
    progress: Progress,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = &connection.service.fetcher.config;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(connection.max_header()).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    let hold = Hold::default();
    let io = Batch::new(io, hold.clone());
    let Ok(h2) = timeout(config.client.header_timeout, builder.handshake(io)).await else {
        return Ok(());
    };
    let mut h2 = h2?;
    let mut tasks = JoinSet::new();
    let mut incoming: Vec<Incoming> = Vec::new();
    let mut over = pin!(async {
        tokio::select! { () = stopped(stop) => {}, () = idle(connection, &progress) => {} }
    });
    let mut end = End::default();
    loop {
        let lives = poll_fn(|cx| {
            hold.set(true);
            loop {
                match h2.poll_accept(cx)? {
                    Poll::Ready(Some(request)) => incoming.push(request),
                    Poll::Ready(None) => return Poll::Ready(Ok::<_, h2::Error>(false)),
                    Poll::Pending if !incoming.is_empty() => return Poll::Ready(Ok(true)),
                    // Before anything is waited for, all that there is leaves.
                    Poll::Pending if hold.set(false) => {}
                    Poll::Pending if end.timer.is_none() && over.as_mut().poll(cx).is_ready() => {
                        h2.graceful_shutdown();
                        end.begin();
                    }
                    Poll::Pending => return end.poll_over(connection, config, cx).map(|()| Ok(false)),
                }
            }
        });
        if !lives.await? {
            return Ok(());
        }
        for (request, mut respond) in incoming.drain(..) {
            let handled = connection.in_hand.take();
            connection.served.store(true, Ordering::Relaxed);
            if !answer_plain(connection, &request, &mut respond) {
                tasks.spawn(answer(Arc::clone(connection), request, respond, handled));
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// How a connection comes to its end.
#[derive(Debug, Default)]
struct End {
    /// None before that has begun.
    timer: Option<Pin<Box<Sleep>>>,
    is_last: bool,
}

impl End {
    /// What is on its way arrives.
    fn begin(&mut self) {
        self.timer = Some(Box::pin(sleep_until(Instant::now() + LAST_HEAD)));
    }

    /// Ready when nobody is waited for any more.
    fn poll_over(&mut self, connection: &Connection, config: &Config, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        while timer.as_mut().poll(cx).is_ready() {
            if self.is_last || connection.in_hand.is_empty() {
                return Poll::Ready(());
            }
            // Who takes nothing is waited for as long as any origin.
            timer.as_mut().reset(Instant::now() + longest_pause(config));
            self.is_last = true;
        }
        Poll::Pending
    }
}

/// How long a response may have nothing to send, whatever it waits for.
fn longest_pause(config: &Config) -> Duration {
    config.origin.first_byte_timeout.max(config.peer.patience) + config.client.stall_timeout
}

/// Waits until nothing has been sent for as long as may be: without a request in hand as in HTTP/1.1, and with one until every
/// origin would have been given up, as the client then has closed its window to us.
async fn idle(connection: &Connection, progress: &Progress) {
    let config = &connection.service.fetcher.config;
    let limit = config.client.header_timeout;
    let mut before = progress.bytes();
    let mut still = Duration::ZERO;
    loop {
        tokio::time::sleep(limit).await;
        let now = progress.bytes();
        still = if now == before { still + limit } else { Duration::ZERO };
        before = now;
        let most = if connection.in_hand.is_empty() { limit } else { longest_pause(config) };
        if still >= most {
            return;
        }
    }
}

/// Answers a request if it is a plain one and a hit. Whether that was so.
fn answer_plain(connection: &Connection, request: &Request<RecvStream>, respond: &mut SendResponse<Bytes>) -> bool {
    if !request.body().is_end_stream() {
        return false;
    }
    let Some(mut hit) = Plain::of_http2(request)
        .and_then(|plain| connection.service.plain_hit(&connection.caller(), plain, SEND_BUFFER_BYTES))
    else {
        return false;
    };
    // An error is that the client does not want it any more.
    let length = hit.body.len();
    if let Ok(mut stream) = respond.send_response(hit.response(), length == 0)
        && (length == 0 || stream.send_data(hit.body.clone(), true).is_ok())
    {
        hit.sent = length;
    }
    true
}

/// Answers any other request.
async fn answer(
    connection: Arc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    handled: Handled,
) {
    let (head, body) = request.into_parts();
    let (has_body, is_head) = (!body.is_end_stream(), head.method == Method::HEAD);
    let outbox = Outbox::default();
    let ticket = outbox.ticket(head.version);
    let response = {
        let mut answer = pin!(connection.service.answer(connection.caller(), head, has_body, ticket));
        poll_fn(|cx| {
            if let Poll::Ready(response) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            while let Poll::Ready(interim) = outbox.poll_next(cx) {
                send_interim(&mut respond, interim.status, interim.headers);
            }
            // Taken back.
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    while let Some(interim) = outbox.next_before_answer() {
        send_interim(&mut respond, interim.status, interim.headers);
    }
    if let Some(response) = response
        && let Err(error) = send(response, &mut respond, is_head).await
    {
        tracing::debug!(client = %connection.client, %error, "a response was not taken");
    }
    drop(handled);
}

fn send_interim(respond: &mut SendResponse<Bytes>, status: StatusCode, headers: http::HeaderMap) {
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    OF_CONNECTIONS.iter().for_each(|name| drop(response.headers_mut().remove(name)));
    // Without it the client waits a little longer for what it would have hinted at.
    let _ = respond.send_informational(response);
}

/// Sends a response.
async fn send(
    response: Response<ReplyBody>,
    respond: &mut SendResponse<Bytes>,
    is_head: bool,
) -> Result<(), h2::Error> {
    let (mut head, mut body) = response.into_parts();
    let headers = &mut head.headers;
    OF_CONNECTIONS.iter().for_each(|name| drop(headers.remove(name)));
    if !headers.contains_key(DATE) {
        let now = HeaderValue::from_bytes(&date(SystemTime::now())).expect("a date is ASCII");
        headers.insert(DATE, now);
    }
    let has_none = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !has_none
        && !headers.contains_key(CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let head = Response::from_parts(head, ());
    if has_none || body.is_end_stream() {
        return respond.send_response(head, true).map(drop);
    }
    let mut stream = respond.send_response(head, false)?;
    loop {
        let piece = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(piece) => Poll::Ready(Ok(piece)),
            Poll::Pending => stream.poll_reset(cx).map(|reset| Err(reset.map_or_else(|error| error, Into::into))),
        });
        match piece.await? {
            None => return stream.send_data(Bytes::new(), true),
            // No body here has trailers.
            Some(Ok(piece)) => {
                let is_last = body.is_end_stream();
                send_piece(&mut stream, piece.into_data().unwrap_or_default(), is_last).await?;
                if is_last {
                    return Ok(());
                }
            }
            Some(Err(_)) => {
                // What is cut must not look whole (RFC 9113 §8.1).
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
        }
    }
}

/// Sends a piece of a body as the client makes room for it.
async fn send_piece(stream: &mut SendStream<Bytes>, mut piece: Bytes, is_last: bool) -> Result<(), h2::Error> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap_or(Err(Reason::CANCEL.into()))?;
        let part = piece.split_to(room.min(piece.len()));
        if !part.is_empty() {
            stream.send_data(part, is_last && piece.is_empty())?;
        }
    }
    Ok(())
}
