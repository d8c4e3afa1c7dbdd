//! What the owner of a site says of purges: the file `/.well-known/coral-purge` at his own server.
//!
//! A line is a time (RFC 3339) and a path, or what paths begin with and a `*`: `2026-11-26T18:00:00Z /news/*`. Copies that the
//! origin has sent until then are not used. Who can put a file there controls the origin, so no key is needed, and what it
//! says counts for that origin alone: scheme, host and port. Values in, values out; `fetch/owner.rs` asks for it.

use std::time::{Duration, SystemTime};

use super::{MAX_PATTERN_BYTES, Moment, Pattern};
use crate::policy::seconds_since_1970;
use crate::url::CoralUrl;

/// Where the file is (RFC 8615).
pub const PATH: &str = "/.well-known/coral-purge";

/// Whether a request target asks for it. A query leads to no other copy of it.
pub(crate) fn is_path(target: &str) -> bool {
    target.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
}

/// Bytes of the file, at most.
pub const MAX_FILE_BYTES: usize = 64 << 10;

/// Lines of the file, at most.
const MAX_LINES: usize = 1000;

/// So much later than it is by the origin's clock a line may be. What is in the future is a mistake: it could not be obeyed
/// more than once.
const MAX_AHEAD: Duration = Duration::from_secs(60 * 60);

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) pattern: Pattern,
    /// Milliseconds since 1970, by the origin's clock.
    pub(crate) said: u64,
}

/// The first line that was not understood, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text:?}: {reason}")]
pub(crate) struct Mistake {
    /// Its number, from 1.
    line: usize,
    text: String,
    reason: &'static str,
}

/// Reads the file of the origin of `url`, where it is `date`.
pub(crate) fn parse(text: &str, url: &CoralUrl, date: SystemTime) -> Result<Vec<Line>, Mistake> {
    let latest = millis(date.checked_add(MAX_AHEAD).unwrap_or(date));
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let of = |reason| Mistake { line: number + 1, text: line.chars().take(100).collect(), reason };
        if number >= MAX_LINES {
            return Err(of("the file has more than 1000 lines"));
        }
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let (time, path) = match words[..] {
            [] => continue,
            [time, path] => (time, path),
            _ => return Err(of("a line is a time and a path, such as 2026-11-26T18:00:00Z /news/*")),
        };
        let said = rfc3339(time).ok_or_else(|| of("the time is none of RFC 3339, such as 2026-11-26T18:00:00Z"))?;
        if said > latest {
            return Err(of("the time is in the future"));
        }
        let pattern = pattern(path, url).ok_or_else(|| of("this is no path, such as /news/a.html or /news/*"))?;
        if pattern.to_string().len() > MAX_PATTERN_BYTES {
            return Err(of("the path is too long: purge a prefix of it"));
        }
        lines.push(Line { pattern, said });
    }
    Ok(lines)
}

impl Line {
    /// When it was purged, by this node's clock, where the head of the file came at `received` and said that it was `date`. Not
    /// later than it came.
    pub(crate) fn moment(&self, date: SystemTime, received: SystemTime) -> Moment {
        let said = SystemTime::UNIX_EPOCH + Duration::from_millis(self.said);
        let time = match received.duration_since(date) {
            Ok(ahead) => said.checked_add(ahead),
            Err(behind) => said.checked_sub(behind.duration()),
        };
        Moment { time: time.map_or(received, |time| time.min(received)), said: self.said }
    }
}

fn pattern(path: &str, url: &CoralUrl) -> Option<Pattern> {
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return None;
    }
    match path.strip_suffix('*') {
        Some(prefix) => Some(Pattern::of_prefix(&url.at(prefix).ok()?)),
        None => Some(Pattern::of_url(&url.at(path).ok()?)),
    }
}

/// A time of RFC 3339 §5.6 in milliseconds since 1970; `None` for one before, too.
fn rfc3339(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked("2026-11-26T".len())?;
    let [year, month, day] = fields(date.strip_suffix(['T', 't'])?, '-', [4, 2, 2])?;
    let (clock, rest) = rest.split_at_checked("18:00:00".len())?;
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    let (fraction, zone) = rest.split_at_checked(rest.find(['Z', 'z', '+', '-'])?)?;
    let fraction_millis = match fraction.strip_prefix('.') {
        None if fraction.is_empty() => 0,
        Some(digits) if is_number(digits) => format!("{digits:0<3}")[..3].parse().ok()?,
        _ => return None,
    };
    let local = seconds_since_1970([year, month, day], [hour, minute, second])?;
    let seconds = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => local,
        (sign, offset) => {
            let [hours, minutes] =
                fields(offset, ':', [2, 2]).filter(|[hours, minutes]| *hours < 24 && *minutes < 60)?;
            let offset = (hours * 60 + minutes) * 60;
            if sign == "-" { local.checked_add(offset)? } else { local.checked_sub(offset)? }
        }
    };
    Some(seconds * 1000 + fraction_millis)
}

/// Numbers of exactly so many digits.
fn fields<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        *number = parts.next().filter(|part| part.len() == digits && is_number(part))?.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::url::Names;

    /// 26 November 2026, 18:00 UTC.
    const SIX: u64 = 1_795_716_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn url() -> CoralUrl {
        CoralUrl::parse_absolute(&format!("http://www.x.com:8080{PATH}"), &Names::default()).unwrap()
    }

    fn read(text: &str) -> Result<Vec<(u64, String)>, String> {
        let lines = parse(text, &url(), at(SIX)).map_err(|mistake| mistake.to_string())?;
        Ok(lines.into_iter().map(|line| (line.said, line.pattern.to_string())).collect())
    }

    #[test]
    fn times_are_those_of_rfc_3339() {
        for (text, millis) in [
            ("2026-11-26T18:00:00Z", SIX * 1000),
            ("2026-11-26t18:00:00z", SIX * 1000),
            ("2026-11-26T19:30:00+01:30", SIX * 1000),
            ("2026-11-26T10:00:00-08:00", SIX * 1000),
            ("2026-11-26T18:00:00.5Z", SIX * 1000 + 500),
            ("2026-11-26T18:00:00.123456Z", SIX * 1000 + 123),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(rfc3339(text), Some(millis), "{text}");
        }
        for text in [
            "",
            "2026-11-26",
            "2026-11-26T18:00Z",
            "2026-11-26T18:00:00",
            "2026-11-26T18:00:00+0100",
            "2026-11-26T18:00:00+24:00",
            "2026-11-26T18:00:00.Z",
            "2026-11-31T18:00:00Z",
            "2026-11-26T24:00:00Z",
            "2026-11-26T+8:00:00Z",
            "26-11-2026T18:00:00Z",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn lines_are_of_one_origin_and_comments_are_none() {
        let text = "# by hand\r\n\n2026-11-26T18:00:00Z /news/*  # all of it\n2026-11-26T17:00:00Z\t/a/../b?c\r\n\
                    2026-11-26T18:00:00Z /*\n";
        let lines = [
            (SIX * 1000, "http://www.x.com:8080/news/*"),
            ((SIX - 3600) * 1000, "http://www.x.com:8080/b?c"),
            (SIX * 1000, "http://www.x.com:8080/*"),
        ];
        assert_eq!(read(text), Ok(lines.map(|(said, pattern)| (said, pattern.to_owned())).to_vec()));
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let many = "\n".repeat(1001);
        let long = format!("2026-11-26T18:00:00Z /{}", "a".repeat(600));
        for (text, wanted) in [
            ("#\n/news/*", "line 2: \"/news/*\": a line is a time and a path"),
            ("2026-11-26T18:00:00Z /a b", "a line is a time and a path"),
            ("<html>\n", "line 1: \"<html>\""),
            ("yesterday /a", "none of RFC 3339"),
            ("2026-11-26T19:00:01Z /a", "in the future"),
            ("2026-11-26T18:00:00Z a", "no path"),
            ("2026-11-26T18:00:00Z *", "no path"),
            ("2026-11-26T18:00:00Z http://www.y.com/", "no path"),
            (&many, "line 1001: \"\": the file has more"),
            (&long, "too long"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn the_clock_of_the_origin_is_set_right_and_nothing_is_purged_in_the_future() {
        let line = Line { pattern: pattern("/*", &url()).unwrap(), said: SIX * 1000 };
        let moment = |date, received| line.moment(at(date), at(received)).time;
        assert_eq!(moment(SIX + 60, SIX + 60), at(SIX));
        assert_eq!(moment(SIX + 60, SIX + 360), at(SIX + 300), "its clock is five minutes late");
        assert_eq!(moment(SIX + 360, SIX + 60), at(SIX - 300), "or early");
        assert_eq!(moment(SIX - 10, SIX), at(SIX), "ten seconds ahead of its own clock");
        assert_eq!(moment(0, SIX), at(SIX));
        assert_eq!(moment(u64::MAX / 1_000_000_000_000, 0), at(0));
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_none(text in "\\PC{0,80}", near in "([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,12}[Zz+-]?[0-9:]{0,6} /[ -~]{0,20}\n?){0,3}") {
            for text in [text, near] {
                if let Ok(lines) = parse(&text, &url(), at(SIX)) {
                    for line in lines {
                        prop_assert!(line.pattern.to_string().starts_with("http://www.x.com:8080/"));
                        prop_assert!(line.moment(at(SIX), at(SIX)).time <= at(SIX));
                    }
                }
            }
        }
    }
}
