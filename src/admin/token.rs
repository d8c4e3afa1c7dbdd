//! Who may change something at the admin address: whoever shows the token of the file `admin.token` (RFC 6750 §2.1).
//!
//! A web site that has its visitors' browsers ask here is refused: it does not know the token, and a browser asks beforehand
//! (CORS) whether it may send one, which nobody here says.

use std::path::Path;

use anyhow::{Context as _, ensure};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest as _, Sha256};

use super::status::Shared;

/// Characters of a token, at least: whoever can ask here can try.
const LEAST_TOKEN: usize = 16;

/// Bytes of a token's file that are read.
const MAX_TOKEN_BYTES: usize = 4 << 10;

/// Whether a request with these fields is the operator's; if not, why, and what it is told by.
pub(super) fn check(shared: &Shared, headers: &HeaderMap) -> Result<(), (StatusCode, anyhow::Error)> {
    let path = shared.config().admin.token.clone();
    let path = path.as_deref().context("`admin.token` is not set: nobody may change anything here");
    let token = path.and_then(token).map_err(|error| (StatusCode::FORBIDDEN, error))?;
    match is_authorized(headers, &token) {
        true => Ok(()),
        false => Err((StatusCode::UNAUTHORIZED, anyhow::anyhow!("the token is not that of the file `admin.token`"))),
    }
}

/// The token in a file, without the end of its line. For the commands that show one, too.
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
