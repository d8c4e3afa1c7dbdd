//! What one host can measure of its way to another: round trips, losses, rates, and the routers between.
//!
//! Each function runs inside the sender's namespace; [`Echo`] and [`Sink`] are threads inside the receiver's. All of them are on
//! one machine and have one clock, so that times of one way can be measured, too.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, recvfrom, setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::os::fd::AsRawFd as _;

use crate::netns::Namespace;
use crate::wan::packet;
use crate::wan::server::priority;

/// A thread that sends datagrams back, and says of each when it came.
#[derive(Debug)]
pub(super) struct Echo {
    thread: Worker,
    arrivals: mpsc::Receiver<Arrival>,
}

/// A datagram at its receiver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) number: u32,
    pub(super) at: Instant,
}

/// A thread that takes connections and all that they bring.
#[derive(Debug)]
pub(super) struct Sink {
    thread: Worker,
    bytes: Arc<AtomicU64>,
}

/// A thread that ends when this is dropped.
#[derive(Debug)]
struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || work(&stop)
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A worker that has panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Echo {
    /// Starts one inside a namespace, for both families.
    pub(super) fn start(host: &Namespace) -> anyhow::Result<Self> {
        let socket = host.run(|| UdpSocket::bind(("::", ECHO_PORT)))?.context("cannot open the echo port")?;
        socket.set_read_timeout(Some(TICK))?;
        let (sender, arrivals) = mpsc::channel();
        let thread = Worker::start(move |stop| {
            before_others();
            let mut bytes = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let at = Instant::now();
                    // Lost like any other datagram, if the other end has gone.
                    let _ = socket.send_to(&bytes[..length], from);
                    if let Some(number) = number_of(&bytes[..length]) {
                        let _ = sender.send(Arrival { number, at });
                    }
                }
            }
        });
        Ok(Self { thread, arrivals })
    }

    /// Those that have arrived since the last call.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        debug_assert!(self.thread.thread.is_some(), "the thread ends with the echo");
        self.arrivals.try_iter().collect()
    }
}

impl Sink {
    /// Starts one inside a namespace.
    pub(super) fn start(host: &Namespace) -> anyhow::Result<Self> {
        let listener =
            host.run(|| TcpListener::bind(("::", SINK_PORT)))?.context("cannot open the port of the sink")?;
        // Linux has it for accept, too; the connections that come of it have their own.
        let tick = TimeVal::microseconds(i64::try_from(TICK.as_micros())?);
        setsockopt(&listener, ReceiveTimeout, &tick).context("cannot set a time-out")?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        let thread = Worker::start(move |stop| {
            let mut buffer = vec![0; 256 << 10];
            while !stop.load(Ordering::Relaxed) {
                // One connection after the other: there is one for a measurement.
                if let Ok((stream, _)) = listener.accept() {
                    count_bytes(stream, &mut buffer, &counted, stop);
                }
            }
        });
        Ok(Self { thread, bytes })
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        debug_assert!(self.thread.thread.is_some(), "the thread ends with the sink");
        self.bytes.load(Ordering::Relaxed)
    }
}

fn count_bytes(mut stream: TcpStream, buffer: &mut [u8], counted: &AtomicU64, stop: &AtomicBool) {
    if stream.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(buffer) {
            Ok(length @ 1..) => drop(counted.fetch_add(length as u64, Ordering::Relaxed)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Round trips to an echo, one after the other; those that took more than [`PATIENCE`] are missing.
pub(super) fn round_trips(to: IpAddr, count: u32) -> io::Result<Vec<Duration>> {
    before_others();
    let socket = connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        socket.send(&number.to_be_bytes())?;
        let mut bytes = [0; 64];
        // Whatever comes late belongs to an earlier one.
        while let Ok(length) = socket.recv(&mut bytes) {
            if number_of(&bytes[..length]) == Some(number) {
                times.push(begun.elapsed());
                break;
            }
            if begun.elapsed() > PATIENCE {
                break;
            }
        }
    }
    Ok(times)
}

/// Whether an echo answers within a time.
pub(super) fn answers(to: IpAddr, within: Duration) -> io::Result<bool> {
    let socket = connect(to)?;
    socket.set_read_timeout(Some(within))?;
    socket.send(&0u32.to_be_bytes())?;
    Ok(socket.recv(&mut [0; 64]).is_ok())
}

/// Sends datagrams at an even pace, and says when each was sent.
pub(super) fn stream(to: IpAddr, count: u32, pace: Duration) -> io::Result<Vec<Instant>> {
    before_others();
    let socket = connect(to)?;
    let begun = Instant::now();
    let mut sent = Vec::new();
    for number in 0..count {
        // The pace is what is wanted here, not a condition: packets are to be spread over time.
        thread::sleep((pace * number).saturating_sub(begun.elapsed()));
        sent.push(Instant::now());
        socket.send(&number.to_be_bytes())?;
    }
    Ok(sent)
}

/// Sends as fast as it goes, until the time is over.
pub(super) fn pour(to: IpAddr, time: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, SINK_PORT), PATIENCE * 5)?;
    stream.set_write_timeout(Some(TICK))?;
    let chunk = vec![0x5a; 256 << 10];
    let begun = Instant::now();
    while begun.elapsed() < time {
        match stream.write(&chunk) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The routers that say that a datagram ran out of hops, with those that say nothing as `None`; up to whoever says that nobody listens.
pub(super) fn trace(to: Ipv4Addr) -> anyhow::Result<Vec<Option<Ipv4Addr>>> {
    let icmp = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
        .context("cannot listen for ICMP (CAP_NET_RAW is needed)")?;
    setsockopt(&icmp, ReceiveTimeout, &TimeVal::new(1, 0)).context("cannot set a time-out")?;
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    let mut hops = Vec::new();
    for hop_limit in 1..=16u16 {
        socket.set_ttl(hop_limit.into())?;
        let port = TRACE_PORT + hop_limit;
        socket.send_to(&[0; 4], (to, port))?;
        let mut bytes = [0; 1500];
        let begun = Instant::now();
        let answer = loop {
            match recvfrom::<SockaddrIn>(icmp.as_raw_fd(), &mut bytes) {
                Ok((length, Some(from))) if is_about(&bytes[..length], port) => break Some(from.ip()),
                Ok(_) if begun.elapsed() < Duration::from_secs(1) => {}
                Ok(_) | Err(_) => break None,
            }
        };
        if answer == Some(to) {
            break;
        }
        hops.push(answer);
    }
    Ok(hops)
}

/// Whether an ICMP error, IP header and all, quotes a datagram to this port.
fn is_about(message: &[u8], port: u16) -> bool {
    // IP without options, ICMP, the quoted IP header, the source port.
    packet::header(message).is_ok() && message.get(50..52) == Some(&port.to_be_bytes())
}

fn connect(to: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((to, ECHO_PORT))?;
    Ok(socket)
}

fn number_of(datagram: &[u8]) -> Option<u32> {
    datagram.try_into().ok().map(u32::from_be_bytes)
}

/// A prober that waits for a processor measures its own lateness. Where that is not allowed, it does so.
fn before_others() {
    let _ = priority::round_robin();
}

const ECHO_PORT: u16 = 7;
const SINK_PORT: u16 = 9;
const TRACE_PORT: u16 = 33_434;
/// How long a worker waits before it looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);
/// Longer than any round trip of the check.
const PATIENCE: Duration = Duration::from_secs(1);
