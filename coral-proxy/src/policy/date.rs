//! HTTP dates (RFC 9110 §5.6.7), read as a cache should: names in any case, and no zone but GMT (RFC 9111 §4.2).

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
/// Two digits from here on are of the last century (RFC 9110 §5.6.7 has 50 years from now on, which moves with the clock).
const CENTURY_TURNS_AT: u64 = 70;

/// The date in the field `name`; `None` if it is missing, invalid or there more than once.
pub fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    parse(value.to_str().ok()?)
}

/// A date in any of the three forms. One before 1970 is taken for 1970: nothing here is that old.
///
/// That the day of the week is the right one is not asked for: the date is told by the rest.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let text = text.trim().to_ascii_lowercase();
    let (first, rest) = text.split_once(' ')?;
    let words: Vec<&str> = rest.split(' ').collect();
    let (day, month, year, time) = match (first.strip_suffix(','), words.as_slice()) {
        // Sun, 06 Nov 1994 08:49:37 GMT
        (Some(weekday), [day, month, year, time, "gmt"]) if is_short(weekday) && year.len() == 4 => {
            (digits(day, 2)?, month_number(month)?, digits(year, 4)?, time)
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        (Some(weekday), [date, time, "gmt"]) if DAYS.contains(&weekday) => {
            let mut parts = date.split('-');
            let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
            let year = digits(year, 2)?;
            let year = if year < CENTURY_TURNS_AT { 2000 + year } else { 1900 + year };
            (parts.next().is_none().then(|| digits(day, 2))??, month_number(month)?, year, time)
        }
        // Sun Nov  6 08:49:37 1994
        (None, [month, "", day, time, year]) if is_short(first) => {
            (digits(day, 1)?, month_number(month)?, digits(year, 4)?, time)
        }
        (None, [month, day, time, year]) if is_short(first) => {
            (digits(day, 2)?, month_number(month)?, digits(year, 4)?, time)
        }
        _ => return None,
    };
    let mut parts = time.split(':').map(|part| digits(part, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || !exists([year, month, day], [hour, minute, second]) {
        return None;
    }
    let seconds = seconds_since_1970([year, month, day], [hour, minute, second]).unwrap_or_default();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The seconds from 1970 to a date (year, month, day) and time (hour, minute, second); `None` if it does not exist, or is before.
pub(crate) fn seconds_since_1970(date: [u64; 3], time: [u64; 3]) -> Option<u64> {
    let ([year, month, day], [hour, minute, second]) = (date, time);
    let days = exists(date, time).then(|| days_since_1970(year, month, day))??;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn exists([year, month, day]: [u64; 3], [hour, minute, second]: [u64; 3]) -> bool {
    let is_day = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
    // The 60th is a leap second.
    is_day && hour < 24 && minute < 60 && second <= 60
}

fn is_short(weekday: &str) -> bool {
    DAYS.iter().any(|day| day.get(..3) == Some(weekday))
}

/// Exactly `count` digits.
fn digits(text: &str, count: usize) -> Option<u64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// From 1 on.
fn month_number(name: &str) -> Option<u64> {
    MONTHS.iter().position(|month| *month == name).map(|index| index as u64 + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let years = year.checked_sub(1970)?;
    // Leap years before the first of January of `year`, less those before 1970.
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - 477;
    let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    Some(years * 365 + leap_days + months + day - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        parse(text).map(|date| date.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn three_forms_in_any_case_mean_one_date() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nov 1994 08:49:37 gMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds(text), Some(784_111_777), "{text}");
        }
        assert_eq!(seconds("Thursday, 18-Aug-50 02:01:18 GMT"), seconds("Thu, 18 Aug 2050 02:01:18 GMT"));
        assert_eq!(seconds("Thu Nov 16 08:49:37 1950"), Some(0));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun,  06  Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Foo, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94-1 08:49:37 GMT",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_date_that_is_written_is_read(seconds in 0u64..253_402_300_800) {
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            prop_assert_eq!(parse(&httpdate::fmt_http_date(date)), Some(date));
        }

        #[test]
        fn any_text_is_a_date_or_none(text in "[ -~]{0,40}", near in "(Sun|Mon)(day)?,? [0-9]{1,2}[ -]Nov[ -][0-9]{2,4} [0-9:]{5,9} GMT") {
            parse(&text);
            parse(&near);
        }
    }
}
