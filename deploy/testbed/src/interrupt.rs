//! SIGINT, SIGTERM and SIGHUP, as a flag that long work looks at between its steps.
//!
//! Whoever is interrupted returns an error, and what it has begun is undone as that unwinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Whether this process was told to end. Clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the signals do not end this process, but set the flag.
    ///
    /// They are handled rather than blocked: what is blocked stays so in the processes that this one starts, and a node would not end
    /// when it is told to.
    ///
    /// # Errors
    ///
    /// If the signals cannot be handled.
    pub fn watch() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start a runtime")?;
        let listen = || {
            let _inside = runtime.enter();
            let of = |kind| signal(kind).context("cannot handle signals");
            Ok::<_, anyhow::Error>((
                of(SignalKind::interrupt())?,
                of(SignalKind::terminate())?,
                of(SignalKind::hangup())?,
            ))
        };
        let (mut interrupt, mut terminate, mut hangup) = listen()?;
        let this = Self::default();
        let set = Arc::clone(&this.0);
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            set.store(true, Ordering::Relaxed);
        });
        Ok(this)
    }

    /// Whether it was.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To be asked between two steps.
    ///
    /// # Errors
    ///
    /// If it was.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.is_set(), INTERRUPTED);
        Ok(())
    }

    /// Waits until it is: for work that is done in a runtime.
    pub async fn told(&self) {
        while !self.is_set() {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks again and again until there is an answer.
    ///
    /// For what nobody tells: the state of another process. `what` is said if the time is over, with the last reason for waiting.
    ///
    /// # Errors
    ///
    /// If the question fails, the time is over, or an interrupt comes.
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut() -> anyhow::Result<Result<T, String>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        loop {
            self.check()?;
            match ask()? {
                Ok(answer) => return Ok(answer),
                Err(why) if begun.elapsed() > limit => bail!("{what}: not within {limit:?}: {why}"),
                Err(_) => thread::sleep(AGAIN),
            }
        }
    }
}

/// The error of [`Interrupt::check`].
pub const INTERRUPTED: &str = "interrupted; what there was has been taken down";
/// How long until something is asked again.
const AGAIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn what_is_started_afterwards_still_ends_when_it_is_told_to() {
        let interrupt = Interrupt::watch().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let ended = interrupt.until("sleep is to end", Duration::from_secs(10), || {
            Ok(if child.try_wait()?.is_some() { Ok(()) } else { Err("it sleeps".to_owned()) })
        });
        // Whatever came of it, nothing is to stay.
        let _ = child.kill();
        child.wait().unwrap();
        ended.unwrap();
        assert!(!interrupt.is_set());
    }
}
