//! Whether a network that signs its answers is believed: by the recursive resolvers of the real world, which validate from the suffix's
//! key on, while they are referred to nodes near them; and by single queries.
//!
//! The fake root is not signed, so the suffix's DS record is a trust anchor of each resolver. All nodes have the same key.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral::chart::{Axis, Chart};
use coral::report::{Report, Row};
use coral_dns::dnssec::key::{Algorithm, Key};
use serde_json::json;

use super::conformance::cases::SIGNED;
use super::conformance::{Cast, FAR, ask, cast, row};
use super::redirection::internet::{FILES, Internet, run_at, words};
use super::redirection::{Release, Releases, bring_up};
use super::stage::{Findings, Stage, described};
use crate::dns::{ANCHORS, SUFFIX, Trust};
use crate::images;
use crate::lab::{Lab, Tree};
use crate::map::{Resolver, TWELVE_REGIONS};

/// What resolvers are asked, of each kind of answer; all must be proven.
const QUESTIONS: &[&str] = &[
    "nyud.net SOA",
    "nyud.net NS",
    "nyud.net DNSKEY",
    "nyud.net MX",
    "com.nyud.net DS",
    "com.nyud.net DNSKEY",
    "com.nyud.net NS",
    "com.nyud.net A",
    "www.x.com.nyud.net A",
    "wWw.X.cOm.nyud.net A",
    "www.x.com.nyud.net AAAA",
    "www.x.com.nyud.net TXT",
    "www.x.org.8080.nyud.net A",
    "_missing.x.com.nyud.net A",
    "_missing.nyud.net A",
    "ns.nyud.net A",
    "a.b.c.d.e.net.nyud.net A",
];

/// What they are asked before that, so that they know where the suffix zone is.
const FIRST: &str = "_first.nyud.net A";

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let directory = tempfile::Builder::new().prefix("coral-keys-").tempdir().context("no directory")?;
    let key_file = directory.path().join("dnssec.key");
    let key = Key::create(&key_file, Algorithm::EcdsaP256).context("cannot make a key")?;
    let mut setup = stage.setup(|| (TWELVE_REGIONS.to_owned(), "the map of twelve regions"))?;
    setup.dns.push(format!("dnssec_keys = [{:?}]", key_file.display().to_string()));
    let (lab, internet) = bring_up(stage, &setup, Releases::Both)?;
    let map = lab.map();
    let cast = cast(&map)?;
    let trust = Trust::of(&key.ds_line(&SUFFIX.parse().context("the suffix")?)).context("a DS record of ours")?;
    fs::write(directory.path().join(ANCHORS), trust.bind()).context("cannot write a file")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tree = Tree::new(&runtime.block_on(images::tools())?, directory.path(), FILES)?;
    let (mut rows, mut broken): (Vec<Row>, Vec<String>) = (Vec::new(), Vec::new());
    let bar = stage.count("single queries", SIGNED.len());
    for case in SIGNED {
        lab.interrupt().check()?;
        let wrong = ask(&lab, &tree, &cast, case)?;
        rows.push(row(case.source, case.what, case.query, wrong.is_none()));
        broken.extend(wrong.map(|wrong| format!("{} ({}): {}: {wrong}", case.what, case.source, case.query)));
        bar.inc(1);
    }
    for release in [Release::Bookworm, Release::Trixie] {
        for resolver in [Resolver::Unbound, Resolver::Bind, Resolver::KnotResolver, Resolver::PdnsRecursor] {
            stage.say(&format!("{resolver} of {release} validates"));
            let by = format!("{resolver}, {release}");
            let validating = Validating { lab: &lab, internet: &internet, tree: &tree, cast: &cast, resolver, release };
            for (asked, wrong) in validating.judge(&trust)? {
                rows.push(row(&by, "is proven", &asked, wrong.is_none()));
                broken.extend(wrong.map(|wrong| format!("{by}: {asked}: {wrong}")));
            }
        }
    }
    let right = rows.iter().filter(|row| row[3].1 == json!(true)).count();
    let title = format!("signed: {SUFFIX}, {}", described(&lab));
    let summary =
        vec![("asked", json!(rows.len())), ("as_they_should_be", json!(right)), ("network", json!(described(&lab)))];
    // There is nothing to draw but how many.
    let chart = Chart { title: title.clone(), x: Axis::linear(""), y: Axis::linear(""), series: Vec::new() };
    Ok(Findings { report: Report { title, rows, summary, chart }, broken })
}

/// One resolver that validates.
struct Validating<'m> {
    lab: &'m Lab,
    internet: &'m Internet,
    tree: &'m Tree,
    cast: &'m Cast<'m>,
    resolver: Resolver,
    release: Release,
}

impl Validating<'_> {
    /// What was asked, and what was wrong with the answer.
    fn judge(&self, trust: &Trust) -> anyhow::Result<Vec<(String, Option<String>)>> {
        let mut judged = Vec::new();
        let site = self.cast.near_client;
        {
            let mut running =
                self.internet.validating_resolver(self.lab, site, self.resolver, self.release, &trust.forged())?;
            running.wait(self.lab, site)?;
            // Else all else here would say nothing.
            let said = self.dig("www.x.com.nyud.net A")?;
            let wrong = (!said.contains("status: SERVFAIL")).then(|| "what another key has signed is believed".into());
            judged.push(("www.x.com.nyud.net A, by another key".to_owned(), wrong));
        }
        let mut running = self.internet.validating_resolver(self.lab, site, self.resolver, self.release, trust)?;
        running.wait(self.lab, site)?;
        // PowerDNS does not vouch for what it found on a way that began at a root which is not signed.
        self.dig(FIRST)?;
        for question in QUESTIONS {
            judged.push(((*question).to_owned(), unproven(&self.dig(question)?)));
        }
        // Names of one cut, until the resolver was referred and has found its way to near nodes, by the time that it takes.
        let deadline = Instant::now() + SETTLES;
        for number in 0.. {
            self.lab.interrupt().check()?;
            let question = format!("w{number}.x.com.nyud.net A");
            let said = self.dig(&question)?;
            let wrong = unproven(&said);
            let took = said.split("Query time: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
            let is_near = took.is_some_and(|took| Duration::from_millis(took) < FAR);
            if wrong.is_some() || is_near || Instant::now() > deadline {
                let wrong = wrong.or_else(|| (!is_near).then(|| format!("no near node answers it within {SETTLES:?}")));
                judged.push((format!("w….x.com.nyud.net A, by a near node after {number} others"), wrong));
                break;
            }
        }
        for question in QUESTIONS {
            judged.push((format!("{question}, once more"), unproven(&self.dig(question)?)));
        }
        running.check()?;
        Ok(judged)
    }

    fn dig(&self, question: &str) -> anyhow::Result<String> {
        let site = self.cast.near_client;
        let line = format!("dig @{} +time=10 +tries=1 +adflag {question}", site.ipv4);
        let output = run_at(self.lab, site, self.tree, &words(&line))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What is wrong with an answer that is to be proven.
fn unproven(said: &str) -> Option<String> {
    let flags = said.split("flags: ").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
    let status = said.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("no answer");
    let is_right = flags.split(' ').any(|flag| flag == "ad") && matches!(status, "NOERROR" | "NXDOMAIN");
    (!is_right).then(|| format!("{status}, flags {flags}"))
}

/// How long a resolver may take until near nodes answer it.
const SETTLES: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_the_resolver_vouches_for_is_proven() {
        assert_eq!(unproven(";; status: NOERROR, id: 1\n;; flags: qr rd ra ad; QUERY: 1"), None);
        assert!(unproven(";; status: NOERROR, id: 1\n;; flags: qr rd ra; QUERY: 1").is_some());
        assert!(unproven(";; status: SERVFAIL, id: 1\n;; flags: qr rd ra ad; QUERY: 1").is_some());
        assert!(unproven("").is_some_and(|why| why.contains("no answer")));
    }
}
