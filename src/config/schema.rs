//! The known keys of the configuration file, and the one nearest to a misspelt one.
//!
//! The keys are those of the serialised defaults, so that an option added to a crate's `Config` is known at once.

use std::ops::Range;

use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

use super::Config;

/// The defaults as JSON: its objects are the tables of the file, and null is an option not set by default.
#[derive(Debug)]
pub(super) struct Schema(Json);

/// A key that is not known.
#[derive(Debug)]
pub(super) struct Unknown {
    /// With its tables: `proxy.lisen`.
    pub(super) path: String,
    /// Where it stands in the text.
    pub(super) span: Range<usize>,
    /// The known key that it looks like most, if it looks like any.
    pub(super) nearest: Option<String>,
}

impl Schema {
    pub(super) fn new() -> Self {
        Self(serde_json::to_value(Config::default()).expect("a configuration of plain values"))
    }

    /// The default under a dotted path: `None` if there is no such key, null if it is not set by default.
    pub(super) fn default_of(&self, path: &str) -> Option<&Json> {
        path.split('.').try_fold(&self.0, |table, key| match table {
            Json::Null => Some(table),
            _ => table.get(key),
        })
    }

    /// Every key that holds a value, with its tables.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect(&self.0, "", &mut paths);
        paths
    }

    /// The first key of `table` that is not known, in the order of the text.
    pub(super) fn unknown(&self, table: &DeTable<'_>) -> Option<Unknown> {
        let mut found = Vec::new();
        self.walk(&self.0, table, "", &mut found);
        found.into_iter().min_by_key(|unknown| unknown.span.start)
    }

    fn walk(&self, known: &Json, table: &DeTable<'_>, above: &str, found: &mut Vec<Unknown>) {
        for (key, value) in table {
            let path = join(above, key.get_ref());
            match (known.get(key.get_ref().as_ref()), value.get_ref()) {
                (None, _) => found.push(Unknown { nearest: self.nearest(&path), path, span: key.span() }),
                (Some(inner @ Json::Object(_)), DeValue::Table(table)) => self.walk(inner, table, &path, found),
                // Not a table that is set by default: what is inside, and whether it fits, is serde's to say.
                (Some(_), _) => {}
            }
        }
    }

    /// The known path nearest to `path`. A key in the right table counts for more than one in another.
    pub(super) fn nearest(&self, path: &str) -> Option<String> {
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        let likeness = |known: &String| {
            let (known_table, known_key) = known.rsplit_once('.').unwrap_or(("", known));
            let whole = strsim::normalized_damerau_levenshtein(path, known);
            let last = strsim::normalized_damerau_levenshtein(key, known_key);
            if table == known_table { last } else { whole.max(last - 0.2) }
        };
        let mut candidates = self.paths();
        if let Json::Object(sections) = &self.0 {
            candidates.extend(sections.iter().filter(|(_, v)| v.is_object()).map(|(k, _)| k.clone()));
        }
        let best = candidates.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(&best) > 0.4).then_some(best)
    }
}

/// The keys under which two configurations differ, with their tables.
pub(super) fn differences(one: &Config, other: &Config) -> Vec<String> {
    let as_json = |config| serde_json::to_value(config).expect("a configuration of plain values");
    let (one, other) = (as_json(one), as_json(other));
    let mut paths = Vec::new();
    collect(&one, "", &mut paths);
    // A table that one has and the other has not (`dns.probe`) is a difference of its own.
    collect(&other, "", &mut paths);
    paths.sort();
    paths.dedup();
    let at = |config: &Json, path: &str| path.split('.').try_fold(config.clone(), |table, key| table.get(key).cloned());
    paths.retain(|path| at(&one, path) != at(&other, path));
    paths
}

fn join(above: &str, key: &str) -> String {
    if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") }
}

fn collect(value: &Json, above: &str, paths: &mut Vec<String>) {
    match value {
        Json::Object(table) => {
            for (key, inner) in table {
                collect(inner, &join(above, key), paths);
            }
        }
        _ => paths.push(above.to_owned()),
    }
}
