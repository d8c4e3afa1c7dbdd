//! The access log: where each request goes that the cache has answered.
//!
//! Lines for people are among those of the whole log: put there as they are ([`super::human`]), but where colours or JSON are wanted, which
//! are `tracing`'s to make. Those for the tools that count visits are in a form of theirs, go to a place of their own, and are written by
//! a thread of their own, as all lines are ([`super::lines`]).

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::Context as _;
use coral_proxy::access::{Access, AccessLog};
use hyper::http::HeaderValue;

use super::human::human;
use super::lines::{self, Lines, Writing};
use super::record::{Client, combined, json};
use crate::config::{AccessFormat, AccessLog as Config};

/// The access log of a node.
#[derive(Debug)]
pub(crate) struct Requests {
    anonymize: bool,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// Events of the log.
    Event,
    /// Lines of the log.
    Log(Lines),
    Human(Place),
    Combined(Place),
    Json(Place),
}

/// Where lines go.
#[derive(Debug)]
struct Place {
    lines: Lines,
    file: Option<File>,
    /// Until it is over.
    writing: Mutex<Option<Writing>>,
}

impl Requests {
    /// What `config` says; `None` if there is to be none. `log` is the place for lines that are to be among those of the log. Fails if
    /// the file cannot be opened.
    pub(crate) fn open(config: &Config, log: Option<Lines>) -> anyhow::Result<Option<Arc<Self>>> {
        let form = match config.format {
            AccessFormat::Off => return Ok(None),
            AccessFormat::Human if config.path.is_none() => log.map_or(Form::Event, Form::Log),
            AccessFormat::Human => Form::Human(Place::open(config.path.as_deref())?),
            AccessFormat::Combined => Form::Combined(Place::open(config.path.as_deref())?),
            AccessFormat::Json => Form::Json(Place::open(config.path.as_deref())?),
        };
        Ok(Some(Arc::new(Self { anonymize: config.anonymize, form })))
    }

    fn place(&self) -> Option<&Place> {
        match &self.form {
            Form::Event | Form::Log(_) => None,
            Form::Human(place) | Form::Combined(place) | Form::Json(place) => Some(place),
        }
    }

    /// Opens the file once more, which by now may be another one. If that fails, lines go where they went.
    pub(crate) fn reopen(&self) -> anyhow::Result<()> {
        self.place().and_then(|place| place.file.as_ref()).map_or(Ok(()), File::reopen)
    }

    /// Writes all lines that there are. Those that come later are lost.
    pub(crate) fn close(&self) {
        if let Some(place) = self.place() {
            drop(place.writing.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl AccessLog for Requests {
    fn log(&self, access: &Access<'_>) {
        let client = Client::of(access.client, self.anonymize);
        match &self.form {
            Form::Event => event(access, client),
            Form::Log(lines) => add(lines, |line| human(line, LOG_ORIGIN, access, client, SystemTime::now())),
            Form::Human(place) => place.add(|line| human(line, "", access, client, SystemTime::now())),
            Form::Combined(place) => place.add(|line| combined(line, access, client, SystemTime::now())),
            Form::Json(place) => place.add(|line| json(line, access, client, SystemTime::now())),
        }
    }
}

/// Adds the line that `write` makes.
fn add(lines: &Lines, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    thread_local!(static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    LINE.with_borrow_mut(|line| {
        line.clear();
        // Into memory, where nothing fails.
        if write(line).is_ok() {
            lines.add(line);
        }
    });
}

/// Where a request stands in the log: modules and levels are filtered by it.
pub(super) const TARGET: &str = "coral_proxy::access";

/// What stands between the time and the fields of a line of the log.
pub(super) const LOG_ORIGIN: &str = "  INFO coral_proxy::access:";

pub(super) fn event(access: &Access<'_>, client: Client) {
    let host = access.request.host.and_then(|host| HeaderValue::from_bytes(host).ok());
    tracing::info!(
        target: TARGET,
        client = %client,
        method = %access.request.method,
        host = host.map(tracing::field::debug),
        uri = %access.request.target,
        status = access.status.as_u16(),
        cache = access.cache,
        from = from(access),
        error = access.error.map(tracing::field::display),
        bytes = access.bytes,
        whole = (!access.is_whole).then_some(false),
        ms = access.took.as_millis() as u64,
        id = %access.id,
    );
}

/// Who asked, in a word.
pub(super) fn from(access: &Access<'_>) -> &'static str {
    if access.from_peer { "peer" } else { "client" }
}

impl Place {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = path.map(File::open).transpose()?;
        let to: Box<dyn Write + Send> = match &file {
            Some(file) => Box::new(file.clone()),
            None => Box::new(io::stderr()),
        };
        // No line of the access log itself: whoever reads it expects its form.
        let lost = |_: &mut _, lost| {
            tracing::warn!("{lost} lines of the access log were lost, as they are written too slowly");
        };
        let (lines, writing) = lines::start(to, lost).context("the access log has no thread to be written by")?;
        Ok(Self { lines, file, writing: Mutex::new(Some(writing)) })
    }

    fn add(&self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
        add(&self.lines, write);
    }
}

/// A file that is only written to, at its end.
#[derive(Debug, Clone)]
struct File(Arc<Open>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: Mutex<fs::File>,
    /// The last write failed, which has been told.
    fails: AtomicBool,
}

impl File {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = Mutex::new(append_to(path)?);
        Ok(Self(Arc::new(Open { path: path.to_owned(), file, fails: AtomicBool::new(false) })))
    }

    fn reopen(&self) -> anyhow::Result<()> {
        let file = append_to(&self.0.path)?;
        *self.lock() = file;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, fs::File> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append_to(path: &Path) -> anyhow::Result<fs::File> {
    // It tells who asked for what: not for all to read.
    let opened = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    opened.with_context(|| format!("cannot open the access log {} (`log.access.path`)", path.display()))
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.lock().write(bytes);
        match &written {
            Ok(_) => self.0.fails.store(false, Ordering::Relaxed),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if !self.0.fails.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, path = %self.0.path.display(), "the access log cannot be written, and loses lines");
                }
            }
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
