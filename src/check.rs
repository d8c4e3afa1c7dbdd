//! `coral check`: is this host ready to be a node? Each finding says what to do about it.
//!
//! What a node needs from its host is looked at from the host itself (`host`), and from its network (`network`): seeds that answer, and a zone
//! that is delegated. Whether strangers reach its ports, only strangers can tell: a node of the network is asked to try them (`outside`).

use std::fmt::Write as _;

use anyhow::bail;
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::commands::{load_for_node, runtime};
use crate::config::Config;

mod host;
mod network;
mod outside;

/// What became of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Good,
    /// A node runs, but not as well as it could, or nobody can tell.
    Doubtful,
    /// A node does not run, or is of no use.
    Bad,
}

/// One question and its answer.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    /// What was looked at.
    what: String,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do.
    advice: Option<String>,
}

impl Finding {
    fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Good, found: found.into(), advice: None }
    }

    fn doubtful(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Doubtful, found: found.into(), advice: Some(advice.into()) }
    }

    fn bad(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::doubtful(what, found, advice) }
    }
}

/// Runs all checks and prints what came of them. An error if one is bad, so that scripts can go by the exit status.
pub fn run(args: &CheckArgs) -> anyhow::Result<bool> {
    let config = load_for_node(&args.node)?;
    let findings = runtime()?.block_on(all(&config, args));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", report(&findings));
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count() {
        0 => Ok(true),
        bad => bail!("{bad} of {} checks failed", findings.len()),
    }
}

async fn all(config: &Config, args: &CheckArgs) -> Vec<Finding> {
    let runs = network::runs_here(config).await;
    let mut findings = host::ports(config, runs);
    let mut met = network::seeds(config).await;
    findings.append(&mut met.findings);
    findings.append(&mut outside::reached(config, runs, met.address, &met.nodes, args.from.as_deref()).await);
    findings.extend(host::ping(config));
    findings.append(&mut network::delegation(config, met.address, args.resolver).await);
    findings.append(&mut host::files(config));
    findings.append(&mut host::limits(config));
    findings.push(host::clock(config));
    findings
}

fn report(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { what, verdict, found, advice } in findings {
        let mark = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Doubtful => "?   ",
            Verdict::Bad => "BAD ",
        };
        writeln!(text, "{mark} {what:width$}  {found}").expect("a string takes all that is written");
        if let Some(advice) = advice {
            writeln!(text, "     {:width$}  -> {advice}", "").expect("a string takes all that is written");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_finding_is_a_line_and_what_to_do_another() {
        let findings = [
            Finding::good("index", "udp 0.0.0.0:4160 is free"),
            Finding::doubtful("address", "10.0.0.1", "set dsht.address"),
            Finding::bad("cache", "tcp 0.0.0.0:80: denied", "be root"),
        ];
        let text = report(&findings);
        expect![[r#"
            ok   index    udp 0.0.0.0:4160 is free
            ?    address  10.0.0.1
                          -> set dsht.address
            BAD  cache    tcp 0.0.0.0:80: denied
                          -> be root
        "#]]
        .assert_eq(&text);
    }
}
