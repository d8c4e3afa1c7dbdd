//! A part of a node: a task of its own that is told to stop, and says how it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// A part that runs as a task of its own until it is told to stop.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), String>>,
    /// How long it may take to stop.
    patience: Duration,
}

/// How one part ended.
#[derive(Debug)]
pub struct PartEnding {
    /// Which one.
    pub name: &'static str,
    /// How long it took from being told.
    pub took: Duration,
    /// What was wrong, if anything.
    pub outcome: Result<(), String>,
}

impl Part {
    /// Runs what `body` makes of a stop signal. If that ends by itself, `failed` learns of it.
    pub(super) fn start<F>(
        name: &'static str,
        patience: Duration,
        failed: &Arc<watch::Sender<Vec<String>>>,
        body: impl FnOnce(StopSignal) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let told = Arc::new(AtomicBool::new(false));
        let body = body(stop_signal(stopped, Arc::clone(&told)));
        let failed = Arc::clone(failed);
        let task = tokio::spawn(async move {
            let outcome = body.await;
            if !told.load(Ordering::Relaxed) {
                let why = outcome.clone().err().unwrap_or_else(|| "it ended by itself".to_owned());
                tracing::error!("the {name} has stopped: {why}");
                failed.send_modify(|failures| failures.push(format!("the {name} has stopped: {why}")));
            }
            outcome
        });
        Self { name, stop: Some(stop), task, patience }
    }

    /// Tells it to stop. Whether it runs.
    pub(super) fn tell(&mut self) -> bool {
        self.stop.take().is_some_and(|stop| stop.send(()).is_ok())
    }

    pub(super) async fn stop(mut self) -> PartEnding {
        let (stopped_before, patience) = (!self.tell(), self.patience);
        self.ended(stopped_before, patience).await
    }

    /// Waits until it has ended, as long as `patience` lasts.
    pub(super) async fn ended(mut self, stopped_before: bool, patience: Duration) -> PartEnding {
        let begun = Instant::now();
        let outcome = match tokio::time::timeout(patience, &mut self.task).await {
            Ok(Ok(Ok(()))) if stopped_before => Err("it had ended before".to_owned()),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(e)) => Err(format!("it panicked: {e}")),
            // It is aborted when this part is dropped.
            Err(_) => Err(format!("it did not end within {patience:?}")),
        };
        let took = begun.elapsed();
        match &outcome {
            Ok(()) => tracing::info!("the {} has stopped after {took:.0?}", self.name),
            Err(e) => tracing::error!("the {} did not stop cleanly: {e}", self.name),
        }
        PartEnding { name: self.name, took, outcome }
    }
}

/// A part that nobody has stopped ends as if its process had been killed. One that has ended is past being aborted.
impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A future that ends when the part is to stop.
pub(super) type StopSignal = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn stop_signal(stopped: oneshot::Receiver<()>, told: Arc<AtomicBool>) -> StopSignal {
    Box::pin(async move {
        // A sender that is dropped is that of a part about to be aborted.
        drop(stopped.await);
        told.store(true, Ordering::Relaxed);
    })
}
