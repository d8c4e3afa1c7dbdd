//! One request over several nodes as one trace, at a collector that takes what OpenTelemetry sends.

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use support::{CORALIZED, Cluster, HOST, builder, map, origin, page};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A step as the collector has it: of which node, and its attributes as text.
#[derive(Debug, Clone)]
struct Step {
    node: String,
    span: Span,
    attributes: BTreeMap<String, String>,
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("an attribute that is {other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

/// Starts one, which speaks TLS if it has a configuration for it; where it listens, and what it has been sent.
async fn collector(tls: Option<ServerConfig>) -> (SocketAddr, Arc<Mutex<Vec<Step>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = Arc::clone(&seen);
                async move {
                    assert_eq!(request.uri(), "/v1/traces");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    seen.lock().unwrap().extend(steps_of(&body));
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            match tls.clone() {
                None => drop(tokio::spawn(server.serve_connection(TokioIo::new(stream), service))),
                Some(tls) => drop(tokio::spawn(async move {
                    // Who does not believe it goes away.
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    }
                })),
            }
        }
    });
    (addr, steps)
}

fn steps_of(body: &[u8]) -> Vec<Step> {
    let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
    let of_node = request.resource_spans.into_iter().flat_map(|of_node| {
        let node = texts(&of_node.resource.expect("a node").attributes);
        assert_eq!(node["service.name"], "coral");
        let spans = of_node.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| Step { node: node["host.ip"].clone(), attributes: texts(&span.attributes), span })
    });
    of_node.collect()
}

#[tokio::test]
async fn a_request_that_another_node_answers_is_one_trace_over_both() {
    let (collector, steps) = collector(None).await;
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::with(2, |config| {
        map(config, HOST, origin.addr());
        config.log.traces.endpoint = Some(format!("http://{collector}"));
        config.log.traces.share = 1.0;
    })
    .await;
    let ask = async |number: usize| {
        let addr = cluster.proxy(number);
        let request = builder(CORALIZED, addr).build().unwrap().get(format!("http://{CORALIZED}:{}/", addr.port()));
        // A client's own is none.
        let response = request.header("coral-trace", "00000000000000ff").send().await.unwrap();
        response.headers()["coral-request-id"].to_str().unwrap().to_owned()
    };
    let [first, second] = [ask(0).await, ask(1).await];
    // What there is is sent when a node stops.
    cluster.stop().await;
    let steps = steps.lock().unwrap().clone();
    let trace = |request: &str| -> Vec<&Step> {
        let id = format!("0000000000000000{request}");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        steps.iter().filter(|step| hex(&step.span.trace_id) == id).collect()
    };

    let alone = trace(&first);
    let root = alone.iter().find(|step| step.span.parent_span_id.is_empty()).expect("a root");
    assert_eq!((root.span.name.as_str(), root.node.as_str()), ("GET", "127.0.0.1"));
    assert_eq!((&*root.attributes["coral.cache"], &*root.attributes["http.response.status_code"]), ("origin", "200"));
    assert!(root.attributes["url.full"].starts_with("http://www.example.com.nyud.net"), "{root:?}");
    let asked = alone.iter().find(|step| step.span.name == "ask the origin").expect("the origin is asked");
    assert_eq!(asked.span.parent_span_id, root.span.span_id);
    assert_eq!(asked.attributes["url.full"], format!("http://{}/", origin.addr()));
    assert!(alone.iter().any(|step| step.span.name == "search the index"), "{alone:#?}");

    let over_both = trace(&second);
    let by_name = |name: &str, node: &str| {
        let is_it = |step: &&&Step| step.span.name == name && step.node == node;
        over_both.iter().find(is_it).unwrap_or_else(|| panic!("no {name} of {node} in {over_both:#?}"))
    };
    let (root, search) = (by_name("GET", "127.0.0.2"), by_name("search the index", "127.0.0.2"));
    let (ask, answer) = (by_name("ask a node", "127.0.0.2"), by_name("GET", "127.0.0.1"));
    assert_eq!(root.attributes["coral.cache"], "peer-l2");
    assert_eq!((&*search.attributes["coral.level"], &*search.attributes["coral.found"]), ("2", "1"));
    assert_eq!(ask.attributes["network.peer.address"], "127.0.0.1");
    assert_eq!((&*answer.attributes["coral.from"], &*answer.attributes["coral.cache"]), ("peer", "hit"));
    let parents = [search, ask, answer].map(|step| step.span.parent_span_id.clone());
    assert_eq!(parents, [&root.span.span_id, &root.span.span_id, &ask.span.span_id].map(Vec::clone));
    assert!(over_both.iter().all(|step| step.span.end_time_unix_nano >= step.span.start_time_unix_nano));
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_nobody_an_answer() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let origin = origin(vec![page("/")]).await;
    let cluster = Cluster::with(1, |config| {
        map(config, HOST, origin.addr());
        config.log.traces.endpoint = Some(format!("http://{unused}"));
        config.log.traces.share = 1.0;
    })
    .await;
    assert_eq!(support::fetch(cluster.proxy(0), CORALIZED, "/").await.status, 200);
    cluster.stop().await;
}

#[tokio::test]
async fn a_collector_at_https_is_sent_what_it_is_to_have_if_somebody_vouches_for_it() {
    let authority = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (authority.cert.der().clone(), authority.signing_key.serialize_der());
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key).into())
        .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(authority.cert.pem().as_bytes()).unwrap();
    let (collector, steps) = collector(Some(tls)).await;
    let origin = origin(vec![page("/")]).await;
    for (trusted, seen) in [(Vec::new(), false), (vec![file.path().to_owned()], true)] {
        let cluster = Cluster::with(1, |config| {
            map(config, HOST, origin.addr());
            config.log.traces.endpoint = Some(format!("https://{collector}/"));
            config.log.traces.extra_ca.clone_from(&trusted);
            config.log.traces.share = 1.0;
        })
        .await;
        assert_eq!(support::fetch(cluster.proxy(0), CORALIZED, "/").await.status, 200);
        cluster.stop().await;
        assert_eq!(!steps.lock().unwrap().is_empty(), seen, "{trusted:?}");
    }
}
