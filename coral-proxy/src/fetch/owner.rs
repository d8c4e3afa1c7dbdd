//! Asking an origin what its owner has purged: `/.well-known/coral-purge`, whose lines [`crate::purge::owner`] reads.
//!
//! An origin is asked once in [`PAUSE`] at most, whoever wants it. Who comes meanwhile waits for an answer that was asked for
//! after he came, so that nobody is told of a file that has changed since. What was new is told to the caller of this crate, for
//! other nodes, before it is obeyed here: whoever opens the file again would find nothing new.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, DATE, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};
use moka::sync::Cache as Moka;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::Fetcher;
use crate::error::ProxyError;
use crate::headers::to_upstream;
use crate::interim::Outbox;
use crate::origin::Answer;
use crate::policy::date;
use crate::purge::PurgedBy;
use crate::purge::owner::{MAX_FILE_BYTES, PATH, parse};
use crate::url::{CoralUrl, Origin};

/// How often one origin is asked, at most.
const PAUSE: Duration = Duration::from_secs(5);

/// How long it may take to send the file.
const LIMIT: Duration = Duration::from_secs(10);

/// Origins of which it is remembered when they were asked, and for how long.
const REMEMBERED: u64 = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// What an owner's file came to.
#[derive(Debug, Clone)]
pub(crate) enum Read {
    /// It is obeyed.
    Obeyed {
        /// Its text.
        text: Bytes,
        /// Lines in it, and those of them that were new here.
        lines: usize,
        new: usize,
    },
    /// There is none, or it is not as it should be.
    Refused { status: StatusCode, why: String },
}

/// Origins that are asked for their files.
#[derive(Debug)]
pub(super) struct Owners {
    asked: Moka<Origin, Arc<Mutex<Option<Asked>>>>,
}

/// When an origin was asked last, and what came of it.
#[derive(Debug, Clone)]
struct Asked {
    at: Instant,
    read: Result<Read, ProxyError>,
}

impl Owners {
    pub(super) fn new() -> Self {
        Self { asked: Moka::builder().max_capacity(REMEMBERED).time_to_idle(REMEMBERED_FOR).build() }
    }
}

impl Fetcher {
    /// Asks the origin of `url`, and obeys what is new. With `news`, its name is sent there if anything is.
    pub(crate) async fn read_owner(
        &self,
        url: &CoralUrl,
        news: Option<&mpsc::Sender<String>>,
    ) -> Result<Read, ProxyError> {
        let came = Instant::now();
        let turn = self.owners.asked.get_with(url.name().clone(), Arc::default);
        let mut asked = turn.lock().await;
        if let Some(last) = &*asked {
            if last.at >= came {
                return last.read.clone();
            }
            sleep_until(last.at + PAUSE).await;
        }
        let at = Instant::now();
        // Whoever leaves meanwhile has asked all the same.
        *asked = Some(Asked { at, read: Err(ProxyError::OriginTimeout) });
        let read = timeout(LIMIT, self.ask_owner(url, news)).await.unwrap_or(Err(ProxyError::OriginTimeout));
        *asked = Some(Asked { at, read: read.clone() });
        read
    }

    async fn ask_owner(&self, url: &CoralUrl, news: Option<&mpsc::Sender<String>>) -> Result<Read, ProxyError> {
        let url = url.at(PATH)?;
        let mut headers = to_upstream(&HeaderMap::new(), &[], &url.passes);
        // Whatever cache stands in front of it shall not answer with the file of before.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let interim = Outbox::default().ticket(Version::HTTP_10);
        let answer = self.origins.fetch(&Method::GET, &url, headers, &interim).await?;
        let origin = url.name().to_string();
        let refused = |status, why: String| {
            self.metrics.refused_purge(PurgedBy::Owner.as_str());
            Ok(Read::Refused { status, why })
        };
        if answer.status != StatusCode::OK {
            let status = match answer.status {
                StatusCode::NOT_FOUND | StatusCode::GONE => StatusCode::NOT_FOUND,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            };
            return refused(status, format!("{origin} has no {PATH}: it answered {}", answer.status));
        }
        if answer.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return refused(StatusCode::UNPROCESSABLE_ENTITY, format!("{origin} sends {PATH} in a coding, unasked"));
        }
        let received = answer.received;
        let date = date(&answer.headers, &DATE).unwrap_or(received);
        let Some(text) = whole(answer).await? else {
            let why = format!("{PATH} of {origin} has more than {MAX_FILE_BYTES} bytes");
            return refused(StatusCode::UNPROCESSABLE_ENTITY, why);
        };
        let Ok(readable) = std::str::from_utf8(&text) else {
            return refused(StatusCode::UNPROCESSABLE_ENTITY, format!("{PATH} of {origin} is no text in UTF-8"));
        };
        let lines = match parse(readable, &url, date) {
            Ok(lines) => lines,
            Err(mistake) => return refused(StatusCode::UNPROCESSABLE_ENTITY, mistake.to_string()),
        };
        let count = lines.len();
        let purges: Vec<_> =
            lines.into_iter().map(|line| (line.pattern.clone(), line.moment(date, received))).collect();
        let is_new = purges.iter().any(|(pattern, moment)| !self.purges.is_known(pattern, *moment));
        if is_new && news.is_some_and(|news| news.try_send(origin.clone()).is_err()) {
            return refused(StatusCode::SERVICE_UNAVAILABLE, "too many sites are purged at this moment".to_owned());
        }
        let new = self.purge(purges).await;
        if new > 0 {
            tracing::info!(%origin, new, lines = count, "purged by the owner of the site");
            self.metrics.purged(PurgedBy::Owner.as_str(), new);
        }
        Ok(Read::Obeyed { text, lines: count, new })
    }
}

/// The whole body; `None` if it is too large.
async fn whole(mut answer: Answer) -> Result<Option<Bytes>, ProxyError> {
    let mut text = BytesMut::new();
    while let Some(chunk) = answer.body.chunk().await? {
        if text.len() + chunk.len() > MAX_FILE_BYTES {
            return Ok(None);
        }
        text.extend_from_slice(&chunk);
    }
    Ok(Some(text.freeze()))
}
