//! How a running router is asked and told: one line of JSON each way, over a Unix socket.
//!
//! [`Client`] is the typed end of it; by hand, `echo '{"do":"status"}' | socat - UNIX-CONNECT:/run/coral-testbed/wan.sock`
//! does as well. Where a change names an end, that is a site (`frankfurt-1`), all of a region (`frankfurt`), or all there are (`*`).

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::map::Rate;
use crate::netns::Netns;

/// What a router can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// How it fares: [`Reply::Status`].
    Status,
    /// What went between whom: [`Reply::Counters`].
    Counters,
    /// Changes the ways between all of `a` and all of `b`, in both directions.
    Link {
        /// One end.
        a: String,
        /// The other end.
        b: String,
        /// What is to change.
        change: LinkChange,
    },
    /// Changes sites' own lines.
    Access {
        /// Whose.
        at: String,
        /// What is to change.
        change: AccessChange,
    },
    /// Lets nothing through between `a` and `b`, or between `a` and all others.
    Cut {
        /// One end.
        a: String,
        /// The other end.
        #[serde(default)]
        b: Option<String>,
    },
    /// Undoes the cut of the same ends.
    Heal {
        /// One end.
        a: String,
        /// The other end.
        #[serde(default)]
        b: Option<String>,
    },
    /// Undoes all cuts.
    HealAll,
    /// Gives sites their devices, in these namespaces, which become hosts like others ([`crate::netns::prepare`]). A site that has
    /// a device in another namespace loses that one.
    Attach {
        /// Which site's is in which namespace.
        sites: Vec<Attachment>,
    },
    /// Takes a site's device away.
    Detach {
        /// The site's name.
        site: String,
    },
    /// Ends the router, after the reply.
    Stop,
}

/// Where a site's device is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The site's name.
    pub site: String,
    /// The namespace that is its host.
    pub netns: Netns,
}

/// What is to change of a way; all else stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkChange {
    /// The round trip.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub rtt: Option<Duration>,
    /// The most that a packet is late on top, one way.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// The share of packets lost, one way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// What one site can send to one other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Limit>,
}

/// What is to change of a line; all else stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessChange {
    /// What the site can send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<Limit>,
    /// What it can receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<Limit>,
    /// For how long a packet may wait.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Duration>,
}

/// A rate, or none: `384 kbit/s`, `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// As fast as the machine.
    Unlimited,
    /// No more than this.
    At(Rate),
}

impl Limit {
    /// The rate, if there is one.
    pub fn rate(self) -> Option<Rate> {
        match self {
            Self::Unlimited => None,
            Self::At(rate) => Some(rate),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "unlimited" => Ok(Self::Unlimited),
            rate => rate.parse().map(Self::At).map_err(|e| format!("{e}, or \"unlimited\"")),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::At(rate) => rate.fmt(f),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a router says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reply {
    /// It is done.
    Done,
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Counters`]: the pairs between which anything went, or was dropped.
    Counters(Vec<PairCounters>),
    /// It is not done, and nothing has changed, for this reason.
    Error(String),
}

/// How a router fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The router's process.
    pub pid: u32,
    /// For how long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// Whether it runs before ordinary processes (SCHED_RR). If not, a busy machine makes distances longer.
    pub realtime: bool,
    /// Packets under way.
    pub queued_packets: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Packets passed on since the start.
    pub delivered: u64,
    /// By how much packets were later than they should have been, in the mean since the start, in microseconds.
    pub late_mean_us: u64,
    /// The same of the latest since the last status.
    pub late_most_us: u64,
    /// Those cuts that hold, as `a` with `b`, or `a` with all others.
    pub cuts: Vec<(String, Option<String>)>,
    /// All sites.
    pub sites: Vec<SiteStatus>,
}

/// How a site fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// Whether it has a device.
    pub attached: bool,
    /// Packets of which nothing could be read.
    pub malformed: u64,
    /// Packets to where there is nobody.
    pub unroutable: u64,
    /// Packets that ended at a router: echo requests, and those without a hop left.
    pub ended_at_router: u64,
    /// Packets for it that its device did not take, or that came while there was none.
    pub undelivered: u64,
}

/// What went from one site to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounters {
    /// Who sent.
    pub from: String,
    /// To whom.
    pub to: String,
    /// What came of it.
    #[serde(flatten)]
    pub counters: Counters,
}

/// What went one way between two sites since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets passed on.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Packets lost as the link's loss has it.
    pub lost: u64,
    /// Packets that ran into a cut.
    pub cut: u64,
    /// Packets dropped as a line's queue was full.
    pub queue_full: u64,
    /// Packets dropped as the router holds as much as it may.
    pub overload: u64,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no router listens at {path}")]
    Connect {
        /// The socket.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It went away, or took too long.
    #[error("the router gave no answer")]
    Io(#[from] io::Error),
    /// What it said means nothing to us.
    #[error("the router's answer cannot be read: {0}")]
    Answer(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// The near end of a router's control socket.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the router that listens there.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let at = |source| ControlError::Connect { path: path.display().to_string(), source };
        let stream = UnixStream::connect(path).map_err(at)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(at)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(at)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// If there is no answer, or the answer is no.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        self.stream.by_ref().take(LONGEST_REPLY).read_line(&mut answer)?;
        match serde_json::from_str(&answer) {
            Ok(Reply::Error(why)) => Err(ControlError::Refused(why)),
            Ok(reply) => Ok(reply),
            Err(_) if answer.is_empty() => Err(ControlError::Io(io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(ControlError::Answer(e.to_string())),
        }
    }

    /// Tells, where the answer is no more than that it is done.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn tell(&mut self, request: &Request) -> Result<(), ControlError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(ControlError::Answer(format!("{other:?} to {request:?}"))),
        }
    }

    /// [`Request::Status`].
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn status(&mut self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            other => Err(ControlError::Answer(format!("{other:?}"))),
        }
    }

    /// [`Request::Counters`].
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn counters(&mut self) -> Result<Vec<PairCounters>, ControlError> {
        match self.ask(&Request::Counters)? {
            Reply::Counters(counters) => Ok(counters),
            other => Err(ControlError::Answer(format!("{other:?}"))),
        }
    }

    /// [`Request::Link`] for `a` and `b`.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn link(&mut self, a: &str, b: &str, change: LinkChange) -> Result<(), ControlError> {
        self.tell(&Request::Link { a: a.to_owned(), b: b.to_owned(), change })
    }

    /// [`Request::Cut`] between `a` and `b`, or all others.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn cut(&mut self, a: &str, b: Option<&str>) -> Result<(), ControlError> {
        self.tell(&Request::Cut { a: a.to_owned(), b: b.map(str::to_owned) })
    }

    /// [`Request::Heal`] between `a` and `b`, or all others.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn heal(&mut self, a: &str, b: Option<&str>) -> Result<(), ControlError> {
        self.tell(&Request::Heal { a: a.to_owned(), b: b.map(str::to_owned) })
    }

    /// [`Request::Attach`] of these sites.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn attach(&mut self, sites: Vec<Attachment>) -> Result<(), ControlError> {
        self.tell(&Request::Attach { sites })
    }
}

/// The longest line that a router reads.
pub(super) const LONGEST_REQUEST: usize = 1 << 20;
/// Counters of all pairs of the largest map.
const LONGEST_REPLY: u64 = 64 << 20;
/// To attach hundreds of devices takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_can_be_written_by_hand() {
        for (line, request) in [
            (r#"{"do":"status"}"#, Request::Status),
            (r#"{"do":"cut","a":"dallas"}"#, Request::Cut { a: "dallas".to_owned(), b: None }),
            (
                r#"{"do":"link","a":"*","b":"dallas","change":{"rtt":"80ms 500us","loss":0.5,"rate":"unlimited"}}"#,
                Request::Link {
                    a: "*".to_owned(),
                    b: "dallas".to_owned(),
                    change: LinkChange {
                        rtt: Some(Duration::from_micros(80_500)),
                        loss: Some(0.5),
                        rate: Some(Limit::Unlimited),
                        jitter: None,
                    },
                },
            ),
            (
                r#"{"do":"attach","sites":[{"site":"a-1","netns":{"pid":12}},{"site":"a-2","netns":{"name":"ctb-a-2"}}]}"#,
                Request::Attach {
                    sites: vec![
                        Attachment { site: "a-1".to_owned(), netns: Netns::Pid(12) },
                        Attachment { site: "a-2".to_owned(), netns: Netns::Name("ctb-a-2".to_owned()) },
                    ],
                },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
            let written = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&written).unwrap(), request);
        }
        let wrong = serde_json::from_str::<Request>(r#"{"do":"cut","b":"x"}"#).unwrap_err();
        assert!(wrong.to_string().contains("missing field `a`"));
    }
}
