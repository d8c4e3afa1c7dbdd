//! A new process takes the place of a running node, so that an upgrade fails no request.
//!
//! On SIGUSR2 the node starts its own binary again, which may be a newer one by then, with the same arguments, and hands it the
//! sockets it listens at, over a Unix socket that is the new one's standard input (`SCM_RIGHTS`). What then comes waits in
//! those sockets for whoever reads next:
//!
//! ```text
//! old                                        new
//!  │  sockets ──────────────────────────────▶│  reads its configuration
//!  │◀────────────────────────────────── ready│
//!  │  stops reading, gives the disk free     │
//!  │  go, and peers to join by ─────────────▶│  starts
//!  │◀──────────────────────────────── running│
//!  │  ends when its last response is sent    ▼
//! ```
//!
//! A new process that ends before it is ready changes nothing. If it fails after that, the old one starts again with the sockets, which it
//! has kept until then.

use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use coral_dns::Recollection;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::logging::Lines;
use crate::node::{Given, Leaving, Node, Place, Shared};

/// How both sides know that they mean the same by what follows.
const VERSION: u32 = 1;
/// The most sockets that are handed over: the nameserver may have 16, all others together five.
const MAX_SOCKETS: usize = 32;
/// The longest message.
const MAX_LINE: u64 = 1024 * 1024;
/// What is read of the first one together with its sockets.
const FIRST_BYTES: usize = 64 * 1024;
/// Networks of clients that are told of: each takes less than 200 bytes.
const MAX_CLIENTS: usize = 4096;
/// How long a new process may take until it has read its configuration.
const UNTIL_READY: Duration = Duration::from_secs(30);
/// How long it may take to start: it opens the store, and looks up its seeds.
const UNTIL_RUNNING: Duration = Duration::from_secs(120);
/// The flag by which a new process knows what its standard input is.
const FLAG: &str = "--take-over";

/// What the old process says first; the sockets come with it, in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    version: u32,
    sockets: Vec<Place>,
}

/// What it says when it has let go.
#[derive(Debug, Serialize, Deserialize)]
struct Go {
    /// Peers to join by.
    contacts: Vec<SocketAddr>,
    /// What the nameserver knows of clients: what it has promised about them, and how far they are.
    #[serde(default)]
    clients: Vec<Recollection>,
}

/// What the new one answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Ready,
    Running,
    Failed(String),
}

/// What came of an attempt to have a new process take over.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It has: the process of this id.
    Done(Leaving, u32),
    /// It has not, for this reason; the node serves on.
    Failed(Box<Node>, anyhow::Error),
}

/// Has a new process of `binary` take over from `node`. An error leaves no node.
pub(crate) async fn hand_over(node: Node, binary: &Path) -> anyhow::Result<Attempt> {
    let successor = match Successor::start(&node, binary).await {
        Ok(successor) => successor,
        Err(error) => return Ok(Attempt::Failed(Box::new(node), error)),
    };
    let (config, log, process) = (node.config(), node.log(), successor.process.id());
    let contacts = node.dsht().contacts().await.unwrap_or_default();
    let clients = node.clients(MAX_CLIENTS);
    let (leaving, kept) = node.leave().await;
    match successor.go(Go { contacts: contacts.clone(), clients: clients.clone() }).await {
        Ok(()) => Ok(Attempt::Done(leaving, process)),
        Err(error) => {
            // What it had under way ends by itself.
            tokio::spawn(leaving.finish());
            let node = Node::start_with(config, Given { sockets: Shared::new(kept), contacts, clients, log }).await;
            let node = node.with_context(|| format!("{error:#}; and this node cannot go on either"))?;
            Ok(Attempt::Failed(Box::new(node), error))
        }
    }
}

/// The new process, as the old one sees it.
#[derive(Debug)]
struct Successor {
    process: Child,
    line: Line,
}

impl Successor {
    /// Starts it, and waits until it is ready.
    async fn start(node: &Node, binary: &Path) -> anyhow::Result<Self> {
        ensure!(
            std::process::id() != 1,
            "this is the first process of its container, which ends with it: start another container instead"
        );
        let (places, sockets): (Vec<Place>, Vec<OwnedFd>) = node.shared()?.into_iter().unzip();
        let binary = binary.to_owned();
        let successor = tokio::task::spawn_blocking(move || {
            let (ours, theirs) = UnixStream::pair()?;
            let arguments = std::env::args_os().skip(1).filter(|argument| argument != FLAG);
            let process = Command::new(&binary)
                .args(arguments)
                .arg(FLAG)
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .spawn()
                .with_context(|| format!("cannot start {}", binary.display()))?;
            let mut successor = Self { process, line: Line::new(ours) };
            let offer = Offer { version: VERSION, sockets: places };
            successor.line.send_with(&offer, &sockets).context("the new process cannot be told of the sockets")?;
            successor.expect(&Answer::Ready, UNTIL_READY)?;
            Ok::<_, anyhow::Error>(successor)
        });
        successor.await.context("the attempt broke off")?
    }

    /// Has it start; its sockets are read by nobody else now. If that fails it is ended.
    async fn go(mut self, go: Go) -> anyhow::Result<()> {
        let begun = tokio::task::spawn_blocking(move || {
            self.line.send(&go).context("the new process has gone")?;
            self.expect(&Answer::Running, UNTIL_RUNNING)
        });
        begun.await.context("the attempt broke off")?
    }

    /// Waits for this answer; one that gives another is ended.
    fn expect(&mut self, wanted: &Answer, limit: Duration) -> anyhow::Result<()> {
        let answer = self.line.receive(Some(limit));
        if answer.as_ref().is_ok_and(|answer| answer == wanted) {
            return Ok(());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        match answer {
            Ok(Answer::Failed(why)) => bail!("the new process could not start: {why}"),
            Ok(_) => bail!("the new process does not keep to the protocol"),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                bail!("the new process has ended, and said why before")
            }
            Err(e) => bail!("the new process does not answer: {e}"),
        }
    }
}

/// The old process, as the new one sees it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    line: Line,
    sockets: Shared,
}

impl Predecessor {
    /// What standard input brings.
    pub(crate) fn meet() -> anyhow::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned().context("there is no standard input")?;
        let (line, offer, sockets) =
            Line::accept(UnixStream::from(input)).context("no node hands its sockets to this process")?;
        ensure!(offer.version == VERSION, "the running node hands over in another way; stop it and start the new one");
        ensure!(offer.sockets.len() == sockets.len(), "not all sockets have come");
        Ok(Self { line, sockets: Shared::new(offer.sockets.into_iter().zip(sockets).collect()) })
    }

    /// Says that this process can start, and waits until it may: with what it is given then.
    pub(crate) fn relieve(&mut self, log: Option<Lines>) -> anyhow::Result<Given> {
        self.line.send(&Answer::Ready).context("the running node has gone")?;
        let Go { contacts, clients } = self.line.receive(None).context("the running node has thought better of it")?;
        Ok(Given { sockets: std::mem::take(&mut self.sockets), contacts, clients, log })
    }

    /// Says how the start went.
    pub(crate) fn tell(mut self, started: Result<(), &anyhow::Error>) {
        let answer = match started {
            Ok(()) => Answer::Running,
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        // Whether it has gone meanwhile is all one to who runs.
        let _ = self.line.send(&answer);
    }
}

/// Messages between the two, each a line of JSON.
#[derive(Debug)]
struct Line {
    stream: BufReader<UnixStream>,
}

impl Line {
    fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.stream.get_ref().write_all(&line(message)?)
    }

    /// The same with sockets.
    fn send_with(&mut self, message: &impl Serialize, sockets: &[OwnedFd]) -> io::Result<()> {
        let line = line(message)?;
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("too many sockets"));
        }
        let stream = self.stream.get_ref();
        let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
        // They have gone with the first bytes.
        (&*stream).write_all(&line[sent..])
    }

    /// The next message; within `limit`, if there is one.
    fn receive<T: for<'a> Deserialize<'a>>(&mut self, limit: Option<Duration>) -> io::Result<T> {
        self.stream.get_ref().set_read_timeout(limit)?;
        let mut text = Vec::new();
        (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut text)?;
        if text.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&text)?)
    }

    /// The first message that comes by `stream`, with its sockets.
    fn accept(stream: UnixStream) -> io::Result<(Self, Offer, Vec<OwnedFd>)> {
        let mut first = vec![0; FIRST_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut first)];
        let received = rustix::net::recvmsg(&stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let sockets = sockets.flatten().collect();
        let mut text = first[..received.bytes].to_vec();
        let mut line = Self::new(stream);
        if !text.ends_with(b"\n") {
            (&mut line.stream).take(MAX_LINE).read_until(b'\n', &mut text)?;
        }
        Ok((line, serde_json::from_slice(&text)?, sockets))
    }
}

fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use coral_dns::clients::{Measured, Promised};

    use super::*;

    #[test]
    fn sockets_and_messages_arrive_as_they_were_sent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listeners = ["127.0.0.1:0"; 3].map(|addr| std::net::TcpListener::bind(addr).unwrap());
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let sockets: Vec<OwnedFd> = listeners.into_iter().map(OwnedFd::from).collect();
        let offer = Offer { version: VERSION, sockets: vec![Place::Http, Place::Https, Place::Admin] };
        let mut old = Line::new(ours);
        old.send_with(&offer, &sockets).unwrap();
        // As many as there may be, and as long as they get.
        let clients = (0..MAX_CLIENTS).map(|number| {
            let prefix = std::net::Ipv6Addr::from(u128::MAX - ((number as u128) << 80));
            let (span, distant) = (Duration::new(86_399, 999_999_999), prefix.into());
            Recollection {
                prefix: format!("{prefix}/48").parse().unwrap(),
                measured: Some(Measured { rtt: Some(span), ago: span }),
                promised: Some(Promised { left: span, distant }),
            }
        });
        let go = Go { contacts: vec![addresses[0]], clients: clients.collect() };
        assert!(line(&go).unwrap().len() < MAX_LINE as usize);
        drop(sockets);
        let sending = std::thread::spawn(move || old.send(&go).map(|()| go));

        let (mut new, offer, sockets) = Line::accept(theirs).unwrap();
        assert_eq!(offer.sockets, [Place::Http, Place::Https, Place::Admin]);
        let arrived: Vec<SocketAddr> =
            sockets.into_iter().map(|socket| std::net::TcpListener::from(socket).local_addr().unwrap()).collect();
        assert_eq!(arrived, addresses);
        let received = new.receive::<Go>(None).unwrap();
        let go = sending.join().unwrap().unwrap();
        assert_eq!((received.contacts, received.clients), (go.contacts, go.clients));
        assert_eq!(new.receive::<Go>(None).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_without_end_and_nonsense_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut old, mut new) = (Line::new(ours), Line::new(theirs));
        let late = new.receive::<Answer>(Some(Duration::from_millis(10))).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
        old.send(&"nonsense").unwrap();
        assert_eq!(new.receive::<Answer>(None).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
