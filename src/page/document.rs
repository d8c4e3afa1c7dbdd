//! The document around the pieces: what stays the same while it is looked at.

use coral_proxy::Suffix;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::View;
use super::coralized::Refused;
use super::pieces::Piece;

/// What it is made of.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) view: View,
    pub(super) suffix: &'a Suffix,
    /// The parts that change; `None` if they are not to be seen.
    pub(super) pieces: Option<Vec<Piece>>,
    /// What was wrong with the URL that was typed.
    pub(super) refused: Option<Refused>,
}

impl Document<'_> {
    pub(super) fn html(&self) -> String {
        let what = if self.refused.is_some() { "Error: " } else { "" };
        let whose = if self.view == View::Operator { " (operator)" } else { "" };
        let document = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (what) "CoralCDN at " (self.suffix) (whose) }
                    link rel="icon" href="/icon.svg" type="image/svg+xml";
                    link rel="stylesheet" href="/page.css";
                    script src="/page.js" defer {}
                }
                body {
                    header {
                        p.name { (PreEscaped(super::ICON)) "CoralCDN" }
                        @if let Some(node) = self.piece("node") { p id="node" { (node) } }
                    }
                    main {
                        div.intro {
                            (self.form())
                            (explanation())
                        }
                        (self.live())
                    }
                    footer {
                        @if self.view == View::Operator {
                            p { "For the operator alone: this address shows what others ask for." }
                            nav aria-label="For machines" {
                                a href="/status" { "status" } " " a href="/metrics" { "metrics" } " " a href="/health" { "health" }
                            }
                        } @else {
                            p {
                                "A node shows counts here, never who asks or for what. Whoever runs a node sees what passes through "
                                "it, and nothing that is served is signed by its origin: use it for what is public."
                            }
                        }
                    }
                }
            }
        };
        document.into_string()
    }

    fn form(&self) -> Markup {
        let (typed, error) = match &self.refused {
            Some(refused) => (refused.typed.as_str(), Some(refused.why.as_str())),
            None => ("", None),
        };
        html! {
            section.lead aria-labelledby="lead" {
                h1 id="lead" { "A busy page, from many machines" }
                p {
                    "Append " code { "." (self.suffix) } " to the host name of a URL. The page then comes from a node near you, "
                    "and its own server is asked for it once."
                }
                form action="/coralize" method="get" {
                    label for="url" { "Address of a page" }
                    div {
                        input type="text" id="url" name="url" value=(typed) required inputmode="url" autocomplete="url"
                            autocapitalize="none" spellcheck="false" placeholder="www.example.com/page.html"
                            aria-describedby=(if error.is_some() { "error hint" } else { "hint" })
                            aria-invalid=[error.map(|_| "true")] autofocus[error.is_some()];
                        button type="submit" { "Coralize" }
                    }
                    @if let Some(error) = error { p.error id="error" role="alert" { (error) } }
                    p.hint id="hint" { "Leads to " code { "www.example.com." (self.suffix) "/page.html" } }
                }
            }
        }
    }

    fn live(&self) -> Markup {
        if self.pieces.is_none() {
            return html! {};
        }
        html! {
            section id="live" aria-labelledby="now" {
                div.title {
                    h2 id="now" { "This node, now" }
                    p.state {
                        span id="state" role="status" { "As of when the page was loaded" }
                        button type="button" id="pause" hidden { "Pause" }
                    }
                }
                @if let Some(figures) = self.piece("figures") {
                    dl.figures id="figures" { (figures) }
                }
                div.columns {
                    @if let (Some(curves), Some(sources)) = (self.piece("curves"), self.piece("sources")) {
                        section.card aria-labelledby="from" {
                            h3 id="from" { "Where answers come from" }
                            div id="curves" { (curves) }
                            table aria-labelledby="from" {
                                thead { tr { th scope="col" { "Source" } th.number scope="col" { "Now" } th.number scope="col" { "Since the start" } } }
                                tbody id="sources" { (sources) }
                            }
                        }
                    }
                    section.card aria-labelledby="around" {
                        h3 id="around" { "Nodes in reach, by cluster and round-trip time" }
                        div id="rings" { (self.piece("rings").unwrap_or_default()) }
                        p.hint {
                            span id="walked" { (self.piece("walked").unwrap_or_default()) }
                            @if self.view == View::Operator {
                                " " a href="/map.svg" { "Walk now" } ", for the picture alone; it takes some seconds."
                            }
                        }
                        ul.levels id="levels" { (self.piece("levels").unwrap_or_default()) }
                        details {
                            summary { "As a table" }
                            table aria-labelledby="around" {
                                thead {
                                    tr {
                                        th scope="col" { "Node" } th scope="col" { "Level" } th.number scope="col" { "Round trip" }
                                        @if self.view == View::Operator { th scope="col" { "Address" } }
                                    }
                                }
                                tbody id="neighbours" { (self.piece("neighbours").unwrap_or_default()) }
                            }
                        }
                    }
                    @if let Some(popular) = self.piece("popular") {
                        section.card aria-labelledby="hot" {
                            h3 id="hot" { "Asked for most, lately" }
                            ol.popular id="popular" { (popular) }
                        }
                    }
                    @if let Some(searches) = self.piece("searches") {
                        section.card aria-labelledby="sought" {
                            h3 id="sought" { "Searched for in the index" }
                            ol.searches id="searches" { (searches) }
                        }
                    }
                }
            }
        }
    }

    /// A piece as it is: its text was escaped when it was made.
    fn piece(&self, id: &str) -> Option<PreEscaped<&str>> {
        let pieces = self.pieces.as_ref()?;
        pieces.iter().find(|piece| piece.id == id).map(|piece| PreEscaped(piece.html.as_str()))
    }
}

fn explanation() -> Markup {
    html! {
        section.what aria-labelledby="what" {
            h2 id="what" { "What this is" }
            p {
                "This page comes from one of many small, equal nodes. Each answers from its own store, else from a node nearby "
                "that has what is asked for, and only if none has it from the page's own server, the origin. So a small server "
                "survives a large crowd."
            }
            p { "Only what is public is served: no cookie and no password passes through a node." }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_comes_back_escaped_and_nothing_leads_elsewhere() {
        let suffix: Suffix = "nyud.net".parse().unwrap();
        let typed = "\"><script>alert(1)</script>".to_owned();
        let refused = Some(Refused { typed, why: "No <b>.".to_owned() });
        for view in [View::Public, View::Operator] {
            let document = Document { view, suffix: &suffix, pieces: None, refused: refused.clone() };
            let html = document.html();
            assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\""), "{html}");
            assert!(html.contains("No &lt;b&gt;."), "{html}");
            assert_eq!(html.matches("<script").count(), 1, "{html}");
            // The name of a namespace is no address that is gone to.
            assert!(!html.replace("http://www.w3.org/2000/svg", "").contains("://"), "{html}");
        }
    }
}
