//! The router's process: devices, the clock and the control socket, on one thread.
//!
//! It sleeps in epoll until a device has a packet, a packet is due (a timerfd, as epoll's own time-outs are whole milliseconds), or
//! somebody has an order. Devices are made on a helper thread, since that takes milliseconds in which packets would be late.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::control::{Attachment, Reply, Request, Status};
use super::device;
use super::frame::{self, Frame};
use super::router::Router;
use crate::map::Map;
use crate::netns;

mod connection;
pub(super) mod priority;

use connection::Connections;

/// A router with its devices, until it is told to stop.
#[derive(Debug)]
pub struct Server {
    map: Arc<Map>,
    /// Where devices are born.
    nursery: Arc<File>,
    router: Router,
    /// By site.
    devices: Vec<Option<File>>,
    epoll: Epoll,
    timer: TimerFd,
    /// For when the timer is set.
    armed: Option<Duration>,
    signals: SignalFd,
    listener: UnixListener,
    control: PathBuf,
    connections: Connections,
    /// Devices that helper threads have made, for whoever asked.
    made: (mpsc::Sender<Made>, mpsc::Receiver<Made>),
    wake: Arc<EventFd>,
    begun: Instant,
    realtime: bool,
    lateness: Lateness,
    /// Where a packet is read to.
    buffer: Vec<u8>,
    stopping: bool,
}

/// The devices of some sites, and the connection that wanted them.
#[derive(Debug)]
struct Made {
    connection: u64,
    devices: anyhow::Result<Vec<(usize, File)>>,
}

/// By how much packets are later than they should be.
#[derive(Debug, Default)]
struct Lateness {
    packets: u64,
    sum: Duration,
    most: Duration,
}

impl Server {
    /// A router for this map, which listens for orders at `control`, and has no device yet.
    ///
    /// From here on SIGINT and SIGTERM are blocked for this thread and those it starts; [`Server::run`] ends on them.
    ///
    /// # Errors
    ///
    /// If another router listens there, or the socket cannot be made.
    pub fn new(map: Map, control: &Path) -> anyhow::Result<Self> {
        let nursery = netns::anonymous()?;
        let listener = listen(control)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block().context("cannot block signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC);
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let server = Self {
            router: Router::new(&map, SEED),
            devices: map.sites().iter().map(|_| None).collect(),
            map: Arc::new(map),
            nursery: Arc::new(nursery),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll descriptor")?,
            timer: timer.context("cannot make a timer")?,
            armed: None,
            signals: signals.context("cannot take signals")?,
            listener,
            control: control.to_owned(),
            connections: Connections::default(),
            made: mpsc::channel(),
            wake: Arc::new(wake.context("cannot make an event descriptor")?),
            begun: Instant::now(),
            realtime: false,
            lateness: Lateness::default(),
            buffer: vec![0; frame::LARGEST],
            stopping: false,
        };
        server.watch(&server.timer, TIMER)?;
        server.watch(&server.signals, SIGNALS)?;
        server.watch(&server.listener, LISTENER)?;
        server.watch(&*server.wake, WAKE)?;
        Ok(server)
    }

    /// Puts this thread before all ordinary ones, so that distances stay what they are on a busy machine.
    ///
    /// # Errors
    ///
    /// If this process may not (CAP_SYS_NICE, or a limit on real-time priorities); it works without.
    pub fn run_before_others(&mut self) -> anyhow::Result<()> {
        priority::round_robin()
            .context("packets may be late on a busy machine: no real-time priority (CAP_SYS_NICE)")?;
        self.realtime = true;
        Ok(())
    }

    /// Makes the devices of these sites, before the router runs.
    ///
    /// # Errors
    ///
    /// If one of them cannot be made; then none is.
    pub fn attach(&mut self, sites: &[Attachment]) -> anyhow::Result<()> {
        let wanted = self.find(sites)?;
        self.adopt(make(&self.map, &self.nursery, &wanted)?)
    }

    /// Carries packets until it is told to stop, or gets SIGINT or SIGTERM.
    ///
    /// # Errors
    ///
    /// If the kernel refuses what it never does.
    pub fn run(&mut self) -> anyhow::Result<()> {
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.stopping {
            let timeout = self.arm()?;
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                count => count.context("cannot wait for packets")?,
            };
            for event in &events[..count] {
                match event.data() {
                    TIMER => {
                        self.armed = None;
                        // It is set anew before the next sleep; reading it makes it quiet until then.
                        let _ = self.timer.wait();
                    }
                    SIGNALS => self.stopping = true,
                    LISTENER => self.connections.accept(&self.listener, &self.epoll),
                    WAKE => self.take_made(),
                    token @ ..CONNECTIONS => self.read_device((token - DEVICES) as usize),
                    token => self.read_requests(token),
                }
                // Whatever else there is to do, nothing that is due waits for all of it.
                self.deliver();
            }
            self.deliver();
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn watch(&self, what: impl AsFd, token: u64) -> anyhow::Result<()> {
        self.epoll.add(what, EpollEvent::new(EpollFlags::EPOLLIN, token)).context("cannot watch a descriptor")
    }

    /// Sets the timer for the next packet that is due. Says how long epoll may sleep: not at all, if one is due by now.
    fn arm(&mut self) -> anyhow::Result<EpollTimeout> {
        let Some(due) = self.router.next_due() else { return Ok(EpollTimeout::NONE) };
        let now = self.now();
        if due <= now {
            return Ok(EpollTimeout::ZERO);
        }
        if self.armed != Some(due) {
            let expiration = Expiration::OneShot(TimeSpec::from_duration(due - now));
            self.timer.set(expiration, TimerSetTimeFlags::empty()).context("cannot set the timer")?;
            self.armed = Some(due);
        }
        Ok(EpollTimeout::NONE)
    }

    /// Writes out all that is due.
    fn deliver(&mut self) {
        let now = self.now();
        while let Some(delivery) = self.router.poll(now) {
            self.lateness.note(now - delivery.due);
            let Some(device) = &self.devices[delivery.site] else {
                self.router.note_undelivered(delivery.site);
                continue;
            };
            if let Err(e) = (&*device).write_all(delivery.frame.bytes()) {
                self.router.note_undelivered(delivery.site);
                if e.raw_os_error() == Some(libc::EBADFD) {
                    self.drop_device(delivery.site);
                }
            }
        }
    }

    /// Reads what a device has, and lets others have their turn after a while.
    fn read_device(&mut self, site: usize) {
        let mut bytes = 0;
        while bytes < BYTES_IN_A_ROW {
            let Some(device) = self.devices.get(site).and_then(Option::as_ref) else { return };
            match (&*device).read(&mut self.buffer) {
                Ok(length) => {
                    // Small ones cost time as well.
                    bytes += length.max(LEAST_BYTES);
                    match Frame::from_device(&self.buffer[..length]) {
                        Some(frame) => self.router.forward(self.now(), site, frame),
                        None => self.router.note_malformed(site),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Its namespace has died and taken it along. Left in epoll it would be ready for ever.
                Err(_) => return self.drop_device(site),
            }
        }
    }

    fn drop_device(&mut self, site: usize) {
        // Closing it takes it out of epoll.
        self.devices[site] = None;
        self.router.set_attached(site, false);
    }

    fn adopt(&mut self, devices: Vec<(usize, File)>) -> anyhow::Result<()> {
        for (site, device) in devices {
            self.watch(&device, DEVICES + site as u64)?;
            self.devices[site] = Some(device);
            self.router.set_attached(site, true);
        }
        Ok(())
    }

    /// Which sites are meant.
    fn find(&self, sites: &[Attachment]) -> anyhow::Result<Vec<(usize, Attachment)>> {
        let find = |wanted: &Attachment| match self.router.site(&wanted.site) {
            Ok(site) => Ok((site, wanted.clone())),
            Err(e) => bail!(e),
        };
        sites.iter().map(find).collect()
    }

    /// Takes over what helper threads have made.
    fn take_made(&mut self) {
        // It only says that there is something.
        let _ = self.wake.read();
        while let Ok(Made { connection, devices }) = self.made.1.try_recv() {
            let reply = match devices.and_then(|devices| self.adopt(devices)) {
                Ok(()) => Reply::Done,
                Err(e) => Reply::Error(format!("{e:#}")),
            };
            self.connections.reply(connection, &reply, &self.epoll);
        }
    }

    fn read_requests(&mut self, connection: u64) {
        for request in self.connections.read(connection, &self.epoll) {
            let reply = match request {
                Ok(Request::Attach { sites }) => match self.find(&sites) {
                    Ok(wanted) => {
                        self.make_on_a_thread(connection, wanted);
                        continue;
                    }
                    Err(e) => Reply::Error(format!("{e:#}")),
                },
                Ok(request) => self.obey(request),
                Err(e) => Reply::Error(format!("this is no request: {e}")),
            };
            self.connections.reply(connection, &reply, &self.epoll);
        }
    }

    /// Does at once what can be done at once.
    fn obey(&mut self, request: Request) -> Reply {
        let outcome = match request {
            Request::Status => return Reply::Status(self.status()),
            Request::Counters => return Reply::Counters(self.router.pair_counters()),
            Request::Link { a, b, change } => self.router.change_link(&a, &b, &change),
            Request::Access { at, change } => self.router.change_access(&at, &change),
            Request::Cut { a, b } => self.router.cut(&a, b.as_deref()),
            Request::Heal { a, b } => self.router.heal(&a, b.as_deref()),
            Request::HealAll => {
                self.router.heal_all();
                Ok(())
            }
            Request::Detach { site } => self.router.site(&site).map(|site| self.drop_device(site)),
            Request::Stop => {
                self.stopping = true;
                Ok(())
            }
            Request::Attach { .. } => unreachable!("that is not done at once"),
        };
        outcome.map_or_else(Reply::Error, |()| Reply::Done)
    }

    fn make_on_a_thread(&self, connection: u64, wanted: Vec<(usize, Attachment)>) {
        let (map, nursery) = (Arc::clone(&self.map), Arc::clone(&self.nursery));
        let (sender, wake) = (self.made.0.clone(), Arc::clone(&self.wake));
        thread::spawn(move || {
            // There is no hurry in this, and the router's own packets come first.
            priority::ordinary();
            // If nobody receives it, the router has stopped.
            let _ = sender.send(Made { connection, devices: make(&map, &nursery, &wanted) });
            let _ = wake.write(1);
        });
    }

    fn status(&mut self) -> Status {
        let (queued_packets, queued_bytes) = self.router.queued();
        let late = &mut self.lateness;
        let mean = late.sum.checked_div(u32::try_from(late.packets).unwrap_or(u32::MAX)).unwrap_or_default();
        Status {
            pid: std::process::id(),
            uptime_ms: self.begun.elapsed().as_millis() as u64,
            realtime: self.realtime,
            queued_packets,
            queued_bytes,
            delivered: late.packets,
            late_mean_us: mean.as_micros() as u64,
            late_most_us: std::mem::take(&mut late.most).as_micros() as u64,
            cuts: self.router.cuts().to_vec(),
            sites: self.router.site_statuses(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing more can be done about a socket that stays; the next router takes its place.
        let _ = fs::remove_file(&self.control);
    }
}

impl Lateness {
    fn note(&mut self, late: Duration) {
        self.packets += 1;
        self.sum += late;
        self.most = self.most.max(late);
    }
}

/// Makes the devices of these sites, each in its namespace, which is made a host like others; if one fails, those before it go with it.
fn make(map: &Map, nursery: &File, wanted: &[(usize, Attachment)]) -> anyhow::Result<Vec<(usize, File)>> {
    let make_one = |(site, attachment): &(usize, Attachment)| {
        let namespace = attachment.netns.open().with_context(|| format!("site {}", attachment.site))?;
        netns::prepare(&namespace)?;
        let device = device::create(&map.sites()[*site], nursery, &namespace);
        device.map(|device| (*site, device)).with_context(|| format!("site {}", attachment.site))
    };
    wanted.iter().map(make_one).collect()
}

/// Takes the place of a router that is no more, but not that of one that answers.
fn listen(control: &Path) -> anyhow::Result<UnixListener> {
    if UnixStream::connect(control).is_ok() {
        bail!("a router listens at {} already: stop it first (coral-testbed wan stop)", control.display());
    }
    if let Some(directory) = control.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    match fs::remove_file(control) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot take the place of {}", control.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(control).with_context(|| format!("cannot listen at {}", control.display()))?;
    listener.set_nonblocking(true).context("cannot prepare the control socket")?;
    fs::set_permissions(control, fs::Permissions::from_mode(0o600)).context("cannot prepare the control socket")?;
    Ok(listener)
}

const TIMER: u64 = 0;
const SIGNALS: u64 = 1;
const LISTENER: u64 = 2;
const WAKE: u64 = 3;
/// And the site's index.
const DEVICES: u64 = 1 << 10;
/// And a running number.
const CONNECTIONS: u64 = 1 << 20;
/// What is read from one device before packets that are due have their turn: some tenths of a millisecond.
const BYTES_IN_A_ROW: usize = 256 << 10;
/// What a packet counts for at least.
const LEAST_BYTES: usize = 4 << 10;
/// Which packets are lost is chance, but the same chance each time.
const SEED: u64 = 1;
