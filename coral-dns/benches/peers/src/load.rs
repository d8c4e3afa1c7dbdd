//! Who asks: one thread, a number of ports, either as fast as answers come or at a fixed rate.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;

use crate::traffic::{self, Kind, Traffic};

/// Ports that are asked from.
const PORTS: usize = 20;
/// Ids in use for each port; a query that is not answered until its id comes again counts as lost.
const IDS: usize = 4096;
/// When a query that has no answer is given up, if not before.
const PATIENCE: Duration = Duration::from_millis(500);

/// How fast to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many queries outstanding, over all ports.
    Outstanding(usize),
    /// So many queries a second, whether they are answered or not.
    PerSecond(u32),
}

/// What one measurement is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) pace: Pace,
    pub(crate) kind: Kind,
    /// The share of queries from prefixes that no server knows.
    pub(crate) unknown: f64,
    pub(crate) span: Duration,
    /// Whether NOERROR with an address is the only good answer. An echo has none.
    pub(crate) wants_address: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answers: u64,
    pub(crate) lost: u64,
    /// Answers other than NOERROR with an address, by response code.
    pub(crate) bad: [u64; 16],
    /// From the first query to the last answer.
    pub(crate) elapsed: Duration,
    /// From when each query was due, of clients that are known, in ns.
    pub(crate) known: Vec<u64>,
    /// The same of the others.
    pub(crate) unknown: Vec<u64>,
    /// The sum of how late queries left, in ns: the asker's own part of the latency.
    lag: u64,
    sent: u64,
}

impl Outcome {
    /// How late a query left on the average.
    pub(crate) fn mean_lag(&self) -> Duration {
        Duration::from_nanos(self.lag / self.sent.max(1))
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    due: u64,
    is_known: bool,
}

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    next_id: u16,
    slots: Vec<Option<Slot>>,
    outstanding: usize,
}

/// One that asks one server.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    traffic: &'a mut Traffic,
    ports: Vec<Port>,
    epoll: Epoll,
    stop: Arc<AtomicBool>,
    started: Instant,
    message: Vec<u8>,
}

impl<'a> Asker<'a> {
    pub(crate) fn new(traffic: &'a mut Traffic, server: SocketAddr, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut ports = Vec::with_capacity(PORTS);
        for data in 0..PORTS {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, data as u64))?;
            ports.push(Port { socket, next_id: 0, slots: vec![None; IDS], outstanding: 0 });
        }
        Ok(Self { traffic, ports, epoll, stop, started: Instant::now(), message: Vec::with_capacity(512) })
    }

    /// Asks for `load.span`, then waits for the answers that are still to come.
    pub(crate) fn run(&mut self, load: Load) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let start = self.now();
        let end = start + nanos(load.span);
        let mut last = start;
        match load.pace {
            Pace::Outstanding(all) => {
                let each = (all / PORTS).max(1);
                let mut looked = start;
                for port in 0..PORTS {
                    self.fill(port, each, load, &mut outcome)?;
                }
                while self.now() < end {
                    for port in self.wait(Duration::from_millis(10))? {
                        last = self.receive(port, load, &mut outcome)?;
                        self.fill(port, each, load, &mut outcome)?;
                    }
                    if self.now() - looked > nanos(PATIENCE) / 2 {
                        looked = self.now();
                        for port in 0..PORTS {
                            self.give_up(port, looked.saturating_sub(nanos(PATIENCE)), &mut outcome);
                            self.fill(port, each, load, &mut outcome)?;
                        }
                    }
                }
            }
            Pace::PerSecond(rate) => {
                let due = |i: u64| start + i * 1_000_000_000 / u64::from(rate);
                let mut next = 0;
                while due(next) < end {
                    while due(next) <= self.now() && due(next) < end {
                        self.send(next as usize % PORTS, due(next), load, &mut outcome)?;
                        next += 1;
                    }
                    let pause = Duration::from_nanos(due(next).saturating_sub(self.now()));
                    for port in self.wait(pause)? {
                        last = self.receive(port, load, &mut outcome)?;
                    }
                }
            }
        }
        let given_up = self.now() + nanos(PATIENCE);
        while self.ports.iter().any(|port| port.outstanding > 0) && self.now() < given_up {
            for port in self.wait(Duration::from_millis(10))? {
                last = self.receive(port, load, &mut outcome)?;
            }
        }
        for port in 0..PORTS {
            self.give_up(port, u64::MAX, &mut outcome);
        }
        outcome.elapsed = Duration::from_nanos(last - start);
        Ok(outcome)
    }

    fn now(&self) -> u64 {
        nanos(self.started.elapsed())
    }

    /// The ports that have something, after `timeout` at most.
    fn wait(&self, timeout: Duration) -> anyhow::Result<Vec<usize>> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let mut ready = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut ready, Some(TimeSpec::from_duration(timeout)), None) {
            // By a signal, most of the time the one that `stop` is about.
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = [EpollEvent::empty(); PORTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        Ok(events[..count].iter().map(|event| event.data() as usize).collect())
    }

    fn fill(&mut self, port: usize, each: usize, load: Load, outcome: &mut Outcome) -> anyhow::Result<()> {
        while self.ports[port].outstanding < each {
            let now = self.now();
            self.send(port, now, load, outcome)?;
        }
        Ok(())
    }

    fn send(&mut self, at: usize, due: u64, load: Load, outcome: &mut Outcome) -> anyhow::Result<()> {
        let now = self.now();
        let port = &mut self.ports[at];
        let id = port.next_id;
        port.next_id = id.wrapping_add(1);
        let is_known = self.traffic.write(&mut self.message, id, load.kind, load.unknown);
        outcome.sent += 1;
        outcome.lag += now.saturating_sub(due);
        if port.slots[usize::from(id) % IDS].replace(Slot { due, is_known }).is_some() {
            outcome.lost += 1;
        } else {
            port.outstanding += 1;
        }
        match port.socket.send(&self.message) {
            // What did not leave is lost like what did not arrive.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error).context("the server is gone"),
            _ => Ok(()),
        }
    }

    /// Takes what a port has. When that was.
    fn receive(&mut self, at: usize, load: Load, outcome: &mut Outcome) -> anyhow::Result<u64> {
        let mut buffer = [0; 4096];
        loop {
            let length = match self.ports[at].socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(self.now()),
                Err(error) => return Err(error).context("the server is gone"),
            };
            let now = self.now();
            let port = &mut self.ports[at];
            let [high, low, flags, code, ..] = buffer[..length] else {
                continue;
            };
            let slot = &mut port.slots[usize::from(u16::from_be_bytes([high, low])) % IDS];
            // Once given up, it is lost, and no answer to what took its place.
            let Some(Slot { due, is_known }) = slot.take_if(|_| flags & 0x80 != 0) else {
                continue;
            };
            port.outstanding -= 1;
            outcome.answers += 1;
            let code = usize::from(code & 15);
            if load.wants_address && (code != 0 || traffic::first_address(&buffer[..length]).is_none()) {
                outcome.bad[code] += 1;
            }
            let latencies = if is_known { &mut outcome.known } else { &mut outcome.unknown };
            latencies.push(now.saturating_sub(due));
            if port.outstanding == 0 {
                return Ok(now);
            }
        }
    }

    /// Queries of before `due` are lost.
    fn give_up(&mut self, at: usize, due: u64, outcome: &mut Outcome) {
        let port = &mut self.ports[at];
        for slot in &mut port.slots {
            if slot.take_if(|slot| slot.due < due).is_some() {
                port.outstanding -= 1;
                outcome.lost += 1;
            }
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Asks until there is an answer, for `patience` at most and while `goes_on`.
pub(crate) fn await_answer(
    traffic: &mut Traffic,
    server: SocketAddr,
    patience: Duration,
    mut goes_on: impl FnMut() -> bool,
) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut message = Vec::new();
    let mut buffer = [0; 4096];
    let start = Instant::now();
    while start.elapsed() < patience && goes_on() {
        traffic.write(&mut message, 1, Kind::Ecs, 0.0);
        // Refused until it listens.
        match socket.send(&message).and_then(|_| socket.recv(&mut buffer)) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Nothing tells of it but asking again.
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(_) => {}
        }
    }
    Ok(false)
}

/// The first address that a client in the known prefix at `i` gets.
pub(crate) fn ask(traffic: &mut Traffic, server: SocketAddr, i: usize) -> io::Result<Option<Ipv4Addr>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut message = Vec::new();
    traffic.write_for(&mut message, i);
    socket.send(&message)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    Ok(traffic::first_address(&buffer[..length]))
}
