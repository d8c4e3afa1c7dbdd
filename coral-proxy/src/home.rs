//! Sending a client to the origin, because the origin wants it so: `X-Coral-Control` (design §4.3, [C10]).
//!
//! `redirect-home` is for when this node has no bandwidth left for the site, and an error would come instead; `no-serve` is for
//! always. The URL gets `coral-no-serve` as a query parameter, so that an origin which sends visitors here can let this one stay; one
//! that sends him back all the same is not asked again.

use http::HeaderName;
use http::header::HeaderMap;

use crate::policy::list_members;
use crate::url::CoralUrl;

const CONTROL: HeaderName = HeaderName::from_static("x-coral-control");
const PARAMETER: &str = "coral-no-serve";

/// What an origin says about clients of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// They are to come to it rather than get an error of this node's.
    RedirectHome,
    /// They are to come to it.
    NoServe,
}

/// What a response with these fields says.
pub(crate) fn control(response: &HeaderMap) -> Option<Control> {
    let words = response.get_all(CONTROL).into_iter().flat_map(|value| list_members(value.as_bytes()));
    let known = words.filter_map(|word| match word.to_ascii_lowercase().as_str() {
        "redirect-home" => Some(Control::RedirectHome),
        "no-serve" => Some(Control::NoServe),
        _ => None,
    });
    known.max_by_key(|control| *control == Control::NoServe)
}

/// Where a client of `url` finds it at the origin; `None` if he comes from there, or the origin is one of the configuration's,
/// which may be private.
pub(crate) fn location(url: &CoralUrl) -> Option<String> {
    let query = url.target.split_once('?').map(|(_, query)| query);
    let came_back = query.is_some_and(|query| query.split('&').any(|parameter| parameter == PARAMETER));
    let joint = if query.is_some() { '&' } else { '?' };
    (!url.site && !came_back).then(|| format!("{}{}{joint}{PARAMETER}", url.origin, url.target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::of_lines;
    use crate::url::{Names, Site};

    #[test]
    fn an_origin_is_understood_in_any_case_and_never_is_more_than_sometimes() {
        let said = |lines: &[&str]| control(&of_lines(lines));
        assert_eq!(said(&["x-coral-control: Redirect-Home"]), Some(Control::RedirectHome));
        assert_eq!(said(&["x-coral-control: no-serve, redirect-home"]), Some(Control::NoServe));
        assert_eq!(said(&["x-coral-control: something"]), None);
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn the_way_home_is_marked_and_taken_once() {
        let names = Names {
            suffixes: vec!["nyud.net".parse().unwrap()],
            sites: vec![Site::new("cdn.x.org", "http://10.0.0.1").unwrap()],
            ..Names::default()
        };
        let home = |host: &str, target: &str| location(&CoralUrl::parse(host, target, &names).unwrap());
        assert_eq!(home("www.x.com.nyud.net", "/p").unwrap(), "http://www.x.com/p?coral-no-serve");
        assert_eq!(home("www.x.com.8080.nyud.net", "/?a=b").unwrap(), "http://www.x.com:8080/?a=b&coral-no-serve");
        assert_eq!(home("www-x-com.s.nyud.net", "/").unwrap(), "https://www.x.com/?coral-no-serve");
        assert_eq!(home("www.x.com.nyud.net", "/?a=b&coral-no-serve"), None);
        assert_eq!(home("cdn.x.org", "/"), None);
    }
}
