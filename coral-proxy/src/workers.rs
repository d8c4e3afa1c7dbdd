//! Threads that serve connections, each those it was given until they end.
//!
//! On a runtime of many threads whoever is idle takes connections from whoever is not, for a request at a time: each time
//! a thread must be woken, and finds nothing of the connection in its processor's cache. A hit takes less time than that. So
//! connections may be served by threads with a runtime each, and are dealt out in turn. Everything else, fetches
//! above all, stays on the runtime of many threads.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::thread;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

/// Threads for blocking work, which is reading from disk, that each of ours may have.
const BLOCKING_THREADS: usize = 64;

/// The threads. They end when this is dropped, and what they still serve with them.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    next: usize,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Workers {
    /// So many threads. With none of them connections are served by the runtime of the caller.
    pub(crate) fn start(count: Option<NonZeroUsize>) -> io::Result<Self> {
        let count = count.map_or(0, NonZeroUsize::get);
        let workers = (0..count).map(|_| Worker::start()).collect::<io::Result<_>>()?;
        Ok(Self { workers, next: 0 })
    }

    /// Serves `stream` as one of `tasks`, on the thread whose turn it is.
    pub(crate) fn spawn<S, F>(&mut self, tasks: &mut JoinSet<()>, stream: TcpStream, serve: S) -> AbortHandle
    where
        S: FnOnce(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        if self.workers.is_empty() {
            return tasks.spawn(serve(stream));
        }
        self.next = (self.next + 1) % self.workers.len();
        let moved = async move {
            // It is told of by the runtime that it is registered with, so that is to be the one that serves it.
            match stream.into_std().and_then(TcpStream::from_std) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(%error, "a connection could not be given to a thread"),
            }
        };
        tasks.spawn_on(moved, &self.workers[self.next].runtime)
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("coral-serve".to_owned()).spawn(move || {
            // Only ever by the sender being dropped.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, _stop: stop })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread::ThreadId;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// The threads that serve six connections, in order; each is echoed a byte.
    async fn served_by(mut workers: Workers) -> Vec<ThreadId> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut tasks = JoinSet::new();
        let (told, mut threads) = mpsc::unbounded_channel();
        for _ in 0..6 {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let told = told.clone();
            workers.spawn(&mut tasks, listener.accept().await.unwrap().0, |mut stream| async move {
                let byte = stream.read_u8().await.unwrap();
                // Before the answer, after which the next one may be served by another thread.
                told.send(thread::current().id()).unwrap();
                stream.write_u8(byte).await.unwrap();
            });
            client.write_u8(7).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), 7);
        }
        tasks.join_all().await;
        drop(told);
        let mut ids = Vec::new();
        while let Some(id) = threads.recv().await {
            ids.push(id);
        }
        ids
    }

    #[tokio::test]
    async fn connections_are_dealt_out_in_turn() {
        let ids = served_by(Workers::start(NonZeroUsize::new(2)).unwrap()).await;
        let threads: BTreeSet<String> = ids.iter().map(|id| format!("{id:?}")).collect();
        assert_eq!(threads.len(), 2);
        assert!(ids.windows(2).all(|two| two[0] != two[1]), "{ids:?}");
        assert!(!ids.contains(&thread::current().id()));
    }

    #[tokio::test]
    async fn without_threads_the_caller_serves() {
        let ids = served_by(Workers::start(None).unwrap()).await;
        assert_eq!(ids, [thread::current().id(); 6]);
    }

    #[tokio::test]
    async fn what_is_served_ends_with_the_threads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut workers = Workers::start(NonZeroUsize::new(1)).unwrap();
        let mut tasks = JoinSet::new();
        let forever = |stream| async move {
            std::future::pending::<()>().await;
            drop::<TcpStream>(stream);
        };
        workers.spawn(&mut tasks, listener.accept().await.unwrap().0, forever);
        drop(workers);
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
        assert!(tasks.join_next().await.unwrap().is_err_and(|error| error.is_cancelled()));
    }
}
