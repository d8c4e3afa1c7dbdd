//! The real far end of a [`DshtHandle`]: a UDP socket, the clock, entropy, and one task that owns the [`Dsht`].
//!
//! It uses the state machine as any stranger would, and decides nothing itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::api::{Claimed, Found, Neighbour, OpId, Outcome, Stored};
use crate::config::Config;
use crate::dsht::{Dsht, Output};
use crate::handle::{Announced, Command, Decision, DshtHandle};
use crate::peer::Peer;
use crate::time::Instant;
use crate::wire::MAX_DATAGRAM_BYTES;

/// A node of the index on a UDP socket, to be run as one task.
#[derive(Debug)]
pub struct Driver {
    dsht: Dsht,
    socket: UdpSocket,
    commands: mpsc::Receiver<Command>,
    waiting: BTreeMap<OpId, Reply>,
    announcing: Announcing,
    epoch: tokio::time::Instant,
}

/// The way of announcements to the application, and of its decisions back.
#[derive(Debug)]
struct Announcing {
    listener: Option<mpsc::Sender<Announced>>,
    decisions: mpsc::UnboundedReceiver<Decision>,
    /// For each announcement, a clone. As many decisions can wait as announcements are undecided, which are few.
    decided: mpsc::UnboundedSender<Decision>,
}

/// Who waits for the outcome of an operation.
#[derive(Debug)]
enum Reply {
    Get(oneshot::Sender<Found>),
    Put(oneshot::Sender<Stored>),
    Claim(oneshot::Sender<Claimed>),
    Remove(oneshot::Sender<usize>),
    Nodes(oneshot::Sender<Vec<Neighbour>>),
}

impl Driver {
    /// The node `me` on `socket`, which others must reach at `me.addr`, and the handle to ask it by.
    ///
    /// Fails if the operating system has no entropy to give.
    #[expect(clippy::disallowed_methods, reason = "the driver is where the clock is read")]
    pub fn new(socket: UdpSocket, me: Peer, config: Arc<Config>) -> io::Result<(DshtHandle, Self)> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let (handle, commands) = DshtHandle::channel(WAITING_COMMANDS);
        let epoch = tokio::time::Instant::now();
        let dsht = Dsht::new(config, me, seed, Instant::START);
        let (decided, decisions) = mpsc::unbounded_channel();
        let announcing = Announcing { listener: None, decisions, decided };
        Ok((handle, Self { dsht, socket, commands, waiting: BTreeMap::new(), announcing, epoch }))
    }

    /// Joins by any of `seeds` and serves until `shutdown`, or until the last handle is gone; then says goodbye to those
    /// who know this node. Requests that are still under way then get [`Stopped`](crate::Stopped).
    ///
    /// Seeds that do not answer are tried again, and again whenever this node knows nobody.
    pub async fn run(mut self, mut seeds: Vec<SocketAddr>, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut buffer = [0; MAX_DATAGRAM_BYTES + 1];
        // The first node of a network may be started with the same list as all others.
        seeds.retain(|seed| *seed != self.dsht.me().addr);
        let joining = (!seeds.is_empty()).then(|| self.dsht.join(self.now(), &seeds));
        loop {
            self.drain(joining).await;
            let due = self.epoch + Duration::from_micros(self.dsht.poll_timeout().as_micros());
            tokio::select! {
                () = &mut shutdown => break,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        self.dsht.handle_datagram(self.now(), from, &buffer[..length]);
                        self.receive_waiting();
                    }
                    // Linux reports an earlier datagram's unreachable port here; the time-outs deal with that peer.
                    Err(error) => debug!(%error, "receiving failed"),
                },
                command = self.commands.recv(), if !self.dsht.is_busy() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                Some(decision) = self.announcing.decisions.recv() => self.decide(decision),
                () = sleep_until(due) => {
                    // On a busy machine this task gets its core late; an answer that has come meanwhile is not late.
                    self.receive_waiting();
                    self.dsht.handle_timeout(self.now());
                }
            }
        }
        self.dsht.leave();
        self.drain(joining).await;
    }

    #[expect(clippy::disallowed_methods, reason = "the driver is where the clock is read")]
    fn now(&self) -> Instant {
        Instant::START + tokio::time::Instant::now().duration_since(self.epoch)
    }

    /// Takes in the datagrams that wait, up to a bound, so that a burst costs one round of the loop.
    fn receive_waiting(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM_BYTES + 1];
        for _ in 0..DATAGRAMS_AT_ONCE {
            let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) else {
                break;
            };
            self.dsht.handle_datagram(self.now(), from, &buffer[..length]);
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        let (op, reply) = match command {
            Command::Get { key, levels, reply } => (self.dsht.get(now, key, levels), Reply::Get(reply)),
            Command::Put { key, value, ttl, levels, reply } => {
                (self.dsht.put(now, key, value, ttl, levels), Reply::Put(reply))
            }
            Command::Claim { key, value, ttl, levels, refused, reply } => {
                (self.dsht.claim(now, key, value, ttl, levels, &refused), Reply::Claim(reply))
            }
            Command::Remove { key, value, reply } => (self.dsht.remove(now, key, value), Reply::Remove(reply)),
            Command::Nodes { query, reply } => (self.dsht.nodes(now, query), Reply::Nodes(reply)),
            Command::Hints { query, reply } => (self.dsht.hints(now, &query), Reply::Nodes(reply)),
            Command::SetRouters { routers, reply } => {
                self.dsht.set_routers(now, &routers);
                let _ = reply.send(());
                return;
            }
            Command::Announce { message, keep, reply } => {
                self.dsht.announce(now, &message, keep);
                let _ = reply.send(());
                return;
            }
            Command::Announcements { reply } => {
                let (listener, receiver) = mpsc::channel(WAITING_ANNOUNCEMENTS);
                self.announcing.listener = reply.send(receiver).is_ok().then_some(listener);
                self.dsht.listen(now, self.announcing.listener.is_some());
                return;
            }
            Command::Contacts { reply } => {
                let _ = reply.send(self.dsht.lasting_peers().iter().map(|peer| peer.addr).collect());
                return;
            }
            Command::Snapshot { reply } => {
                // Whoever asked may have given up meanwhile.
                let _ = reply.send(self.dsht.snapshot(now));
                return;
            }
        };
        self.waiting.insert(op, reply);
    }

    /// Sends what there is to send and answers what has ended.
    async fn drain(&mut self, joining: Option<OpId>) {
        while let Some(output) = self.dsht.poll_output() {
            match output {
                Output::Send { to, bytes } => {
                    // A full socket buffer or a missing route is a lost datagram, which the protocol lives with.
                    if let Err(error) = self.socket.send_to(&bytes, to).await {
                        debug!(%error, %to, "sending failed");
                    }
                }
                Output::Done { op, outcome: Outcome::Joined { contact, seen_as } } if Some(op) == joining => {
                    self.joined(contact, seen_as);
                }
                Output::Announced { id, message, age } => {
                    self.announced(Announced::new(id, message.to_vec(), age, self.announcing.decided.clone()));
                }
                Output::Done { op, outcome } => {
                    if let Some(reply) = self.waiting.remove(&op) {
                        answer(reply, outcome);
                    }
                }
            }
        }
    }

    /// Hands an announcement to the application. If that does not listen any more, it is dropped, and so decided.
    fn announced(&mut self, announced: Announced) {
        let is_closed = |listener: &mpsc::Sender<Announced>| match listener.try_send(announced) {
            Ok(()) | Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Closed(_)) => true,
        };
        if self.announcing.listener.as_ref().is_none_or(is_closed) {
            self.announcing.listener = None;
            self.dsht.listen(self.now(), false);
        }
    }

    fn decide(&mut self, Decision { id, keep }: Decision) {
        match keep {
            Some(keep) => self.dsht.pass_on(self.now(), &id, keep),
            None => self.dsht.disregard(self.now(), &id),
        }
    }

    fn joined(&self, contact: Option<Peer>, seen_as: Option<SocketAddr>) {
        let me = self.dsht.me().addr;
        match contact {
            Some(contact) => info!(contact = %contact.addr, "joined the network"),
            None => warn!("no first contact has answered; trying again"),
        }
        if let Some(seen_as) = seen_as.filter(|seen_as| *seen_as != me) {
            warn!(%me, %seen_as, "others see this node at another address than it announces: they cannot reach it");
        }
    }
}

/// A caller that has given up has closed its channel, which is no error.
fn answer(reply: Reply, outcome: Outcome) {
    match (reply, outcome) {
        (Reply::Get(reply), Outcome::Get(found)) => drop(reply.send(found)),
        (Reply::Put(reply), Outcome::Put(stored)) => drop(reply.send(stored)),
        (Reply::Claim(reply), Outcome::Claim(claimed)) => drop(reply.send(claimed)),
        (Reply::Remove(reply), Outcome::Removed(count)) => drop(reply.send(count)),
        (Reply::Nodes(reply), Outcome::Nodes(nodes)) => drop(reply.send(nodes)),
        (reply, outcome) => debug_assert!(false, "{outcome:?} for {reply:?}"),
    }
}

/// Requests of the application that wait to be taken up; more callers wait in line.
const WAITING_COMMANDS: usize = 1024;
/// Announcements that wait for the application: more than can be undecided.
const WAITING_ANNOUNCEMENTS: usize = 32;
/// Datagrams taken in between two rounds of sending.
const DATAGRAMS_AT_ONCE: usize = 64;
