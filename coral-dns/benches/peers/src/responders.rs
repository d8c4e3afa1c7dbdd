//! Ways to read a UDP socket, all with the same answer: the query itself with the bit that makes it one. What they cost
//! is the ceiling of any nameserver built that way.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use anyhow::bail;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use socket2::{Domain, Socket, Type};

/// Threads, and sockets at the one port, of each: as many as the others are given.
pub(crate) const WORKERS: usize = 2;

/// The ways.
pub(crate) const NAMES: [&str; 4] = ["tokio", "tokio-current", "threads", "batches"];

/// Messages taken at once.
const BATCH: usize = 32;
const MESSAGE_BYTES: usize = 512;

/// A socket at a port that others have, too; the kernel deals queries out by where they are from.
pub(crate) fn reuse_port(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket.into())
}

/// Answers at `port` in the way of that name until the process is ended.
pub(crate) fn serve(name: &str, port: u16) -> anyhow::Result<()> {
    match name {
        "tokio" => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
            runtime.block_on(async {
                let tasks: Vec<_> = (0..WORKERS).map(|_| tokio::spawn(echo_async(port))).collect();
                for task in tasks {
                    task.await??;
                }
                Ok(())
            })
        }
        "tokio-current" => in_threads(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(echo_async(port))
        }),
        "threads" => in_threads(move || echo(&reuse_port(port)?)),
        "batches" => in_threads(move || echo_batches(&reuse_port(port)?)),
        _ => bail!("unknown: {name}; there are {}", NAMES.join(", ")),
    }
}

fn in_threads(work: impl Fn() -> io::Result<()> + Copy + Send + 'static) -> anyhow::Result<()> {
    let threads: Vec<_> = (0..WORKERS).map(|_| std::thread::spawn(work)).collect();
    for thread in threads {
        match thread.join() {
            Ok(ended) => ended?,
            Err(_) => bail!("a responder has panicked"),
        }
    }
    Ok(())
}

/// As `coral_dns::server` does it.
async fn echo_async(port: u16) -> io::Result<()> {
    let socket = reuse_port(port)?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = [0; MESSAGE_BYTES];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        answer(&mut buffer[..length]);
        socket.send_to(&buffer[..length], from).await?;
    }
}

fn echo(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; MESSAGE_BYTES];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        answer(&mut buffer[..length]);
        socket.send_to(&buffer[..length], from)?;
    }
}

fn echo_batches(socket: &UdpSocket) -> io::Result<()> {
    let mut buffers = vec![[0; MESSAGE_BYTES]; BATCH];
    let mut received = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut sent = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut lengths = Vec::with_capacity(BATCH);
    let mut from = Vec::with_capacity(BATCH);
    loop {
        lengths.clear();
        from.clear();
        {
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            // Waits for one, and takes those that are there beside it.
            let messages =
                recvmmsg(socket.as_raw_fd(), &mut received, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
            for message in messages {
                lengths.push(message.bytes);
                from.push(message.address);
            }
        }
        for (buffer, length) in buffers.iter_mut().zip(&lengths) {
            answer(&mut buffer[..*length]);
        }
        let slices: Vec<_> =
            buffers.iter().zip(&lengths).map(|(buffer, length)| [IoSlice::new(&buffer[..*length])]).collect();
        let no_control: [ControlMessage<'_>; 0] = [];
        let _ = sendmmsg(socket.as_raw_fd(), &mut sent, slices.iter(), &from, no_control, MsgFlags::empty())?;
    }
}

fn answer(message: &mut [u8]) {
    if let Some(flags) = message.get_mut(2) {
        *flags |= 0x80;
    }
}
