//! From what somebody typed into the form to the URL that he is sent to.

use std::borrow::Cow;

use coral_proxy::front::Visit;
use coral_proxy::{Suffix, UrlError, coralize};

use crate::admin::unescaped;
use crate::commands::with_scheme;

/// What was typed, and why it leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) typed: String,
    pub(super) why: String,
}

/// Where `/coralize?url=…` leads: below the suffix that was asked, and to `port`, if that is not the usual one.
pub(super) fn coralized(visit: &Visit<'_>, port: Option<u16>) -> Result<String, Refused> {
    let typed = typed(visit.uri.query().unwrap_or_default());
    below(&typed, visit.suffix, port).map_err(|why| Refused { typed, why })
}

/// The `url` of a query. A form writes a space as `+` and escapes `:` and `/`; where one of these stands, no form has
/// written it, and a plus is one.
fn typed(query: &str) -> String {
    let Some(escaped) = query.strip_prefix("url=") else {
        return String::new();
    };
    let escaped = match escaped.contains([':', '/']) {
        true => Cow::from(escaped),
        false => escaped.replace('+', "%20").into(),
    };
    String::from_utf8_lossy(&unescaped(&escaped)).trim().to_owned()
}

/// `typed` as a URL below `suffix`, or what is wrong with it.
fn below(typed: &str, suffix: &Suffix, port: Option<u16>) -> Result<String, String> {
    if typed.is_empty() {
        return Err("Type the address of a page, such as www.example.com/page.html.".to_owned());
    }
    let coralized = coralize(&with_scheme(typed), suffix).map_err(|why| match why {
        UrlError::NoOrigin => "A name without a dot leads nowhere on the Internet.".to_owned(),
        UrlError::AddressRefused => "Nodes fetch from names, not from addresses.".to_owned(),
        why => sentence(&why.to_string()),
    })?;
    let (scheme, rest) = coralized.split_once("://").ok_or("This is no valid URL.")?;
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if host.split(':').next() == Some(suffix.as_str()) {
        return Err("This is the page of the network itself.".to_owned());
    }
    match port {
        Some(port) if scheme == "http" && port != 80 && !host.contains(':') => {
            Ok(format!("{scheme}://{host}:{port}{path}"))
        }
        _ => Ok(coralized),
    }
}

fn sentence(words: &str) -> String {
    let mut chars = words.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_leads_below_the_suffix_or_nowhere() {
        let suffix: Suffix = "nyud.net".parse().unwrap();
        let leads = |typed: &str, port| below(typed, &suffix, port).unwrap();
        for (typed, leads_to) in [
            ("www.example.com", "http://www.example.com.nyud.net/"),
            ("http://www.example.com/a b?c=<d>#e", "http://www.example.com.nyud.net/a%20b?c=%3Cd%3E#e"),
            ("https://www.example.com/", "http://www.example.com.443.nyud.net/"),
            ("www.example.com:8080/p", "http://www.example.com.8080.nyud.net/p"),
            ("http://bücher.example/", "http://xn--bcher-kva.example.nyud.net/"),
            ("http://www.example.com.nyud.net/p", "http://www.example.com.nyud.net/p"),
            // As a browser reads it.
            ("//evil.example\\@x.com", "http://evil.example.nyud.net/@x.com"),
            // Another network's suffix is a name as any other.
            ("http://www.x.com.nyud.org/", "http://www.x.com.nyud.org.nyud.net/"),
            ("http://nyud.net.evil.example/", "http://nyud.net.evil.example.nyud.net/"),
        ] {
            assert_eq!(leads(typed, None), leads_to, "{typed}");
        }
        assert_eq!(leads("www.example.com/p", Some(8080)), "http://www.example.com.nyud.net:8080/p");
        assert_eq!(leads("http://www.example.com.nyud.net:81/", Some(8080)), "http://www.example.com.nyud.net:81/");
        assert_eq!(leads("www.example.com", Some(80)), "http://www.example.com.nyud.net/");
        let long = format!("http://x.com/{}", "a".repeat(9000));
        for nowhere in [
            "",
            "javascript:alert(1)",
            "javascript://www.x.com/%0aalert(1)",
            "data:text/html,<script>alert(1)</script>",
            "file:///etc/passwd",
            "ftp://www.x.com/",
            "mailto:a@x.com",
            "http://user:secret@www.x.com/",
            "http://www.x.com@evil.example/",
            "http://localhost/",
            "http://[::1]/",
            "http://nyud.net/",
            "https://nyud.net:444/coralize?url=x.com",
            "nyud.net",
            "http://",
            "http:// /",
            "\u{202e}",
            "http://x..com/",
            "http://x.com:99999/",
            &long,
        ] {
            let outcome = below(nowhere, &suffix, None);
            assert!(outcome.is_err(), "{nowhere}: {outcome:?}");
        }
    }

    #[test]
    fn a_form_writes_spaces_as_plus_and_people_do_not() {
        assert_eq!(typed("url=x.com%2Fa+b%2Bc"), "x.com/a b+c");
        assert_eq!(typed("url=http://x.com/?q=a+b"), "http://x.com/?q=a+b");
        assert_eq!(typed("url=+x.com+"), "x.com");
        assert_eq!((typed(""), typed("u=x"), typed("url=")), Default::default());
    }
}
