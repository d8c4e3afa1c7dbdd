//! Lines on their way to standard error or a file, many in one write.
//!
//! A busy node logs tens of thousands of lines a second, and a system call for each is a tenth of what a request costs. So
//! lines are gathered, and a thread writes what there is: at once when there is much or something is wrong, else after
//! [`PATIENCE`]. It sleeps while there is nothing. Whoever logs never waits for whoever reads: where that one is too slow,
//! lines are lost, and their number is told.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The longest that a line waits for others.
const PATIENCE: Duration = Duration::from_millis(100);
/// So many bytes wait no longer.
const ENOUGH: usize = 32 << 10;
/// More are not kept.
const MOST: usize = 1 << 20;

/// Where lines are put. Clones put them in the same place.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something, or more, to do for the thread.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines for which there was no room.
    lost: u64,
    is_urgent: bool,
    is_over: bool,
}

impl Shared {
    /// A panic elsewhere leaves whole lines here.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8], is_urgent: bool) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > MOST {
            waiting.lost += 1;
            return;
        }
        let (was_empty, was_enough) = (waiting.bytes.is_empty(), waiting.bytes.len() >= ENOUGH);
        waiting.bytes.extend_from_slice(line);
        waiting.is_urgent |= is_urgent;
        let is_enough = waiting.bytes.len() >= ENOUGH;
        drop(waiting);
        if was_empty || is_urgent || (is_enough && !was_enough) {
            self.changed.notify_one();
        }
    }

    /// Waits until there is something to write, and takes it. `None` when it is over and all is written.
    fn take(&self, buffer: &mut Vec<u8>) -> Option<u64> {
        let asleep = |waiting: &mut Waiting| waiting.bytes.is_empty() && waiting.lost == 0 && !waiting.is_over;
        let waiting = self.changed.wait_while(self.lock(), asleep).unwrap_or_else(PoisonError::into_inner);
        let gathers = |waiting: &mut Waiting| waiting.bytes.len() < ENOUGH && !waiting.is_urgent && !waiting.is_over;
        let gathered = self.changed.wait_timeout_while(waiting, PATIENCE, gathers);
        let mut waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
        if waiting.is_over && waiting.bytes.is_empty() && waiting.lost == 0 {
            return None;
        }
        waiting.is_urgent = false;
        buffer.clear();
        mem::swap(buffer, &mut waiting.bytes);
        Some(mem::take(&mut waiting.lost))
    }
}

/// The thread that writes. Dropping this has it write all that there is, and waits for that.
#[derive(Debug)]
#[must_use = "when it is dropped, nothing is written any more"]
pub struct Writing {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    requests: Option<Lines>,
}

impl Writing {
    /// From now on requests are put among these lines as they are.
    pub(super) fn set_requests(&mut self, lines: Lines) {
        self.requests = Some(lines);
    }

    /// Where lines of requests go that are among those of the log; `None` if these are made in another way.
    pub(crate) fn requests(&self) -> Option<Lines> {
        self.requests.clone()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Begins to write lines to `to`; `tell_lost` is told how many were lost.
pub(super) fn start<W: Write + Send + 'static>(
    mut to: W,
    tell_lost: impl Fn(&mut W, u64) + Send + 'static,
) -> io::Result<(Lines, Writing)> {
    let shared = Arc::new(Shared::default());
    let thread = thread::Builder::new().name("log".to_owned()).spawn({
        let shared = Arc::clone(&shared);
        move || {
            let mut buffer = Vec::new();
            while let Some(lost) = shared.take(&mut buffer) {
                // Whoever reads has gone: there is nobody to tell.
                let _ = to.write_all(&buffer);
                if lost > 0 {
                    tell_lost(&mut to, lost);
                }
                let _ = to.flush();
            }
        }
    })?;
    Ok((Lines { shared: Arc::clone(&shared) }, Writing { shared, thread: Some(thread), requests: None }))
}

impl Lines {
    /// Adds a whole line that is in no hurry.
    pub(super) fn add(&self, line: &[u8]) {
        self.shared.add(line, false);
    }
}

/// One line in the making.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    shared: &'a Shared,
    is_urgent: bool,
}

impl Write for Line<'_> {
    /// The subscriber writes a line in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.add(line, self.is_urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { shared: &self.shared, is_urgent: false }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { shared: &self.shared, is_urgent: *meta.level() <= Level::WARN }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Tells each write, and waits before it until it may.
    struct Told(mpsc::SyncSender<String>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn tell_lost(to: &mut Told, lost: u64) {
        writeln!(to, "coral: {lost} lines").unwrap();
    }

    #[test]
    fn all_lines_are_written_in_order_in_fewer_writes_and_before_the_end() {
        let (tell, told) = mpsc::sync_channel(1_000_000);
        let (lines, writing) = start(Told(tell), tell_lost).unwrap();
        let expected: String = (0..1_000).map(|number| format!("line {number}\n")).collect();
        for line in expected.split_inclusive('\n') {
            assert_eq!(lines.make_writer().write(line.as_bytes()).unwrap(), line.len());
        }
        drop(writing);
        let writes: Vec<String> = told.into_iter().collect();
        assert_eq!(writes.concat(), expected);
        assert!(writes.len() < 100, "{}", writes.len());
    }

    #[test]
    fn whoever_reads_too_slowly_is_told_what_is_lost_and_holds_nobody_up() {
        let (tell, told) = mpsc::sync_channel(0);
        let (lines, writing) = start(Told(tell), tell_lost).unwrap();
        let line = [b'x'; 1 << 10];
        // The writer hangs at the first of them.
        let count = 3 * MOST / line.len();
        for _ in 0..count {
            lines.make_writer().write_all(&line).unwrap();
        }
        let reading = thread::spawn(move || told.into_iter().collect::<Vec<String>>().concat());
        drop(writing);
        let read = reading.join().unwrap();
        let (bytes, words) = read.split_at(read.rfind('x').unwrap() + 1);
        let told: String = read.split("coral: ").skip(1).collect();
        let lost: usize = told.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(bytes.matches('x').count() / line.len() + lost, count, "{words}");
        assert!(bytes.len() <= 2 * MOST + line.len(), "{}", bytes.len());
    }
}
