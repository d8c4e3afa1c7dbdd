//! Chromium's log of the network (`--log-net-log`): events of many sources, of which requests are one kind.
//!
//! Event types and kinds of source are numbers that the log itself explains, so that another version is read as well. A
//! request is bound to a stream job, the job to a socket, and the socket knows where it is connected.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::map::Map;
use crate::status::SOURCES;

/// One request and its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) url: String,
    /// On the browser's clock, as the others.
    pub(super) begun: Duration,
    /// When the head of the answer had come.
    pub(super) first_byte: Option<Duration>,
    /// When the last byte had come, or the request came to nothing.
    pub(super) ended: Option<Duration>,
    pub(super) status: Option<u16>,
    /// The value of `Cache-Status`.
    pub(super) cache_status: Option<String>,
    /// The address that answered.
    pub(super) remote: Option<IpAddr>,
    /// Bytes of the body.
    pub(super) bytes: u64,
}

impl Exchange {
    /// The path, if the request was for this host, by http.
    pub(super) fn path_on(&self, host: &str) -> Option<&str> {
        self.url.strip_prefix("http://")?.strip_prefix(host).filter(|path| path.starts_with('/'))
    }

    /// The name of the site that answered.
    pub(super) fn node(&self, map: &Map) -> Option<String> {
        let remote = self.remote?;
        Some(map.site_at(remote).map_or_else(|| remote.to_string(), |site| site.name.clone()))
    }

    /// Where the answer came from, in the words of [`SOURCES`]: the node's own copy, another node's, the origin; or the browser's.
    pub(super) fn source(&self) -> &'static str {
        let Some(status) = &self.cache_status else {
            // An icon that the page shows, too, comes from the browser's own cache: nobody was asked.
            return if self.bytes > 0 && self.remote.is_none() { "browser" } else { "–" };
        };
        // The last member is of the node that answered the browser (RFC 9211 §2).
        let member = status.rsplit(", ").next().unwrap_or_default();
        let parameters: Vec<&str> = member.split(';').map(str::trim).collect();
        let is = |word: &str| {
            parameters.iter().any(|parameter| parameter.strip_prefix("detail=").unwrap_or(parameter) == word)
        };
        SOURCES.iter().find(|(word, _)| is(word)).map_or("other", |(_, shown)| *shown)
    }
}

#[derive(Debug, Deserialize)]
struct Log {
    constants: Constants,
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Constants {
    log_event_types: BTreeMap<String, i64>,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: i64,
    /// Milliseconds.
    time: String,
    source: Source,
    /// 0 is an event without an end, 1 a beginning, 2 an end.
    phase: u8,
    #[serde(default)]
    params: Json,
}

#[derive(Debug, Deserialize)]
struct Source {
    id: i64,
}

/// All requests in a log, in the order in which they began.
///
/// # Errors
///
/// If it is none.
pub(super) fn exchanges(log: &str) -> anyhow::Result<Vec<Exchange>> {
    // A browser that was killed leaves the list of events open.
    let log: Log = serde_json::from_str(log)
        .or_else(|_| serde_json::from_str(&format!("{}]}}", log.trim_end().trim_end_matches(','))))
        .context("it cannot be read")?;
    let names: BTreeMap<i64, &str> =
        log.constants.log_event_types.iter().map(|(name, number)| (*number, name.as_str())).collect();
    let mut all: Vec<(i64, Exchange)> = Vec::new();
    let (mut jobs, mut sockets) = (BTreeMap::new(), BTreeMap::new());
    for event in &log.events {
        let id = event.source.id;
        let now = Duration::from_millis(event.time.parse().unwrap_or(0));
        let text = |key: &str| event.params[key].as_str();
        let dependency = event.params["source_dependency"]["id"].as_i64();
        // A request that is redirected goes on under the same number.
        let latest = all.iter_mut().rev().find(|(source, _)| *source == id).map(|(_, exchange)| exchange);
        match (names.get(&event.kind).copied().unwrap_or_default(), event.phase, latest) {
            ("URL_REQUEST_START_JOB", 1, latest) => {
                if let Some(before) = latest {
                    before.ended.get_or_insert(now);
                }
                let url = text("url").unwrap_or_default().to_owned();
                all.push((id, Exchange { url, begun: now, ..Exchange::default() }));
            }
            ("HTTP_TRANSACTION_READ_RESPONSE_HEADERS", _, Some(exchange)) => {
                exchange.first_byte = Some(now);
                let headers = event.params["headers"].as_array().into_iter().flatten().filter_map(Json::as_str);
                for header in headers {
                    if let Some(status) = header.strip_prefix("HTTP/") {
                        exchange.status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
                    } else if let Some(("cache-status", value)) = header.split_once(": ") {
                        exchange.cache_status = Some(value.to_owned());
                    }
                }
            }
            ("URL_REQUEST_JOB_FILTERED_BYTES_READ", _, Some(exchange)) => {
                exchange.bytes += event.params["byte_count"].as_u64().unwrap_or(0);
            }
            ("REQUEST_ALIVE", 2, Some(exchange)) => exchange.ended = Some(now),
            ("HTTP_STREAM_REQUEST_BOUND_TO_JOB", _, Some(exchange)) => {
                let socket = dependency.and_then(|job| jobs.get(&job)).and_then(|socket| sockets.get(socket));
                exchange.remote = socket.copied();
            }
            ("SOCKET_POOL_BOUND_TO_SOCKET", ..) => drop(dependency.and_then(|socket| jobs.insert(id, socket))),
            ("TCP_CONNECT", 2, _) => {
                if let Some(remote) = text("remote_address").and_then(|text| text.parse::<SocketAddr>().ok()) {
                    sockets.insert(id, remote.ip());
                }
            }
            _ => {}
        }
    }
    Ok(all.into_iter().map(|(_, exchange)| exchange).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"constants": {"logEventTypes": {"URL_REQUEST_START_JOB": 1, "REQUEST_ALIVE": 2, "TCP_CONNECT": 3,
        "HTTP_TRANSACTION_READ_RESPONSE_HEADERS": 4, "SOCKET_POOL_BOUND_TO_SOCKET": 5, "HTTP_STREAM_REQUEST_BOUND_TO_JOB": 6,
        "URL_REQUEST_JOB_FILTERED_BYTES_READ": 7}}, "events": [
        {"type": 1, "phase": 1, "time": "100", "source": {"id": 10}, "params": {"url": "http://www.x.com.nyud.net/old"}},
        {"type": 3, "phase": 2, "time": "105", "source": {"id": 30}, "params": {"remote_address": "198.18.1.1:80"}},
        {"type": 5, "phase": 0, "time": "106", "source": {"id": 20}, "params": {"source_dependency": {"id": 30}}},
        {"type": 6, "phase": 0, "time": "107", "source": {"id": 10}, "params": {"source_dependency": {"id": 20}}},
        {"type": 4, "phase": 0, "time": "110", "source": {"id": 10}, "params": {"headers": ["HTTP/1.1 301 Moved", "cache-status: coral; hit"]}},
        {"type": 1, "phase": 1, "time": "120", "source": {"id": 10}, "params": {"url": "http://www.x.com.nyud.net/new"}},
        {"type": 4, "phase": 0, "time": "130", "source": {"id": 10}, "params": {"headers": ["HTTP/1.1 200 OK", "cache-status: coral; fwd=uri-miss; detail=peer-l2; stored"]}},
        {"type": 7, "phase": 0, "time": "140", "source": {"id": 10}, "params": {"byte_count": 41}},
        {"type": 2, "phase": 2, "time": "150", "source": {"id": 10}},"#;

    #[test]
    fn a_redirected_request_is_two_exchanges() {
        let all = exchanges(LOG).unwrap();
        let [first, second] = &all[..] else { panic!("{all:?}") };
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(
            (first.path_on("www.x.com.nyud.net"), first.status, first.source()),
            (Some("/old"), Some(301), "local")
        );
        assert_eq!((Some(first.begun), first.first_byte, first.ended), (ms(100), ms(110), ms(120)));
        assert_eq!(first.node(&Map::four_regions()).as_deref(), Some("frankfurt-1"));
        assert_eq!(
            (second.path_on("www.x.com.nyud.net"), second.status, second.source()),
            (Some("/new"), Some(200), "L2")
        );
        assert_eq!((second.first_byte, second.ended, second.bytes), (ms(130), ms(150), 41));
    }

    #[test]
    fn another_file_is_an_error() {
        assert!(exchanges("").is_err());
        assert!(exchanges("[]").is_err());
    }

    #[test]
    fn a_path_is_of_the_whole_host_name() {
        let exchange = Exchange { url: "http://www.x.com.nyud.net/a".to_owned(), ..Exchange::default() };
        assert_eq!(exchange.path_on("www.x.com"), None);
        assert_eq!(exchange.path_on("www.x.com.nyud.net"), Some("/a"));
    }
}
