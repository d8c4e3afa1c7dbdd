//! Rates and times as people write them in a map.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _};

/// How many bits a second: `384 kbit/s`, `1.5 Mbit/s`, `1 Gbit/s`; the `/s` may be left out. Thousands, not 1024s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// A rate of so many bits a second, if that is not zero.
    pub fn from_bits_per_second(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    /// Bits a second.
    pub fn bits_per_second(self) -> u64 {
        self.0.get()
    }

    /// How long so many bytes take at this rate.
    pub fn time_for(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits_per_second());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate such as \"384 kbit/s\" or \"100 Mbit/s\"");
        let trimmed = text.trim();
        let end_of_number = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = trimmed.split_at(end_of_number);
        let unit = unit.trim();
        let (_, factor) =
            UNITS.iter().find(|(name, _)| unit.strip_suffix("/s").unwrap_or(unit) == *name).ok_or_else(wrong)?;
        let bits = number.parse::<f64>().map_err(|_| wrong())? * *factor as f64;
        // The float's range ends far above what any machine moves; `as` saturates there.
        Self::from_bits_per_second(bits.round() as u64).ok_or_else(|| format!("`{text}`: a rate is more than zero"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits_per_second();
        let (name, factor) = UNITS.iter().rev().find(|(_, factor)| bits >= *factor).unwrap_or(&UNITS[0]);
        write!(f, "{} {name}/s", bits as f64 / *factor as f64)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

const UNITS: [(&str, u64); 4] = [("bit", 1), ("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];

/// A time as in `88ms`, `1.5ms`, `1s`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as \"88ms\" or \"1.5ms\"");
    let trimmed = text.trim();
    let negative = trimmed.starts_with('-');
    let magnitude = trimmed.trim_start_matches('-');
    // humantime reads whole numbers only, and people write 0.5ms.
    let time = match magnitude.split_once("ms").map(|(number, rest)| (number.trim().parse::<f64>(), rest)) {
        Some((Ok(millis), "")) => Duration::try_from_secs_f64(millis / 1e3).map_err(|_| wrong())?,
        _ => humantime::parse_duration(magnitude).map_err(|_| wrong())?,
    };
    if negative {
        return Err(format!("`{text}`: a time is not negative"));
    }
    Ok(time)
}

/// [`parse_time`] for serde.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_time(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The same for what may be left out.
pub(super) fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    time(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_as_people_do() {
        for (text, bits, shown) in [
            ("384 kbit/s", 384_000, "384 kbit/s"),
            ("384kbit", 384_000, "384 kbit/s"),
            ("1.5 Mbit/s", 1_500_000, "1.5 Mbit/s"),
            ("2 Gbit/s", 2_000_000_000, "2 Gbit/s"),
            ("800 bit", 800, "800 bit/s"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bits_per_second(), rate.to_string().as_str()), (bits, shown));
        }
        for text in ["", "fast", "12", "-1 Mbit/s", "1 MB/s", "1..5 Mbit/s", "0 kbit/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_packet_of_1500_bytes_takes_31_ms_at_384_kbit_a_second() {
        let rate: Rate = "384 kbit/s".parse().unwrap();
        assert_eq!(rate.time_for(1500), Duration::from_micros(31_250));
    }

    #[test]
    fn times_have_a_unit_and_no_sign() {
        assert_eq!(parse_time("0.5ms"), Ok(Duration::from_micros(500)));
        assert_eq!(parse_time("88 ms"), Ok(Duration::from_millis(88)));
        assert_eq!(parse_time("1s 500ms"), Ok(Duration::from_millis(1500)));
        for text in ["-5ms", "88", "", "soon", "nanms", "infms", "1e300ms"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
