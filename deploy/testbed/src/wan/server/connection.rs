//! Those who give the router orders: lines in, lines out, never waiting for anybody.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::super::control::{LONGEST_REQUEST, Reply, Request};
use super::CONNECTIONS;

/// All connections, by their token.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: BTreeMap<u64, Connection>,
    accepted: u64,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// The beginning of a line.
    input: Vec<u8>,
    /// What the other end has not taken yet.
    output: Vec<u8>,
}

impl Connections {
    /// Takes in whoever waits; too many are turned away.
    pub(super) fn accept(&mut self, listener: &UnixListener, epoll: &Epoll) {
        while let Ok((stream, _)) = listener.accept() {
            let token = CONNECTIONS + self.accepted;
            let ready = stream.set_nonblocking(true).is_ok()
                && self.open.len() < MOST
                && epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, token)).is_ok();
            if ready {
                self.accepted += 1;
                self.open.insert(token, Connection { stream, input: Vec::new(), output: Vec::new() });
            }
        }
    }

    /// The requests that have come in whole. A connection that has ended, or sends lines without end, is closed.
    pub(super) fn read(&mut self, token: u64, epoll: &Epoll) -> Vec<serde_json::Result<Request>> {
        let Some(connection) = self.open.get_mut(&token) else { return Vec::new() };
        let mut ended = connection.flush(token, epoll).is_err();
        let mut bytes = [0; 16 << 10];
        loop {
            match connection.stream.read(&mut bytes) {
                Ok(0) => ended = true,
                Ok(length) if connection.input.len() + length <= LONGEST_REQUEST => {
                    connection.input.extend_from_slice(&bytes[..length]);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => ended = true,
            }
            break;
        }
        let mut requests = Vec::new();
        while let Some(end) = connection.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = connection.input.drain(..=end).collect();
            if !line.trim_ascii().is_empty() {
                requests.push(serde_json::from_slice(&line));
            }
        }
        if ended {
            // Closing it takes it out of epoll. What it asked last is still done.
            self.open.remove(&token);
        }
        requests
    }

    /// Answers, if there is still somebody.
    pub(super) fn reply(&mut self, token: u64, reply: &Reply, epoll: &Epoll) {
        let Some(connection) = self.open.get_mut(&token) else { return };
        let line = serde_json::to_vec(reply);
        connection.output.extend(line.expect("a reply is plain data"));
        connection.output.push(b'\n');
        if connection.flush(token, epoll).is_err() {
            self.open.remove(&token);
        }
    }
}

impl Connection {
    /// Writes as much as the other end takes, and asks to be told when it takes more.
    fn flush(&mut self, token: u64, epoll: &Epoll) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.output.drain(..length)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let writable = if self.output.is_empty() { EpollFlags::empty() } else { EpollFlags::EPOLLOUT };
        epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN | writable, token)).map_err(io::Error::from)
    }
}

const MOST: usize = 64;
