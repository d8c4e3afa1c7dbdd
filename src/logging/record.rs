//! One request as a line: in the Combined Log Format of Apache, or as an object of JSON.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use coral_proxy::access::Access;
use hyper::http;
use serde::Serialize;

use super::requests::from;

/// A client as it is named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    address: IpAddr,
    /// Left out where nobody is to be told from his neighbours.
    port: Option<u16>,
}

impl Client {
    /// With `anonymize` without its port and the last 8 bits of an IPv4 address, or the last 80 of an IPv6 one.
    pub(super) fn of(client: SocketAddr, anonymize: bool) -> Self {
        let address = client.ip().to_canonical();
        if !anonymize {
            return Self { address, port: Some(client.port()) };
        }
        let address = match address {
            IpAddr::V4(address) => IpAddr::V4((address.to_bits() & !0xff).into()),
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 80 << 80).into()),
        };
        Self { address, port: None }
    }

    /// The whole of its address, if that is told.
    pub(super) fn socket(self) -> Option<SocketAddr> {
        self.port.map(|port| SocketAddr::new(self.address, port))
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket() {
            Some(client) => client.fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// Writes `access`, which ended `now`, as a line of the Combined Log Format.
pub(super) fn combined(to: &mut Vec<u8>, access: &Access<'_>, client: Client, now: SystemTime) -> io::Result<()> {
    let request = &access.request;
    write!(to, "{} - - [", client.address)?;
    date(to, began(access, now))?;
    to.extend_from_slice(b"] \"");
    escape(to, request.method.as_bytes());
    to.push(b' ');
    escape(to, request.target.as_bytes());
    write!(to, " {:?}\" {} ", request.version, access.status.as_u16())?;
    match access.bytes {
        0 => to.push(b'-'),
        bytes => write!(to, "{bytes}")?,
    }
    for value in [request.referer, request.user_agent] {
        to.extend_from_slice(b" \"");
        escape(to, value.unwrap_or(b"-"));
        to.push(b'"');
    }
    to.push(b'\n');
    Ok(())
}

fn began(access: &Access<'_>, now: SystemTime) -> SystemTime {
    // A clock before its epoch is wrong in any case.
    now.checked_sub(access.took).unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH)
}

/// A time as Apache writes it, in UTC: `10/Oct/2000:13:55:36 +0000`.
fn date(to: &mut Vec<u8>, time: SystemTime) -> io::Result<()> {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    // `2000-10-10T13:55:36Z`
    let mut text = [b' '; 20];
    write!(&mut text[..], "{}", humantime::format_rfc3339_seconds(time))?;
    let month = usize::from(text[5].wrapping_sub(b'0')) * 10 + usize::from(text[6].wrapping_sub(b'0'));
    let month = MONTHS.get(month.wrapping_sub(1)).copied().unwrap_or(b"Jan");
    for part in [&text[8..10], b"/", month, b"/", &text[..4], b":", &text[11..19], b" +0000"] {
        to.extend_from_slice(part);
    }
    Ok(())
}

/// Writes text between quotes: what could end them, or the line, or do something to a terminal, becomes `\x` and two digits. Readers that
/// know of no escapes at all still find the end.
fn escape(to: &mut Vec<u8>, text: &[u8]) {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let mut rest = text;
    while let Some(place) = rest.iter().position(|byte| !is_plain(byte)) {
        let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
        to.extend_from_slice(&rest[..place]);
        to.extend_from_slice(&[b'\\', b'x', digit(rest[place] >> 4), digit(rest[place] & 15)]);
        rest = &rest[place + 1..];
    }
    to.extend_from_slice(rest);
}

/// The fields of a line of JSON. Those that a request has not are left out.
#[derive(Serialize)]
struct Line<'a> {
    /// When the head of the request was here.
    #[serde(serialize_with = "shown")]
    time: humantime::Rfc3339Timestamp,
    #[serde(serialize_with = "shown")]
    id: coral_proxy::access::RequestId,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    from: &'static str,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    uri: &'a str,
    #[serde(serialize_with = "debugged")]
    protocol: http::Version,
    status: u16,
    cache: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_if_any")]
    error: Option<&'a coral_proxy::ProxyError>,
    /// Of the body.
    bytes: u64,
    /// Whether that is all of it.
    whole: bool,
    head_ms: f64,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Cow<'a, str>>,
}

fn shown<S: serde::Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn shown_if_any<S: serde::Serializer>(value: &Option<impl fmt::Display>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

fn debugged<S: serde::Serializer>(value: &impl fmt::Debug, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{value:?}"))
}

/// Milliseconds, to a thousandth.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// Writes `access`, which ended `now`, as an object of JSON.
pub(super) fn json(to: &mut Vec<u8>, access: &Access<'_>, client: Client, now: SystemTime) -> io::Result<()> {
    let request = &access.request;
    let line = Line {
        time: humantime::format_rfc3339_micros(began(access, now)),
        id: access.id,
        client: client.address,
        port: client.port,
        from: from(access),
        method: request.method,
        host: request.host.map(String::from_utf8_lossy),
        uri: &request.target,
        protocol: request.version,
        status: access.status.as_u16(),
        cache: access.cache,
        error: access.error,
        bytes: access.bytes,
        whole: access.is_whole,
        head_ms: millis(access.head_took),
        ms: millis(access.took),
        referer: request.referer.map(String::from_utf8_lossy),
        user_agent: request.user_agent.map(String::from_utf8_lossy),
    };
    serde_json::to_writer(&mut *to, &line)?;
    to.push(b'\n');
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use coral_proxy::ProxyError;
    use hyper::http::{Request, StatusCode};

    use super::*;

    /// Half past midnight, UTC, and as long after it as the request took.
    const TIME: Duration = Duration::from_secs(1_709_166_600);

    pub(in crate::logging) fn access(request: &http::request::Parts) -> Access<'_> {
        Access {
            id: 0xab.into(),
            client: "[::ffff:192.0.2.77]:4000".parse().unwrap(),
            request: request.into(),
            from_peer: false,
            status: StatusCode::OK,
            cache: "hit",
            error: None,
            head_took: Duration::from_micros(150),
            took: Duration::from_millis(1500),
            bytes: 5,
            is_whole: true,
        }
    }

    pub(in crate::logging) fn head(request: http::request::Builder) -> http::request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn lines(access: &Access<'_>, anonymize: bool) -> (String, serde_json::Value) {
        let (client, now) = (Client::of(access.client, anonymize), SystemTime::UNIX_EPOCH + TIME + access.took);
        let [mut line, mut object] = [Vec::new(), Vec::new()];
        combined(&mut line, access, client, now).unwrap();
        json(&mut object, access, client, now).unwrap();
        for written in [&line, &object] {
            assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1), "one line");
        }
        (String::from_utf8(line).unwrap(), serde_json::from_slice(&object).unwrap())
    }

    #[test]
    fn a_line_is_what_apache_writes_and_json_says_more() {
        let request = Request::get("/a?b=c").header("host", "x.com").header("referer", "http://y.com/");
        let (line, json) = lines(&access(&head(request.header("user-agent", "Browser/1 (X)"))), false);
        assert_eq!(
            line,
            "192.0.2.77 - - [29/Feb/2024:00:30:00 +0000] \"GET /a?b=c HTTP/1.1\" 200 5 \"http://y.com/\" \"Browser/1 (X)\"\n"
        );
        let expected = serde_json::json!({
            "time": "2024-02-29T00:30:00.000000Z", "id": "00000000000000ab", "client": "192.0.2.77", "port": 4000,
            "from": "client", "method": "GET", "host": "x.com", "uri": "/a?b=c", "protocol": "HTTP/1.1", "status": 200,
            "cache": "hit", "bytes": 5, "whole": true, "head_ms": 0.15, "ms": 1500.0, "referer": "http://y.com/",
            "user_agent": "Browser/1 (X)",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_missing_is_a_hyphen() {
        let head = head(Request::head("http://x.com/a"));
        let mut access = access(&head);
        (access.bytes, access.is_whole, access.error) = (0, false, Some(&ProxyError::Host));
        let (line, json) = lines(&access, false);
        assert!(line.ends_with("\"HEAD http://x.com/a HTTP/1.1\" 200 - \"-\" \"-\"\n"), "{line}");
        assert_eq!(json["error"], ProxyError::Host.to_string());
        assert!(json.get("referer").is_none(), "{json}");
    }

    #[test]
    fn nobody_writes_into_the_log_what_is_none_of_a_field() {
        let agent = b"\" 200 1 \"\\x22\t\x80\xff\xc3\xa9".as_slice();
        let request = Request::get("/%22\"?a=1").header("user-agent", http::HeaderValue::from_bytes(agent).unwrap());
        let (line, json) = lines(&access(&head(request.header("referer", "\""))), false);
        assert!(
            line.ends_with(
                "\"GET /%22\\x22?a=1 HTTP/1.1\" 200 5 \"\\x22\" \"\\x22 200 1 \\x22\\x5cx22\\x09\\x80\\xff\\xc3\\xa9\"\n"
            ),
            "{line}"
        );
        assert_eq!(json["user_agent"], "\" 200 1 \"\\x22\t\u{fffd}\u{fffd}é");
        let mut escaped = Vec::new();
        escape(&mut escaped, b"a\r\n\x1b[2J\x00\x7f");
        assert_eq!(escaped, b"a\\x0d\\x0a\\x1b[2J\\x00\\x7f");
    }

    #[test]
    fn an_anonymous_client_is_one_of_256_or_of_a_48() {
        let head = head(Request::get("/"));
        let mut access = access(&head);
        let (line, json) = lines(&access, true);
        assert!(line.starts_with("192.0.2.0 - -") && json.get("port").is_none(), "{line}{json}");
        access.client = "[2001:db8:1:2:3:4:5:6]:4000".parse().unwrap();
        assert!(lines(&access, true).0.starts_with("2001:db8:1:: - -"));
        assert_eq!(Client::of(access.client, true).to_string(), "2001:db8:1::");
        assert_eq!(Client::of(access.client, false).to_string(), "[2001:db8:1:2:3:4:5:6]:4000");
    }
}
