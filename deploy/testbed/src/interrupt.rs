//! SIGINT, SIGTERM and SIGHUP, as a flag that long work looks at between its steps.
//!
//! Whoever is interrupted returns an error, and what it has begun is undone as that unwinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{SigSet, Signal};

/// Whether this process was told to end. Clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the signals do not end this process, but set the flag. To be called before any thread is started.
    ///
    /// # Errors
    ///
    /// If the signals cannot be blocked.
    pub fn watch() -> anyhow::Result<Self> {
        let mask: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        mask.thread_block().context("cannot block signals")?;
        let this = Self::default();
        let set = Arc::clone(&this.0);
        thread::spawn(move || {
            if mask.wait().is_ok() {
                set.store(true, Ordering::Relaxed);
            }
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
