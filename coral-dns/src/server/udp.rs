//! UDP: a thread for each socket, which answers as it reads.
//!
//! Working out an answer never waits, so a blocking thread needs no runtime around it: two system calls a query, and none
//! while nobody asks. What is to be sent later, and only that, becomes a task of the runtime that the server was started on.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, Shutdown, SockaddrStorage, recvfrom, sendto, shutdown};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{DRAIN, entropy, is_exhausted, is_passing};
use crate::error::DnsError;
use crate::handler::{Handler, MAX_QUERY_BYTES, Message, Outcome, Scratch, Transport};
use crate::metrics::Metrics;
use crate::proximity::Client;

/// Datagrams that had arrived before the stop and are still answered, for each socket.
const LAST_DATAGRAMS: usize = 1024;

/// Datagrams that are to wake a thread: which socket of several a datagram goes to hangs on where it comes from.
const NUDGES: usize = 8;

/// Answers that wait for a measurement, or are held back, at once and for each socket. Further ones are sent as they are.
const MAX_WAITING: usize = 1024;

/// Of so many queries one is timed: a histogram has a lock.
const TIMED: u64 = 16;

/// How a thread ends: with the answers that still wait, or because its socket broke.
type Ending = Result<JoinSet<()>, DnsError>;

/// A thread that reads a socket. Dropping this ends it at once, and waits for that.
#[derive(Debug)]
pub(super) struct Reader {
    socket: Arc<UdpSocket>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// What a thread is told. Only ever read while it answers, so that it stays in the cache of each core.
#[derive(Debug, Default)]
struct Stop {
    is_due: AtomicBool,
    is_at_once: AtomicBool,
    is_for_another: AtomicBool,
}

impl Stop {
    fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Acquire)
    }

    fn is_at_once(&self) -> bool {
        self.is_at_once.load(Ordering::Acquire)
    }

    /// Whether another process goes on reading the socket.
    fn is_for_another(&self) -> bool {
        self.is_for_another.load(Ordering::Acquire)
    }
}

impl Reader {
    /// Has the thread with this number answer what comes in at `socket`. Tasks of the current runtime send what is to be sent later.
    pub(super) fn start(
        number: usize,
        socket: UdpSocket,
        handler: Arc<Handler>,
        metrics: Metrics,
    ) -> Result<(Self, oneshot::Receiver<Ending>), DnsError> {
        let scratch = handler.scratch(entropy()?).of_thread(number);
        let runtime = Handle::current();
        Self::start_with(socket, |socket| {
            let answering = Answering {
                socket,
                handler,
                metrics,
                runtime,
                scratch,
                waiting: JoinSet::new(),
                out: Vec::new(),
                queries: 0,
            };
            |stop| answering.run(stop)
        })
    }

    /// The same, with what `make` makes of the socket as the thread's work.
    fn start_with<W: FnOnce(&Stop) -> Ending + Send + 'static>(
        socket: UdpSocket,
        make: impl FnOnce(Arc<UdpSocket>) -> W,
    ) -> Result<(Self, oneshot::Receiver<Ending>), DnsError> {
        let failed = |source| DnsError::Socket { transport: "udp", source };
        socket.set_nonblocking(false).map_err(failed)?;
        if cfg!(not(target_os = "linux")) {
            // Nothing promises there that `shutdown` wakes whoever waits at a socket without a peer.
            socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(failed)?;
        }
        let (socket, stop) = (Arc::new(socket), Arc::new(Stop::default()));
        let work = make(Arc::clone(&socket));
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("dns-udp".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            // After a panic the receiver learns that there will be no word.
            move || drop(end.send(work(&stop)))
        });
        let thread = Some(thread.map_err(|source| DnsError::Thread { source })?);
        Ok((Self { socket, stop, thread }, ended))
    }

    /// Has the thread end once it has answered what has arrived.
    pub(super) fn stop(&self) {
        self.stop.is_due.store(true, Ordering::Release);
        // Linux says that a socket without a peer is not connected, and yet wakes whoever waits at it, and lets nobody wait
        // from then on. What has arrived can still be read.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
    }

    /// Has the thread read no more, as another process does that from now on, with the same socket; to shut that down, or to change
    /// its mode, would do so for both.
    ///
    /// What wakes it is a datagram. One of ours that goes to another socket of the same address, or is lost, does no harm: then it
    /// is a query, which it answers as well as the other process could.
    pub(super) fn leave(&self) {
        self.stop.is_for_another.store(true, Ordering::Release);
        self.stop.is_due.store(true, Ordering::Release);
        let nudge = || {
            let mut to = self.socket.local_addr()?;
            if to.ip().is_unspecified() {
                to.set_ip(if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            UdpSocket::bind((to.ip(), 0))?.send_to(&[], to)
        };
        for _ in 0..NUDGES {
            let _: io::Result<usize> = nudge();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.stop.is_for_another() {
            return;
        }
        self.stop.is_at_once.store(true, Ordering::Release);
        self.stop();
        if let Some(thread) = self.thread.take() {
            // No longer than an answer takes. A panic was told to whoever waits for the end.
            let _ = thread.join();
        }
    }
}

/// Waits for a thread's end, and then for the answers that it leaves behind, which wait for less than that.
pub(super) async fn end(ended: oneshot::Receiver<Ending>) -> Result<(), DnsError> {
    let mut waiting = ended.await.unwrap_or(Err(DnsError::Panicked))?;
    let _ = timeout(DRAIN, async { while waiting.join_next().await.is_some() {} }).await;
    Ok(())
}

/// What a thread works with.
#[derive(Debug)]
struct Answering {
    socket: Arc<UdpSocket>,
    handler: Arc<Handler>,
    metrics: Metrics,
    runtime: Handle,
    scratch: Scratch,
    /// Answers to be sent later, and some that were.
    waiting: JoinSet<()>,
    /// The answer under construction.
    out: Vec<u8>,
    /// Counts queries, as only some are timed.
    queries: u64,
}

impl Answering {
    fn run(mut self, stop: &Stop) -> Ending {
        // Once, for all that asks for the time or for the runtime.
        let runtime = self.runtime.clone();
        let _context = runtime.enter();
        let mut buffer = [0; MAX_QUERY_BYTES];
        while !stop.is_due() {
            match receive(&self.socket, &mut buffer) {
                Ok((length, from)) => self.answer(&buffer[..length], from, true),
                // That is how a call ends that the stop has woken.
                Err(_) if stop.is_due() => {}
                Err(error) if is_passing(&error) || is_exhausted(&error) => self.handler.dropped("receive"),
                Err(source) => return Err(DnsError::Socket { transport: "udp", source }),
            }
        }
        if stop.is_for_another() {
            return Ok(self.waiting);
        }
        let is_set = self.socket.set_nonblocking(true).is_ok();
        for _ in 0..LAST_DATAGRAMS {
            let Ok((length, from)) = receive(&self.socket, &mut buffer) else {
                break;
            };
            if !is_set || stop.is_at_once() {
                break;
            }
            self.answer(&buffer[..length], from, false);
        }
        Ok(self.waiting)
    }

    fn answer(&mut self, query: &[u8], from: SocketAddr, may_wait: bool) {
        let may_wait = may_wait && self.has_room();
        self.out.clear();
        let start = Instant::now();
        let message = Message { from, transport: Transport::Udp, bytes: query, may_wait, is_again: false };
        let outcome = self.handler.respond(&mut self.scratch, start, message, &mut self.out);
        self.queries += 1;
        if self.queries.is_multiple_of(TIMED) {
            self.metrics.seconds.observe(start.elapsed().as_secs_f64());
        }
        match outcome {
            Outcome::Nothing => {}
            Outcome::Send => {
                // The asker will ask again.
                if self.socket.send_to(&self.out, from).is_err() {
                    self.handler.dropped("send");
                }
            }
            Outcome::SendAfter(hold) => self.send_after(hold, from),
            Outcome::Wait(client) => self.answer_later(client, query, from),
        }
    }

    /// Whether one more answer may wait.
    fn has_room(&mut self) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            self.clear();
        }
        self.waiting.len() < MAX_WAITING
    }

    /// Forgets the tasks that have ended.
    fn clear(&mut self) {
        while self.waiting.try_join_next().is_some() {}
    }

    fn send_after(&mut self, hold: Duration, to: SocketAddr) {
        self.clear();
        let (socket, handler, answer) = (Arc::clone(&self.socket), Arc::clone(&self.handler), self.out.clone());
        let sending = async move {
            sleep(hold).await;
            send_at_once(&socket, &handler, &answer, to);
        };
        self.waiting.spawn_on(sending, &self.runtime);
    }

    /// Answers once `client` is measured.
    fn answer_later(&mut self, client: Client, query: &[u8], from: SocketAddr) {
        self.clear();
        let (socket, handler, query) = (Arc::clone(&self.socket), Arc::clone(&self.handler), query.to_vec());
        let mut scratch = Box::new(handler.scratch(self.scratch.seed()));
        let answering = async move {
            handler.measured(&client).await;
            let (mut out, now) = (Vec::new(), Instant::now());
            let (bytes, transport) = (&query[..], Transport::Udp);
            let message = Message { from, transport, bytes, may_wait: false, is_again: true };
            if handler.respond(&mut scratch, now, message, &mut out) == Outcome::Send {
                send_at_once(&socket, &handler, &out, from);
            }
        };
        self.waiting.spawn_on(answering, &self.runtime);
    }
}

/// Waits for a datagram, and fails with `NotConnected` where the socket was shut down. The standard library's function takes
/// for granted that there is a sender, and panics then.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    let (length, from) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), buffer)?;
    let from = from.as_ref().and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::from(*from));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::from(*from)))
    });
    Ok((length, from.ok_or(io::ErrorKind::NotConnected)?))
}

/// Sends, or drops what there is no room for: a task of the runtime waits for nobody, while a thread may.
fn send_at_once(socket: &UdpSocket, handler: &Handler, answer: &[u8], to: SocketAddr) {
    let to = SockaddrStorage::from(to);
    if sendto(socket.as_raw_fd(), answer, &to, MsgFlags::MSG_DONTWAIT).is_err() {
        handler.dropped("send");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Longer than anything here takes; only a failure waits for it.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn socket() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    /// A thread that waits at its socket, and tells the length of what it receives until that fails.
    fn waiting() -> (Reader, oneshot::Receiver<Ending>, mpsc::Receiver<io::Result<usize>>) {
        let (tell, told) = mpsc::channel();
        let (reader, ended) = Reader::start_with(socket(), |socket| {
            move |_: &Stop| {
                let mut buffer = [0; 9];
                loop {
                    let received = receive(&socket, &mut buffer).map(|(length, _)| length);
                    let is_end = received.is_err();
                    tell.send(received).unwrap();
                    if is_end {
                        return Ok(JoinSet::new());
                    }
                }
            }
        })
        .unwrap();
        (reader, ended, told)
    }

    #[tokio::test]
    async fn a_stop_wakes_who_waits_and_loses_nothing_that_has_arrived() {
        let (reader, ended, told) = waiting();
        let address = reader.socket.local_addr().unwrap();
        socket().send_to(b"seven", address).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), 5);
        socket().send_to(b"six", address).unwrap();
        reader.stop();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), 3);
        let error = told.recv_timeout(PATIENCE).expect("the call returns").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert!(matches!(end(ended).await, Ok(())));
    }

    #[tokio::test]
    async fn who_leaves_wakes_and_the_socket_serves_another() {
        let socket = socket();
        let (address, other) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
        let (reader, ended) = Reader::start_with(socket, |socket| {
            move |stop: &Stop| {
                while !stop.is_due() {
                    receive(&socket, &mut [0; 9]).unwrap();
                }
                Ok(JoinSet::new())
            }
        })
        .unwrap();
        reader.leave();
        assert!(matches!(end(ended).await, Ok(())));
        drop(reader);
        self::socket().send_to(b"seven", address).unwrap();
        let mut buffer = [0; 9];
        // Behind what was to wake the thread.
        while other.recv_from(&mut buffer).unwrap().0 != 5 {}
    }

    #[tokio::test]
    async fn dropped_it_has_closed_its_socket() {
        let (reader, _ended, _told) = waiting();
        let address = reader.socket.local_addr().unwrap();
        assert_eq!(UdpSocket::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(reader);
        UdpSocket::bind(address).unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let start = Reader::start_with(socket(), |_| |_: &Stop| panic!("a bug, as the test wants it"));
        let (_reader, ended) = start.unwrap();
        assert!(matches!(end(ended).await, Err(DnsError::Panicked)));
    }
}
