//! Traces on their way to a collector: OTLP over HTTP, as protobuf (OpenTelemetry protocol, version 1).
//!
//! A trace has the id of its request, with zeros in front: whoever has a `Coral-Request-Id` finds the trace, and the other way round.
//! Attributes have the names of OpenTelemetry's semantic conventions where those have one; our own begin with `coral.`. Who asked is not
//! among them. Steps wait in a bounded queue; what does not fit, or is refused, is lost and counted in the log.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use coral_dsht::Peer;
use coral_proxy::access::RequestId;
use coral_proxy::trace::{Span, Step, TraceLog};
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::config::Traces as Config;

/// Steps that wait to be sent; more are lost.
const QUEUE: usize = 8192;
/// Steps that are sent at once.
const BATCH: usize = 512;
/// How long a step waits for others at most.
const EVERY: Duration = Duration::from_secs(2);
/// How often the log is told of those that are lost.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes steps of requests, and sends those of some.
#[derive(Debug)]
pub(crate) struct Traces {
    /// Ids up to this are traced: they are drawn evenly.
    highest: Option<u64>,
    queue: mpsc::Sender<Span>,
    lost: Arc<AtomicU64>,
}

/// What sends them.
#[derive(Debug)]
pub(crate) struct Sending {
    exporter: SpanExporter,
    queue: mpsc::Receiver<Span>,
    lost: Arc<AtomicU64>,
    /// When the log was told of those that were lost.
    told: Option<Instant>,
}

impl Traces {
    /// What `config` says of the node `me`; `None` if nothing is to be traced.
    pub(crate) fn open(config: &Config, me: Peer) -> anyhow::Result<Option<(Arc<Self>, Sending)>> {
        let Some(endpoint) = &config.endpoint else {
            return Ok(None);
        };
        let mut tls = coral_proxy::tls_client_config(&config.extra_ca, "`log.traces.extra_ca`")?;
        // That is for the connector to say.
        tls.alpn_protocols.clear();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = HyperClient::new(connector, PATIENCE, None);
        let exporter = SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
        let exporter = exporter.with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')));
        let mut exporter = exporter.with_timeout(PATIENCE).build().context("`log.traces.endpoint` cannot be used")?;
        let resource = [
            ("service.name", "coral".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", me.id.to_string()),
            ("host.ip", me.addr.ip().to_string()),
        ];
        let resource = resource.map(|(key, value)| KeyValue::new(key, value));
        exporter.set_resource(&Resource::builder_empty().with_attributes(resource).build());
        let (send, queue) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let traces = Arc::new(Self { highest: highest(config.share), queue: send, lost: Arc::clone(&lost) });
        Ok(Some((traces, Sending { exporter, queue, lost, told: None })))
    }
}

/// The highest id that is traced; `None` if none is.
fn highest(share: f64) -> Option<u64> {
    // Beyond the range of the type it stays at its end.
    (share > 0.0).then_some((share * u64::MAX as f64) as u64)
}

impl TraceLog for Traces {
    fn wants(&self, request: RequestId) -> bool {
        self.highest.is_some_and(|highest| u64::from(request) <= highest)
    }

    fn record(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sending {
    /// Sends what comes, a batch at a time, until `stop`; then what there is.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        let mut is_stopped = false;
        while !is_stopped {
            tokio::select! {
                () = &mut stop => is_stopped = true,
                received = self.queue.recv_many(&mut batch, BATCH), if batch.len() < BATCH => match received {
                    0 => is_stopped = true,
                    _ if batch.len() < BATCH => continue,
                    _ => {}
                },
                _ = ticks.tick(), if !batch.is_empty() => {}
            }
            self.send(&mut batch).await;
        }
        self.queue.close();
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            self.send(&mut batch).await;
        }
    }

    async fn send(&mut self, batch: &mut Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let sent = timeout(PATIENCE, self.exporter.export(batch.drain(..).map(data).collect())).await;
        let why = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the collector does not answer".to_owned()),
        };
        if why.is_some() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
        if self.lost.load(Ordering::Relaxed) > 0 && self.told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            let why = why.unwrap_or_else(|| "more came than the collector took".to_owned());
            tracing::warn!("{lost} steps of traces were lost: {why}");
            self.told = Some(Instant::now());
        }
    }
}

/// A step as OpenTelemetry has it.
fn data(span: Span) -> SpanData {
    let trace = TraceId::from(u128::from(u64::from(span.request)));
    let id = SpanId::from(span.id);
    let Described { name, kind, attributes, status } = describe(span.step);
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: kind == SpanKind::Server && span.parent.is_some(),
        span_kind: kind,
        name,
        start_time: span.began,
        end_time: span.began + span.took,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("coral").build(),
    }
}

struct Described {
    name: Cow<'static, str>,
    kind: SpanKind,
    attributes: Vec<KeyValue>,
    status: Status,
}

fn describe(step: Step) -> Described {
    let wrong =
        |error: Option<String>| error.map_or(Status::Unset, |error| Status::Error { description: error.into() });
    let of_status = |status: Option<hyper::StatusCode>| {
        status.map(|status| KeyValue::new("http.response.status_code", i64::from(status.as_u16())))
    };
    match step {
        Step::Answer { method, url, from_peer, status, cache, error } => Described {
            name: method.to_string().into(),
            kind: SpanKind::Server,
            attributes: [
                Some(KeyValue::new("http.request.method", method.to_string())),
                Some(KeyValue::new("url.full", url)),
                of_status(Some(status)),
                Some(KeyValue::new("coral.cache", cache)),
                Some(KeyValue::new("coral.from", if from_peer { "peer" } else { "client" })),
            ]
            .into_iter()
            .flatten()
            .collect(),
            // What a client or another node has brought upon itself is no error of a server.
            status: if status.is_server_error() { wrong(error) } else { Status::Unset },
        },
        Step::Search { level, found, hops } => Described {
            name: "search the index".into(),
            kind: SpanKind::Internal,
            attributes: [
                level.map(|level| KeyValue::new("coral.level", i64::from(level.number()))),
                Some(KeyValue::new("coral.found", count(found))),
                Some(KeyValue::new("coral.hops", count(hops))),
            ]
            .into_iter()
            .flatten()
            .collect(),
            status: Status::Unset,
        },
        Step::AskNode { peer, status } => Described {
            name: "ask a node".into(),
            kind: SpanKind::Client,
            attributes: of_status(status)
                .into_iter()
                .chain([
                    KeyValue::new("network.peer.address", IpAddr::to_string(&peer.ip())),
                    KeyValue::new("network.peer.port", i64::from(peer.port())),
                ])
                .collect(),
            status: Status::Unset,
        },
        Step::AskOrigin { url, status, error } => Described {
            name: "ask the origin".into(),
            kind: SpanKind::Client,
            attributes: of_status(status).into_iter().chain([KeyValue::new("url.full", url)]).collect(),
            status: wrong(error),
        },
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_all_ids_is_traced() {
        assert_eq!(highest(0.0), None);
        assert_eq!(highest(-1.0), None);
        assert_eq!(highest(f64::NAN), None);
        assert_eq!(highest(1.0), Some(u64::MAX));
        let half = highest(0.5).unwrap();
        assert_eq!(half >> 60, 8);
    }

    #[test]
    fn a_trace_has_the_id_of_its_request() {
        let step = Step::Search { level: None, found: 0, hops: 3 };
        let span = Span {
            request: RequestId::from(0xabc),
            id: 7,
            parent: Some(9),
            step,
            began: std::time::SystemTime::UNIX_EPOCH,
            took: Duration::from_millis(5),
        };
        let data = data(span);
        assert_eq!(data.span_context.trace_id().to_string(), "00000000000000000000000000000abc");
        assert_eq!((data.span_context.span_id(), data.parent_span_id), (SpanId::from(7), SpanId::from(9)));
        assert_eq!(data.end_time, data.start_time + Duration::from_millis(5));
        assert_eq!(data.attributes.len(), 2, "a level is told only where there is one");
    }
}
