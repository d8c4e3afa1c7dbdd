//! `POST /purge`: what an operator purges, a pattern a line.

use coral_proxy::front::PageBody;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::status::Shared;
use super::{json, problem, refusal, token};

/// Bytes of all patterns together.
const MAX_BODY_BYTES: usize = 256 << 10;

/// Purges, and says what came of it. With the query `here`, at this node alone.
pub(super) async fn purge(shared: &Shared, request: Request<Incoming>) -> Response<PageBody> {
    if let Err((status, error)) = token::check(shared, request.headers()) {
        tracing::warn!("a purge at the admin address was refused: {error:#}");
        shared.purger.refused();
        return refusal(status, &error);
    }
    let here = request.uri().query() == Some("here");
    let patterns = match Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await {
        Ok(body) => match String::from_utf8(body.to_bytes().into()) {
            Ok(text) => shared.purger.patterns(&text),
            Err(_) => Err(anyhow::anyhow!("the patterns are no text in UTF-8")),
        },
        Err(_) => Err(anyhow::anyhow!("the patterns are more than {MAX_BODY_BYTES} bytes, or did not come")),
    };
    match patterns {
        Ok(patterns) if patterns.is_empty() => {
            let error = anyhow::anyhow!("there is no pattern: a URL, a prefix that ends in *, or a host, a line each");
            problem(StatusCode::BAD_REQUEST, &error)
        }
        Ok(patterns) => json(StatusCode::OK, &shared.purger.purge(&patterns, here).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}
