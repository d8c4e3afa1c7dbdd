//! `POST /purge`: what an operator purges, a pattern a line. The one thing at this address that changes something, and so
//! the one that wants a token.
//!
//! A web site that has its visitors' browsers ask here is refused: it does not know the token, and a browser asks beforehand
//! (CORS) whether it may send one, which nobody here says.

use std::path::Path;

use anyhow::{Context as _, ensure};
use coral_proxy::front::PageBody;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};
use sha2::{Digest as _, Sha256};

use super::status::Shared;
use super::{json, problem};

/// Bytes of all patterns together.
const MAX_BODY_BYTES: usize = 256 << 10;

/// Characters of a token, at least: whoever can ask here can try.
const LEAST_TOKEN: usize = 16;

/// Bytes of a token's file that are read.
const MAX_TOKEN_BYTES: usize = 4 << 10;

/// Purges, and says what came of it. With the query `here`, at this node alone.
pub(super) async fn purge(shared: &Shared, request: Request<Incoming>) -> Response<PageBody> {
    let path = shared.config().admin.token.clone();
    let token = match path.as_deref().context("`admin.token` is not set: nobody may purge here").and_then(token) {
        Ok(token) => token,
        Err(error) => return refused(shared, StatusCode::FORBIDDEN, &error),
    };
    if !is_authorized(request.headers(), &token) {
        let error = anyhow::anyhow!("the token is not that of the file `admin.token`");
        let mut response = refused(shared, StatusCode::UNAUTHORIZED, &error);
        // RFC 9110 §11.6.1.
        response.headers_mut().insert(WWW_AUTHENTICATE, "Bearer".parse().expect("a header"));
        return response;
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

fn refused(shared: &Shared, code: StatusCode, error: &anyhow::Error) -> Response<PageBody> {
    tracing::warn!("a purge at the admin address was refused: {error:#}");
    shared.purger.refused();
    problem(code, error)
}

/// The token in a file, without the end of its line. For `coral purge`, too.
pub(crate) fn token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read(path).with_context(|| format!("cannot read the token {}", path.display()))?;
    let token = String::from_utf8(text).ok().filter(|text| text.len() <= MAX_TOKEN_BYTES);
    let token =
        token.map(|text| text.trim().to_owned()).filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
    let token = token.with_context(|| format!("{} holds no token: one word of ASCII", path.display()))?;
    ensure!(token.len() >= LEAST_TOKEN, "the token in {} has less than {LEAST_TOKEN} characters", path.display());
    Ok(token)
}

/// Whether a request shows `token` (RFC 6750 §2.1). How long that takes says nothing of how much is right: hashes are compared.
fn is_authorized(headers: &HeaderMap, token: &str) -> bool {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, shown) = shown.split_once(' ').unwrap_or_default();
    let [shown, token] = [shown.trim(), token].map(|text| Sha256::digest(text.as_bytes()));
    let differs = shown.iter().zip(token.iter()).fold(0, |differs, (one, other)| differs | (one ^ other));
    scheme.eq_ignore_ascii_case("bearer") && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_long_word_and_shown_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let word = "0123456789abcdef";
        std::fs::write(&path, format!("{word}\n")).unwrap();
        assert_eq!(token(&path).unwrap(), word);
        for bad in ["", "\n", "0123456789abcde", "0123456789 abcdef", "0123456789abcdé", &word.repeat(1000)] {
            std::fs::write(&path, bad).unwrap();
            let error = format!("{:#}", token(&path).unwrap_err());
            assert!(error.contains("token") && error.lines().count() == 1, "{error}");
        }
        let shows = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            is_authorized(&headers, word)
        };
        assert!(shows(&format!("Bearer {word}")) && shows(&format!("bearer  {word}")));
        for bad in ["", "Bearer", "Bearer ", word, &format!("Basic {word}"), &format!("Bearer {word}0"), "Bearer 0123"]
        {
            assert!(!shows(bad), "{bad}");
        }
        assert!(!is_authorized(&HeaderMap::new(), word));
    }
}
