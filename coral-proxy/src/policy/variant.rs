//! Which of the responses for one URL a request selects: `Vary` (RFC 9111 §4.1).

use coral_dsht::{Id, Key};
use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, USER_AGENT, VARY};

use super::control::list_members;

/// The request fields that a response was selected by, sorted; `None` for `Vary: *`.
///
/// Fields that this node never sends on, or sends alike for everybody, select nothing and are left out: all clients
/// are the same client to the origin there.
pub fn vary(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in response.get_all(VARY) {
        for member in list_members(value.as_bytes()) {
            if member == "*" {
                return None;
            }
            if let Ok(name) = HeaderName::from_bytes(member.as_bytes())
                && ![COOKIE, AUTHORIZATION, USER_AGENT, HOST].contains(&name)
            {
                names.push(name);
            }
        }
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names)
}

/// The key of the variant that `request` selects among the responses for `key` that vary by `names` (RFC 9111 §4.1): `key` itself, if
/// they vary by nothing.
pub fn variant_key(key: Key, names: &[HeaderName], request: &HeaderMap) -> Key {
    // As most do.
    if names.is_empty() {
        return key;
    }
    let values: Vec<Vec<u8>> = names.iter().map(|name| normalised(name, request)).collect();
    let selecting = names.iter().zip(&values).flat_map(|(name, value)| [name.as_str().as_bytes(), value]);
    let parts: Vec<&[u8]> = [b"variant", &key.as_bytes()[..]].into_iter().chain(selecting).collect();
    Id::hash(&parts)
}

/// A field's value as far as it selects: white space and the split into several lines do not; an absent field is
/// not an empty one.
fn normalised(name: &HeaderName, request: &HeaderMap) -> Vec<u8> {
    if !request.contains_key(name) {
        return b"-".to_vec();
    }
    let members = request.get_all(name).iter().flat_map(|value| list_members(value.as_bytes()));
    let members: Vec<String> = match *name == ACCEPT_LANGUAGE {
        true => languages(members),
        false => members.collect(),
    };
    format!("+{}", members.join(",")).into_bytes()
}

/// Languages in the order of how much they are wanted, and of those wanted alike by name: letter case and order mean
/// nothing (RFC 9110 §12.5.4), weights do. Browsers give each language a weight of its own, so their order stays.
fn languages(members: impl Iterator<Item = String>) -> Vec<String> {
    let mut weighed: Vec<(u16, String)> = members
        .map(|member| {
            let member: String = member.to_ascii_lowercase().split_whitespace().collect();
            match member.split_once(";q=").map(|(tag, weight)| (tag, thousandths(weight))) {
                Some((tag, Some(weight))) => (weight, tag.to_owned()),
                // Without a weight, or with one that cannot be read, which then stays part of the name.
                _ => (1000, member),
            }
        })
        .collect();
    weighed.sort_by(|(a_weight, a), (b_weight, b)| b_weight.cmp(a_weight).then_with(|| a.cmp(b)));
    weighed.dedup();
    weighed.into_iter().map(|(weight, tag)| format!("{tag};{weight}")).collect()
}

/// A weight (RFC 9110 §12.4.2): at most 1, with at most three digits after the point.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, part) = weight.split_once('.').unwrap_or((weight, ""));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    if whole.len() != 1 || part.len() > 3 {
        return None;
    }
    let part = number(&format!("{part:0<3}"))?;
    Some(number(whole)? * 1000 + part).filter(|weight| *weight <= 1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::of_lines as headers;

    fn key_of(names: &str, lines: &[&str]) -> Key {
        let names = vary(&headers(&[&format!("vary: {names}")])).unwrap();
        variant_key(Id::hash(&[b"k"]), &names, &headers(lines))
    }

    #[test]
    fn variants_differ_by_the_fields_named_and_by_no_others() {
        let of = |lines: &[&str]| key_of("Foo, Cookie", lines);
        assert_eq!(of(&["foo: a,  b"]), of(&["foo: a", "foo: b", "cookie: a"]));
        assert_ne!(of(&["foo: a"]), of(&["foo: b"]));
        assert_ne!(of(&["foo: a, b"]), of(&["foo: b, a"]), "whose order nobody knows to mean nothing");
        assert_ne!(of(&["foo: a"]), of(&["foo: A"]));
        assert_ne!(of(&["foo: "]), of(&[]));
        assert_eq!(key_of("Foo, Bar", &["foo: 1", "bar: 2"]), key_of("bar,foo", &["bar: 2", "foo: 1"]));
        assert!(vary(&headers(&["vary: a", "vary: b, *"])).is_none());
    }

    #[test]
    fn languages_are_told_apart_by_weight_alone() {
        let of = |value: &str| key_of("accept-language", &[&format!("accept-language: {value}")]);
        assert_eq!(of("en, de"), of("de, EN"));
        assert_eq!(of("de,en;q=0.5"), of("en ; q=0.50, de;q=1"));
        assert_ne!(of("de, en;q=0.5"), of("en, de;q=0.5"));
        assert_ne!(of("de"), of("de;q=0"));
        assert_ne!(of("de;q=x"), of("de"));
        assert_ne!(of("de"), of("de-at"));
    }

    proptest! {
        #[test]
        fn any_languages_are_read(value in "[ -~]{0,60}", weight in "[0-9.]{0,6}") {
            key_of("accept-language", &[&format!("accept-language: {value}, a;q={weight}")]);
            prop_assert!(thousandths(&weight).is_none_or(|weight| weight <= 1000));
        }
    }
}
