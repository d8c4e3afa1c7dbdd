//! What answers at a bare suffix, `http://nyud.net/`: a page of the node around this cache, which knows nothing of it.

use std::convert::Infallible;
use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;

use crate::url::Suffix;

/// The body of a page. One that goes on for long ends by itself when the node stops.
pub type PageBody = UnsyncBoxBody<Bytes, Infallible>;

/// A page that is under way.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Response<PageBody>> + Send + 'a>>;

/// A request for a page of the node's own: GET or HEAD, without a body.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// GET or HEAD.
    pub method: &'a Method,
    /// As it was asked for.
    pub uri: &'a Uri,
    /// The fields of the request.
    pub headers: &'a HeaderMap,
    /// Host and port that were asked for, as the client wrote them.
    pub authority: &'a str,
    /// The suffix that this host is.
    pub suffix: &'a Suffix,
    /// Who asks.
    pub client: IpAddr,
}

/// Whoever answers at the bare suffixes: see [`Proxy::serve_suffixes`](crate::Proxy::serve_suffixes).
pub trait Front: Debug + Send + Sync {
    /// The answer; `None` if there is no page, and the request gets the error for a host without an origin.
    fn answer<'a>(&'a self, visit: Visit<'a>) -> Option<Answering<'a>>;
}
