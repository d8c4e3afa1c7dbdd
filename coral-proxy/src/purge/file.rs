//! The rules as a file, so that a restart does not bring back what was purged.
//!
//! Text, a rule a line, and a checksum at the end. It is written beside the old one and takes its place when it is whole. One
//! that cannot be read is an error, and not an empty list.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use twox_hash::XxHash3_64;

use super::rules::{Rule, Rules};
use super::{Moment, Pattern};
use crate::url::{Names, canonical_host};

/// Its name in the directory of the store; while it is written, it ends in `.new`.
pub(crate) const NAME: &str = "coral-purged";

const HEAD: &str = "coral-purged 1";

/// No file of ours is longer.
const MAX_BYTES: u64 = 64 << 20;

/// Reads the rules; none if there is no file. No time is later than `now`: else what comes until then would be of no use.
pub(super) fn read(path: &Path, now: SystemTime) -> io::Result<Rules> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Rules::default()),
        file => file?,
    };
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    decode(&text, now).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is damaged, or of another version"))
}

/// Puts the rules in the place of those that are there.
pub(super) fn write(path: &Path, rules: &Rules) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(encode(rules).as_bytes())?;
    // The name may reach the disk before the bytes do.
    file.sync_all()?;
    std::fs::rename(new, path)
}

fn encode(rules: &Rules) -> String {
    let mut text = format!("{HEAD}\n");
    for (rule, Moment { time, said }) in rules.iter() {
        let micros = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let (kind, what) = match rule {
            Rule::Everything => ("everything", "-"),
            Rule::Domain(domain) => ("domain", domain),
            Rule::Site(host) => ("site", host),
            Rule::Prefix(prefix) => ("prefix", prefix),
            Rule::Url(url) => ("url", url),
        };
        writeln!(text, "{micros} {said} {kind} {what}").expect("a string takes all that is written");
    }
    let sum = XxHash3_64::oneshot(text.as_bytes());
    writeln!(text, "{sum:016x}").expect("a string takes all that is written");
    text
}

fn decode(text: &str, now: SystemTime) -> Option<Rules> {
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let body = &text[..=body.len()];
    if sum != format!("{:016x}", XxHash3_64::oneshot(body.as_bytes())) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next() != Some(HEAD) {
        return None;
    }
    let names = Names { allow_addresses: true, ..Names::default() };
    let mut rules = Rules::default();
    for line in lines {
        let mut words = line.split(' ');
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(words.next()?.parse().ok()?))?;
        let moment = Moment { time: time.min(now), said: words.next()?.parse().ok()? };
        let (kind, what) = (words.next()?, words.next()?);
        let host = |text: &str| Pattern::parse(text, &names).ok().map(|pattern| pattern.host);
        let (rule, host) = match kind {
            "everything" => (Rule::Everything, String::new().into()),
            "domain" => (Rule::Domain(what), canonical_host(what).map_or_else(|_| what.into(), Into::into)),
            "site" => (Rule::Site(what), host(what)?),
            "prefix" => (Rule::Prefix(what), host(&format!("{what}*"))?),
            "url" => (Rule::Url(what), host(what)?),
            _ => return None,
        };
        rules.restore(rule, &host, moment);
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn rules() -> Rules {
        let mut rules = Rules::of_everything(at(1));
        for (number, text) in (2..).zip([
            "http://www.x.com/a?b",
            "http://www.x.com:8080/news/*",
            "www.x.com",
            "https://www.y.co.uk/*",
            "192.0.2.1",
            "http://192.0.2.1/a",
        ]) {
            let names = Names { allow_addresses: true, ..Names::default() };
            rules.insert(&Pattern::parse(text, &names).unwrap(), Moment { time: at(number), said: number * 1000 });
        }
        for number in 0..=64 {
            let pattern = Pattern::parse(&format!("w{number}.z.com"), &Names::default()).unwrap();
            rules.insert(&pattern, Moment::at(at(10)));
        }
        rules
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        assert!(read(&path, at(100)).unwrap().is_empty());
        write(&path, &rules()).unwrap();
        let again = read(&path, at(100)).unwrap();
        assert_eq!((encode(&again), again.len()), (encode(&rules()), rules().len()));
        write(&path, &Rules::of_everything(at(1000))).unwrap();
        let again = read(&path, at(100)).unwrap();
        assert_eq!(encode(&again), encode(&Rules::of_everything(at(100))), "no later than now");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_cut_or_damaged_is_an_error() {
        let text = encode(&rules());
        for length in 0..text.len() {
            assert!(decode(&text[..length], at(100)).is_none(), "cut at {length}");
            let mut damaged = text.clone().into_bytes();
            damaged[length] ^= 1;
            let read = String::from_utf8(damaged).ok().and_then(|text| decode(&text, at(100)));
            assert!(read.is_none(), "damaged at {length}");
        }
    }

    proptest! {
        #[test]
        fn any_line_with_the_right_sum_is_read_or_none(line in "[0-9]{0,22} [0-9]{0,22} (everything|domain|site|prefix|url) \\PC{0,20}") {
            let body = format!("{HEAD}\n{line}\n");
            decode(&format!("{body}{:016x}\n", XxHash3_64::oneshot(body.as_bytes())), at(100));
        }
    }
}
