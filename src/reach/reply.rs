//! What is sent to a port that is tried, and what is answered: as bytes, on both sides.
//!
//! The index is pinged ([`coral_dsht::ping`]). A nameserver is asked for the SOA of the suffix, for which it alone has authority; the nonce goes
//! along in an EDNS option, which a node passes over and `coral check` looks for. A cache is asked to echo the nonce.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};

use super::{Nonce, PATH};

/// The EDNS option of the nonce, in the range for local use (RFC 6891 §9).
const OPTION: u16 = 65_314;

/// What an answer over UDP may have, which leaves room for tunnels.
const PAYLOAD: u16 = 1232;

/// The query that tries a nameserver of the zone `suffix`; `None` if that is no name.
pub(super) fn query(nonce: Nonce, suffix: &str) -> Option<Vec<u8>> {
    let mut zone = Name::from_ascii(suffix).ok()?;
    zone.set_fqdn(true);
    // Whose answer it is, the nonce's user can tell by the port that it comes to.
    let mut query = Message::new(nonce.ping() as u16, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(zone, RecordType::SOA));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    edns.options_mut().insert(EdnsOption::Unknown(OPTION, nonce.as_bytes().to_vec()));
    query.set_edns(edns);
    query.to_vec().ok()
}

/// Whether these bytes are what a nameserver with authority answers to `query`.
pub(super) fn answers(bytes: &[u8], query: &[u8]) -> bool {
    let (Ok(answer), Ok(query)) = (Message::from_vec(bytes), Message::from_vec(query)) else {
        return false;
    };
    let head = &answer.metadata;
    head.message_type == MessageType::Response
        && head.id == query.metadata.id
        && head.authoritative
        && head.response_code == ResponseCode::NoError
        && answer.queries == query.queries
}

/// The nonce in a query, and what is answered by who only stands in for a nameserver; `None` if it is not such a query.
pub(super) fn asked(bytes: &[u8]) -> Option<(Nonce, Vec<u8>)> {
    let query = Message::from_vec(bytes).ok().filter(|query| query.metadata.message_type == MessageType::Query)?;
    let EdnsOption::Unknown(OPTION, nonce) = query.edns.as_ref()?.option(EdnsCode::Unknown(OPTION))? else {
        return None;
    };
    let nonce = Nonce(nonce.as_slice().try_into().ok()?);
    let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    answer.add_queries(query.queries.iter().take(1).cloned());
    answer.metadata.authoritative = true;
    Some((nonce, answer.to_vec().ok()?))
}

/// The request that tries a cache at the bare suffix `suffix`.
pub(super) fn get(nonce: Nonce, suffix: &str) -> String {
    format!("GET {PATH}?{nonce} HTTP/1.1\r\nHost: {suffix}\r\nUser-Agent: coral-reach\r\nConnection: close\r\n\r\n")
}

/// Whether what has come so far has the echo of `nonce` in it.
pub(super) fn echoes(bytes: &[u8], nonce: Nonce) -> bool {
    let echo = nonce.echo();
    bytes.starts_with(b"HTTP/1.1 200 ") && bytes.windows(echo.len()).any(|window| window == echo.as_bytes())
}

/// The nonce that a request with this head is for; `None` if it is for something else, or not whole.
pub(super) fn got(head: &[u8]) -> Option<Nonce> {
    let head = std::str::from_utf8(head).ok().filter(|head| head.contains("\r\n\r\n"))?;
    let target = head.strip_prefix("GET ")?.split(' ').next()?;
    target.strip_prefix(PATH)?.strip_prefix('?')?.parse().ok()
}

/// What is answered by who only stands in for a cache.
pub(super) fn echo(nonce: Nonce) -> String {
    let body = nonce.echo() + "\n";
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Any bytes, on either side: nothing panics, and no answer is longer than what it answers by more than its form wants.
pub(super) fn check_bytes(bytes: &[u8]) {
    let nonce = Nonce([7; 16]);
    let asks = query(nonce, "nyud.net").expect("a name");
    if answers(bytes, &asks) {
        assert_ne!(bytes, asks);
    }
    if let Some((_, answer)) = asked(bytes) {
        // Names may have been compressed in the question.
        assert!(answer.len() <= 12 + 255 + 4, "{} bytes for {}", answer.len(), bytes.len());
        assert_eq!(asked(&answer), None, "an answer is answered");
    }
    if let Some(nonce) = got(bytes) {
        assert!(echoes(echo(nonce).as_bytes(), nonce));
    }
    assert!(!echoes(bytes, nonce) || bytes.starts_with(b"HTTP/1.1 200 "));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce([0xab; 16]);
    const OTHER: Nonce = Nonce([0xcd; 16]);

    #[test]
    fn a_query_carries_the_nonce_and_is_answered_with_authority() {
        let query = query(NONCE, "nyud.net").unwrap();
        let (nonce, answer) = asked(&query).unwrap();
        assert_eq!(nonce, NONCE);
        assert!(answers(&answer, &query));
        assert!(answer.len() < query.len(), "nothing is amplified");
        // What is repeated is no answer, nor is that to another query, nor one without authority.
        assert!(!answers(&query, &query));
        assert!(!answers(&answer, &super::query(NONCE, "cdn.example.org").unwrap()));
        assert!(!answers(&answer, &super::query(OTHER, "nyud.net").unwrap()));
        let mut lame = answer.clone();
        lame[2] &= !4;
        assert!(!answers(&lame, &query));
        assert_eq!(super::query(NONCE, &"a".repeat(300)), None);
        for cut in 0..query.len() {
            check_bytes(&query[..cut]);
        }
        check_bytes(&query);
    }

    #[test]
    fn a_request_carries_the_nonce_and_the_answer_is_another_than_what_servers_repeat() {
        let request = get(NONCE, "nyud.net");
        assert_eq!(got(request.as_bytes()), Some(NONCE));
        assert_eq!(got(&request.as_bytes()[..request.len() - 1]), None, "it is not whole");
        assert!(echoes(echo(NONCE).as_bytes(), NONCE) && !echoes(echo(NONCE).as_bytes(), OTHER));
        let repeated = format!("HTTP/1.1 200 OK\r\nLocation: {PATH}?{NONCE}\r\n\r\n{NONCE}");
        assert!(!echoes(repeated.as_bytes(), NONCE));
        assert_eq!(got(request.replace("coral-reach?", "coral?").as_bytes()), None);
        check_bytes(request.as_bytes());
        check_bytes(echo(NONCE).as_bytes());
    }
}
