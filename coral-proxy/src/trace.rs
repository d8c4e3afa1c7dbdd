//! Traces: the steps of one request, at this node and at those that it asked, each with its time.
//!
//! The trace of a request has the request's id ([`crate::access`]); so all that goes from node to node is the step under which the other
//! node's steps belong, in `Coral-Trace`. That field says as well that the request is traced: the node that a client asks chooses, and
//! the others follow. A hit on a node that traces nothing pays one look at an empty place. What becomes of the steps is for the
//! caller of [`Proxy::trace_requests`](crate::Proxy::trace_requests) to say.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use coral_dsht::Level;
use http::header::{HeaderMap, HeaderName};
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::access::RequestId;

/// The step of the asking node to which what this one does belongs, written like a request's id.
pub(crate) const TRACE: HeaderName = HeaderName::from_static("coral-trace");

/// One step of a request, when it has ended.
#[derive(Debug)]
pub struct Span {
    /// The request, in whose trace it is.
    pub request: RequestId,
    /// Its own id, not zero.
    pub id: u64,
    /// The step that it is a part of, here or at the node that asked.
    pub parent: Option<u64>,
    /// What was done.
    pub step: Step,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
}

/// What is done for a request.
#[derive(Debug)]
pub enum Step {
    /// A request is answered, until the response is sent.
    Answer {
        /// Its method.
        method: Method,
        /// Its target, with the coralized host.
        url: String,
        /// Whether another node asked.
        from_peer: bool,
        /// The status of the answer.
        status: StatusCode,
        /// What the cache did, in a word.
        cache: &'static str,
        /// What was wrong.
        error: Option<String>,
    },
    /// The index is asked who has the object.
    Search {
        /// The level at which it knew somebody.
        level: Option<Level>,
        /// How many it named.
        found: usize,
        /// How many nodes were asked for that.
        hops: usize,
    },
    /// Another node is asked for the object, until the head of its answer is here.
    AskNode {
        /// Its HTTP address.
        peer: SocketAddr,
        /// The status of its answer; `None` if there is none, or nobody waits for it any more.
        status: Option<StatusCode>,
    },
    /// The origin is asked, until the head of its answer is here.
    AskOrigin {
        /// The URL that it is asked for.
        url: String,
        /// The status of its answer, as above.
        status: Option<StatusCode>,
        /// What was wrong.
        error: Option<String>,
    },
}

/// Whoever keeps traces.
pub trait TraceLog: Debug + Send + Sync {
    /// Whether the request of a client with this id is to be traced.
    fn wants(&self, request: RequestId) -> bool;

    /// Takes note of a step. It is called where requests are answered, and so is not to wait for anything.
    fn record(&self, span: Span);
}

/// Where traces go, if anywhere: set once, seen by all clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(Arc<OnceLock<Arc<dyn TraceLog>>>);

impl Traces {
    pub(crate) fn set(&self, log: Arc<dyn TraceLog>) {
        // Whoever wires a node does so once.
        let _ = self.0.set(log);
    }

    /// The first step here of a request with these fields, if it is traced. Only another node's field counts.
    pub(crate) fn root(
        &self,
        request: RequestId,
        (headers, from_peer): (&HeaderMap, bool),
        step: impl FnOnce() -> Step,
    ) -> Open {
        let Some(log) = self.0.get() else {
            return Open(None);
        };
        let parent = if from_peer { parent(headers) } else { None };
        match if from_peer { parent.is_some() } else { log.wants(request) } {
            true => Open::new(log, request, parent, step()),
            false => Open(None),
        }
    }

    /// A step of a request that is asked on with `headers`, if it is traced.
    pub(crate) fn step(&self, headers: &HeaderMap, step: impl FnOnce() -> Step) -> Open {
        let traced = self.0.get().zip(parent(headers)).zip(RequestId::of(headers));
        traced.map_or(Open(None), |((log, parent), request)| Open::new(log, request, Some(parent), step()))
    }
}

fn parent(headers: &HeaderMap) -> Option<u64> {
    RequestId::parse(headers.get(TRACE)?).map(u64::from).filter(|id| *id != 0)
}

/// A step under way, of a request that is traced or not: it is recorded when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Open(
    // Small, as most requests are not traced.
    Option<Box<UnderWay>>,
);

#[derive(Debug)]
struct UnderWay {
    span: Span,
    since: Instant,
    log: Arc<dyn TraceLog>,
}

impl Open {
    fn new(log: &Arc<dyn TraceLog>, request: RequestId, parent: Option<u64>, step: Step) -> Self {
        let id = u64::from(RequestId::new()).max(1);
        let span = Span { request, id, parent, step, began: SystemTime::now(), took: Duration::ZERO };
        Self(Some(Box::new(UnderWay { span, since: Instant::now(), log: Arc::clone(log) })))
    }

    /// Makes `headers` those of a request that is a part of this step.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        if let Some(traced) = &self.0 {
            headers.insert(TRACE, RequestId::from(traced.span.id).value());
        }
    }

    /// Says what came of it.
    pub(crate) fn tell(&mut self, change: impl FnOnce(&mut Step)) {
        if let Some(traced) = &mut self.0 {
            change(&mut traced.span.step);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(traced) = self.0.take() {
            let UnderWay { mut span, since, log } = *traced;
            span.took = since.elapsed();
            log.record(span);
        }
    }
}
