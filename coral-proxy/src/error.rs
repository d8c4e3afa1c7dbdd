//! Everything that can go wrong with a request, whose fault it was, and the one place where that becomes a status
//! and a `Proxy-Status` (RFC 9209).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::url::UrlError;

/// What went wrong. Cloneable, as everyone who waits for the same fetch is told.
///
/// No error leaves anything in the cache: what was there before still is, and an incomplete body is dropped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The URL of the request was not understood, or no such host is served here.
    #[error("{0}")]
    Url(#[from] UrlError),
    /// Neither GET, HEAD nor OPTIONS.
    #[error("only GET, HEAD and OPTIONS are served here")]
    Method {
        /// Whether RFC 9110 knows the method, so that it is refused rather than unknown.
        known: bool,
    },
    /// The request has a body.
    #[error("a request with a body is refused")]
    RequestBody,
    /// What came is no request, or two readers may understand it differently.
    #[error("the request cannot be read: {0}")]
    Unreadable(Arc<str>),
    /// The head of the request is longer than is read.
    #[error("the head of the request is too long")]
    HeadTooLong,
    /// The head of the request did not come in time.
    #[error("the head of the request did not come in time")]
    HeadTimeout,
    /// The request has more header fields than are read.
    #[error("the request has too many header fields")]
    Fields,
    /// The request has no `Host`, or several.
    #[error("a request needs exactly one Host")]
    Host,
    /// `only-if-cached` was asked, and nothing fresh is here.
    #[error("this is not in the cache of this node")]
    NotCached,
    /// To another node: this one waits for the object itself, and will have it or say more before long.
    #[error("this node waits for it, too")]
    Waiting,
    /// To another node: only the origin can help. What this one has is not to be shared, or the origin failed for it.
    #[error("what this node gets is not to be shared: ask the origin")]
    AskOrigin,
    /// The client has sent too many requests; further ones are taken after this time.
    #[error("too many requests come from this address")]
    TooManyRequests(Duration),
    /// The domain asked for has all that it may have of this node's bandwidth, and its transfers have waited this long.
    #[error("this domain has its share of the bandwidth of this node")]
    OverShare(Duration),
    /// The operator of this node does not serve this.
    #[error(
        "the operator of this node does not serve this; the address without the suffix leads to where it comes from"
    )]
    Denied,
    /// The request has been through a Coral node before.
    #[error("the request came back to where it has been: the origin leads to a Coral node")]
    Loop,
    /// The name of the origin does not exist or has no address.
    #[error("the name of the origin does not resolve")]
    OriginName,
    /// The name servers that were asked for the origin's name failed.
    #[error("the name servers failed for the name of the origin: {0}")]
    Resolver(Arc<str>),
    /// No name server answered in time.
    #[error("no name server answered in time for the name of the origin")]
    ResolverTimeout,
    /// The origin is at an address that nobody may reach through this node.
    #[error("the origin is at an address that is not public")]
    OriginAddress,
    /// The origin could not be reached, or refused the connection.
    #[error("the origin does not accept connections")]
    OriginConnect,
    /// The origin ended the connection before there was an answer, in the middle of a handshake for instance.
    #[error("the origin closed the connection")]
    OriginClosed,
    /// The certificate of the origin is not valid for its name, or nobody trusted here vouches for it.
    #[error("the certificate of the origin is not accepted: {0}")]
    OriginCertificate(Arc<str>),
    /// The origin ended the handshake.
    #[error("the origin refuses a secure connection: {0}")]
    OriginAlert(Arc<str>),
    /// What the origin speaks is not TLS, or none that this node speaks.
    #[error("no secure connection to the origin: {0}")]
    OriginTls(Arc<str>),
    /// The origin did not answer in time.
    #[error("the origin did not answer in time")]
    OriginTimeout,
    /// Connecting to the origin took too long.
    #[error("connecting to the origin took too long")]
    OriginConnectTimeout,
    /// The origin's answer was not HTTP, or broke HTTP's rules.
    #[error("the answer of the origin is no valid HTTP: {0}")]
    OriginProtocol(Arc<str>),
    /// The header fields of the origin's answer are too large.
    #[error("the header of the answer of the origin is too large")]
    OriginHeader,
    /// The body is larger than this node passes on.
    #[error("the body of the answer of the origin is too large")]
    OriginBody,
    /// The body ended before its end, or stalled.
    #[error("the body of the answer broke off")]
    BrokenOff,
    /// The origin failed a moment ago, and is not asked again so soon.
    #[error("the origin failed a moment ago ({0}) and is not asked again so soon")]
    FailedLately(Arc<str>, Arc<Self>),
    /// Another node did not deliver; internal, as the origin is then asked.
    #[error("another node did not deliver: {0}")]
    Peer(Arc<str>),
    /// Another node's answer does not show the key of this closed network; internal, as another one is then asked.
    #[error("it does not show the key of this network")]
    Stranger,
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// This node cannot be set up as configured.
    #[error("{0}")]
    Setup(Arc<str>),
    /// This node's own disk, socket or a bug.
    #[error("this node failed: {0}")]
    Node(Arc<str>),
}

/// Whose fault an error was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client's: the same request will fail again.
    Client,
    /// Another node's: somebody else may have it.
    Peer,
    /// The origin's: later it may work.
    Origin,
    /// This node's: another node may manage.
    Node,
}

impl Fault {
    /// Its name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Origin => "origin",
            Self::Node => "node",
        }
    }
}

/// What an error means over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The status of the response.
    pub status: StatusCode,
    /// Whose fault it was.
    pub fault: Fault,
    /// The error type of RFC 9209 §2.3, or for a client's fault a word of ours, which goes to metrics only.
    pub kind: &'static str,
}

impl ProxyError {
    /// The one mapping from an error to a status, a culprit and a type.
    pub fn verdict(&self) -> Verdict {
        use Fault::{Client, Node, Origin, Peer};
        let (status, fault, kind) = match self {
            // RFC 9110 §15.5.20: 421 says that this server does not answer for the host, so that a client which came
            // here by a wrong DNS answer or a reused connection may try elsewhere. 404 would speak for the host.
            Self::Url(UrlError::UnknownHost) => (StatusCode::MISDIRECTED_REQUEST, Client, "unknown_host"),
            Self::Url(UrlError::AddressRefused) => (StatusCode::FORBIDDEN, Client, "address_refused"),
            Self::Url(UrlError::TooLong) => (StatusCode::URI_TOO_LONG, Client, "uri_too_long"),
            Self::Url(_) => (StatusCode::BAD_REQUEST, Client, "bad_url"),
            // RFC 9110 §15.6.2: 501 for a method that is not recognised at all, 405 for one that is refused.
            Self::Method { known: true } => (StatusCode::METHOD_NOT_ALLOWED, Client, "method"),
            Self::Method { known: false } => (StatusCode::NOT_IMPLEMENTED, Client, "method"),
            Self::RequestBody => (StatusCode::PAYLOAD_TOO_LARGE, Client, "request_body"),
            Self::Unreadable(_) => (StatusCode::BAD_REQUEST, Client, "unreadable"),
            Self::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, Client, "head_timeout"),
            // RFC 6585 §5.
            Self::HeadTooLong => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Client, "head_size"),
            Self::Fields => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Client, "header_fields"),
            Self::Host => (StatusCode::BAD_REQUEST, Client, "bad_host"),
            // RFC 9111 §5.2.1.7: 504 when only-if-cached cannot be satisfied.
            Self::NotCached => (StatusCode::GATEWAY_TIMEOUT, Client, "not_cached"),
            Self::Waiting => (StatusCode::GATEWAY_TIMEOUT, Client, "waiting"),
            Self::AskOrigin => (StatusCode::GATEWAY_TIMEOUT, Client, "ask_origin"),
            // RFC 6585 §4.
            Self::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, Client, "too_many_requests"),
            // RFC 9209 §2.3.28: decided here, without asking anybody.
            Self::OverShare(_) => (StatusCode::SERVICE_UNAVAILABLE, Node, "proxy_internal_response"),
            Self::Denied => (StatusCode::FORBIDDEN, Client, "denied"),
            Self::Loop => (StatusCode::BAD_GATEWAY, Origin, "proxy_loop_detected"),
            Self::OriginName => (StatusCode::BAD_GATEWAY, Origin, "dns_error"),
            Self::Resolver(_) => (StatusCode::BAD_GATEWAY, Node, "dns_error"),
            Self::ResolverTimeout => (StatusCode::GATEWAY_TIMEOUT, Node, "dns_timeout"),
            Self::OriginAddress => (StatusCode::BAD_GATEWAY, Origin, "destination_ip_prohibited"),
            Self::OriginConnect => (StatusCode::BAD_GATEWAY, Origin, "connection_refused"),
            Self::OriginClosed => (StatusCode::BAD_GATEWAY, Origin, "connection_terminated"),
            Self::OriginCertificate(_) => (StatusCode::BAD_GATEWAY, Origin, "tls_certificate_error"),
            Self::OriginAlert(_) => (StatusCode::BAD_GATEWAY, Origin, "tls_alert_received"),
            Self::OriginTls(_) => (StatusCode::BAD_GATEWAY, Origin, "tls_protocol_error"),
            Self::OriginTimeout => (StatusCode::GATEWAY_TIMEOUT, Origin, "http_response_timeout"),
            Self::OriginConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, Origin, "connection_timeout"),
            Self::OriginProtocol(_) => (StatusCode::BAD_GATEWAY, Origin, "http_protocol_error"),
            Self::OriginHeader => (StatusCode::BAD_GATEWAY, Origin, "http_response_header_section_size"),
            Self::OriginBody => (StatusCode::BAD_GATEWAY, Origin, "http_response_body_size"),
            Self::BrokenOff => (StatusCode::BAD_GATEWAY, Origin, "http_response_incomplete"),
            Self::FailedLately(_, cause) => return cause.verdict(),
            Self::Peer(_) => (StatusCode::BAD_GATEWAY, Peer, "destination_unavailable"),
            Self::Stranger => (StatusCode::BAD_GATEWAY, Peer, "stranger"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Node, "proxy_internal_response"),
            Self::Setup(_) => (StatusCode::INTERNAL_SERVER_ERROR, Node, "proxy_configuration_error"),
            Self::Node(_) => (StatusCode::INTERNAL_SERVER_ERROR, Node, "proxy_internal_error"),
        };
        Verdict { status, fault, kind }
    }

    /// After how many seconds the same request may do better (RFC 9110 §10.2.3), if that is known.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooManyRequests(wait) | Self::OverShare(wait) => Some(wait.as_secs() + 1),
            _ => None,
        }
    }

    /// The value of `Proxy-Status`; `None` where the fault is the client's, which no intermediary need explain.
    pub fn proxy_status(&self) -> Option<String> {
        let verdict = self.verdict();
        // A structured-field string (RFC 8941 §3.3.3) holds printable ASCII, with quotes and backslashes escaped.
        let details: String = self
            .to_string()
            .chars()
            .filter(|char| matches!(char, ' '..='~') && !matches!(char, '"' | '\\'))
            .take(200)
            .collect();
        (verdict.fault != Fault::Client).then(|| format!("coral; error={}; details=\"{details}\"", verdict.kind))
    }
}
