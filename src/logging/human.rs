//! One request as a line for people: as the log has it, written without the machinery of the log.
//!
//! A node answers tens of thousands of requests a second and logs each. An event of `tracing` goes through filter, layer and visitor, and
//! each part of its line through `fmt`: a sixth of what a hit cost. A test compares this line with the log's own.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use coral_proxy::access::Access;
use hyper::http::HeaderValue;

use super::record::Client;
use super::requests::from;

/// Bytes of a time to the second: `2000-10-10T13:55:36`.
const SECONDS_BYTES: usize = 19;

/// Writes `access`, which ended `now`; behind the time stands `origin`, as in a log of many things.
pub(super) fn human(
    to: &mut Vec<u8>,
    origin: &str,
    access: &Access<'_>,
    client: Client,
    now: SystemTime,
) -> io::Result<()> {
    let request = &access.request;
    time(to, now)?;
    text(to, origin);
    text(to, " client=");
    match client.socket() {
        Some(SocketAddr::V4(client)) => {
            for (place, octet) in client.ip().octets().into_iter().enumerate() {
                text(to, if place == 0 { "" } else { "." });
                number(to, octet.into());
            }
            text(to, ":");
            number(to, client.port().into());
        }
        _ => write!(to, "{client}")?,
    }
    text(to, " method=");
    text(to, request.method);
    if let Some(bytes) = request.host {
        text(to, " host=");
        host(to, bytes)?;
    }
    text(to, " uri=");
    text(to, &request.target);
    text(to, " status=");
    text(to, access.status.as_str());
    for (name, word) in [(" cache=\"", access.cache), ("\" from=\"", from(access))] {
        text(to, name);
        text(to, word);
    }
    text(to, "\"");
    if let Some(error) = &access.error {
        write!(to, " error={error}")?;
    }
    text(to, " bytes=");
    number(to, access.bytes);
    if !access.is_whole {
        text(to, " whole=false");
    }
    text(to, " ms=");
    number(to, access.took.as_millis() as u64);
    writeln!(to, " id={}", access.id)
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend_from_slice(text.as_bytes());
}

fn number(to: &mut Vec<u8>, number: u64) {
    text(to, itoa::Buffer::new().format(number));
}

/// In quotes, with what could end them, or is no text, escaped as the log does it.
fn host(to: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    if bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"') {
        text(to, "\"");
        to.extend_from_slice(bytes);
        text(to, "\"");
        return Ok(());
    }
    match HeaderValue::from_bytes(bytes) {
        Ok(value) => write!(to, "{value:?}"),
        // A field's value has been read already.
        Err(_) => write!(to, "{:?}", String::from_utf8_lossy(bytes)),
    }
}

/// To the microsecond, in UTC (RFC 3339). What it has in common with the last one of this thread is not worked out again.
fn time(to: &mut Vec<u8>, now: SystemTime) -> io::Result<()> {
    thread_local!(static LAST: Cell<(u64, [u8; SECONDS_BYTES])> = const { Cell::new((u64::MAX, [0; SECONDS_BYTES])) });
    // A clock before its epoch is wrong in any case.
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut seconds, mut written) = LAST.get();
    if seconds != since.as_secs() {
        seconds = since.as_secs();
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // It ends in a `Z`, for which there is no room.
        let _ = write!(&mut written[..], "{}", humantime::format_rfc3339_seconds(whole));
        LAST.set((seconds, written));
    }
    to.extend_from_slice(&written);
    write!(to, ".{:06}Z", since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use coral_proxy::ProxyError;
    use hyper::http::Request;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::logging::record::tests::{access, head as head_of};
    use crate::logging::requests::{LOG_ORIGIN, event};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Both without their times, which are to be of the same form.
    fn check(access: &Access<'_>, anonymize: bool) {
        let client = Client::of(access.client, anonymize);
        let kept = Kept::default();
        let writer = kept.clone();
        let usual = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(usual), || event(access, client));
        let mut ours = Vec::new();
        human(&mut ours, LOG_ORIGIN, access, client, SystemTime::now()).unwrap();
        let [ours, usual] = [ours, kept.0.lock().unwrap().clone()].map(|line| {
            let line = String::from_utf8(line).unwrap();
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!((time.len(), humantime::parse_rfc3339(time).is_ok()), (27, true), "{line}");
            rest.to_owned()
        });
        assert_eq!(ours, usual);
    }

    #[test]
    fn a_line_is_the_one_that_the_log_would_have() {
        let head = head_of(Request::get("/a?b=c").header("host", "x.com"));
        let mut access = access(&head);
        check(&access, false);
        check(&access, true);
        access.client = "[2001:db8::5]:4000".parse().unwrap();
        let head = head_of(Request::head("http://x.com/%22\"").header("host", "a\"b\\\t"));
        access.request = (&head).into();
        (access.from_peer, access.is_whole, access.error) = (true, false, Some(&ProxyError::Host));
        check(&access, false);
        let head = head_of(Request::options("*"));
        access.request = (&head).into();
        check(&access, true);
    }

    #[test]
    fn times_of_one_second_and_of_others_are_right() {
        let at = |micros: u64| {
            let mut text = Vec::new();
            time(&mut text, SystemTime::UNIX_EPOCH + Duration::from_micros(micros)).unwrap();
            String::from_utf8(text).unwrap()
        };
        for micros in [0, 1, 999_999, 1_000_000, 1_709_166_600_000_007, 1_709_166_600_900_000, 5] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
            assert_eq!(at(micros), humantime::format_rfc3339_micros(now).to_string());
        }
    }
}
