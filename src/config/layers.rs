//! Reading a configuration: the file, then the environment, then the flags, the later over the earlier.
//!
//! The file is checked by itself first, so that its mistakes are told with their line. Each override is then checked
//! as it is laid on top: what fails there is its fault, and the message names it.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::schema::Schema;
use super::{Config, DnsNode, Section};

/// One value from outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// What the user typed, for messages: `--set proxy.listen`, or `CORAL_PROXY__LISTEN`.
    pub origin: String,
    /// The key with its tables: `proxy.listen`.
    pub path: String,
    /// The value: TOML, or a plain word where a string is meant, or words between commas where a list is.
    pub value: String,
}

impl Override {
    /// A value given by a flag of its own, such as `--proxy-listen`.
    pub fn flag(flag: &str, path: &str, value: impl ToString) -> Self {
        Self { origin: flag.to_owned(), path: path.to_owned(), value: value.to_string() }
    }

    /// One `--set KEY=VALUE`.
    pub fn set(argument: &str) -> anyhow::Result<Self> {
        let (path, value) = argument.split_once('=').with_context(|| {
            format!("--set {argument}: a key and a value are needed, as in proxy.listen=127.0.0.1:8080")
        })?;
        Ok(Self::flag(&format!("--set {}", path.trim()), path.trim(), value.trim()))
    }

    /// Those among the variables of the environment that are meant for us: `CORAL_PROXY__LISTEN` is `proxy.listen`.
    ///
    /// In the order of their names, so that messages do not depend on that of the environment.
    pub fn from_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<Self> {
        let ours = variables.into_iter().filter_map(|(name, value)| {
            let origin = name.into_string().ok()?;
            let path = origin.strip_prefix("CORAL_")?.to_ascii_lowercase().replace("__", ".");
            Some(Self { origin, path, value: value.to_string_lossy().into_owned() })
        });
        let mut ours: Vec<Self> = ours.collect();
        ours.sort_by(|a, b| a.origin.cmp(&b.origin));
        ours
    }
}

impl Config {
    /// The configuration from a file, if any, and from what overrides it; the last of two overrides counts.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Self::from_text("", "defaults", overrides);
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        Self::from_text(&text, &path.display().to_string(), overrides)
    }

    /// The same from a text; `name` stands for it in messages.
    pub fn from_text(text: &str, name: &str, overrides: &[Override]) -> anyhow::Result<Self> {
        let schema = Schema::new();
        let at = |span: Option<Range<usize>>| Place { name, text, span };
        let mut table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(e) => bail!("{}", at(e.span()).says(e.message())),
        };
        if let Some(unknown) = schema.unknown(&table) {
            bail!("{}", at(Some(unknown.span)).says(&misspelt(&unknown.path, unknown.nearest)));
        }
        let mut config = match Self::from_table(table.clone()) {
            Ok(config) => config,
            Err(e) => {
                let key = e.span().and_then(|span| key_at(&table, &span));
                let message = key.map_or_else(|| e.message().to_owned(), |key| format!("`{key}`: {}", e.message()));
                bail!("{}", at(e.span()).says(&message));
            }
        };
        for layer in overrides {
            lay(&mut table, layer, &schema).map_err(|e| anyhow!("{}: {e}", layer.origin))?;
            // A secret with a slip of the finger is nearly the secret.
            let value = if layer.path.ends_with("_key") { "(not shown)" } else { &layer.value };
            config =
                Self::from_table(table.clone()).map_err(|e| anyhow!("{}: `{value}`: {}", layer.origin, e.message()))?;
        }
        config.check()?;
        Ok(config)
    }

    /// Each section by itself: the node's keys and the crate's keys of a section go to their own types, spans and all.
    fn from_table(mut table: DeTable<'_>) -> Result<Self, toml::de::Error> {
        let defaults = Self::default();
        let suffixes = match table.remove("suffixes") {
            Some(value) => serde::Deserialize::deserialize(toml::de::ValueDeserializer::from(value))?,
            None => defaults.suffixes,
        };
        let mut dns: Section<DnsNode, coral_dns::Config> = section(table.remove("dns"))?;
        if !dns.node.measure {
            dns.part.probe = None;
        }
        Ok(Self {
            suffixes,
            dsht: section(table.remove("dsht"))?,
            dns,
            proxy: section(table.remove("proxy"))?,
            admin: plain(table.remove("admin"))?,
            purge: plain(table.remove("purge"))?,
            page: plain(table.remove("page"))?,
            reach: plain(table.remove("reach"))?,
            log: plain(table.remove("log"))?,
        })
    }

    /// What no single value can tell.
    fn check(&self) -> anyhow::Result<()> {
        if self.suffixes.is_empty() {
            bail!("`suffixes` is empty: a node serves at least one, such as nyud.net");
        }
        crate::logging::parse_filter(&self.log.filter).context("`log.filter`")?;
        let traces = &self.log.traces;
        let is_url = |endpoint: &String| ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
        if !traces.endpoint.iter().all(is_url) {
            bail!("`log.traces.endpoint` is no address of a collector, such as http://127.0.0.1:4318");
        }
        if !(0.0..=1.0).contains(&traces.share) {
            bail!("`log.traces.share` is {}, and not from 0 to 1", traces.share);
        }
        Ok(())
    }
}

type Entry<'a> = Spanned<DeValue<'a>>;

fn plain<T: DeserializeOwned + Default>(entry: Option<Entry<'_>>) -> Result<T, toml::de::Error> {
    match entry {
        Some(entry) => T::deserialize(toml::de::ValueDeserializer::from(entry)),
        None => Ok(T::default()),
    }
}

fn section<N, C>(entry: Option<Entry<'_>>) -> Result<Section<N, C>, toml::de::Error>
where
    N: DeserializeOwned + Default + serde::Serialize,
    C: DeserializeOwned + Default,
{
    let Some(entry) = entry else {
        return Ok(Section { node: N::default(), part: C::default() });
    };
    let span = entry.span();
    let DeValue::Table(mut rest) = entry.into_inner() else {
        // Of the right shape for a message, which no other path to it would be.
        return Err(serde::de::Error::custom("this is a section of the file, not a value"));
    };
    let defaults = serde_json::to_value(N::default()).expect("a configuration of plain values");
    let mut own = DeTable::new();
    for key in defaults.as_object().into_iter().flat_map(serde_json::Map::keys) {
        if let Some((key, value)) = rest.remove_entry(key.as_str()) {
            own.insert(key, value);
        }
    }
    Ok(Section {
        node: N::deserialize(Deserializer::from(Spanned::new(span.clone(), own)))?,
        part: C::deserialize(Deserializer::from(Spanned::new(span, rest)))?,
    })
}

/// Lays one override over the table. What it says is checked by whoever reads the table next.
fn lay<'a>(table: &mut DeTable<'a>, layer: &'a Override, schema: &Schema) -> anyhow::Result<()> {
    let Some(default) = schema.default_of(&layer.path) else {
        bail!("{}", misspelt(&layer.path, schema.nearest(&layer.path)));
    };
    if default.is_object() {
        bail!("`{}` is a section; name a key in it", layer.path);
    }
    let mut keys: Vec<&str> = layer.path.split('.').collect();
    let last = keys.pop().unwrap_or_default();
    let mut inner = table;
    for key in keys {
        let empty = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let entry = inner.entry(spanned_key(key)).or_insert_with(empty);
        let DeValue::Table(next) = entry.get_mut() else {
            bail!("`{key}` in `{}` is a value, not a section", layer.path);
        };
        inner = next;
    }
    inner.insert(spanned_key(last), value_of(&layer.value, default));
    Ok(())
}

fn spanned_key(key: &str) -> Spanned<std::borrow::Cow<'static, str>> {
    Spanned::new(0..0, key.to_owned().into())
}

/// The value a user means: shells and service managers make quotes awkward, so they may be left out.
fn value_of<'a>(text: &'a str, default: &serde_json::Value) -> Entry<'a> {
    let word = |text: &'a str| Spanned::new(0..0, DeValue::String(text.trim().into()));
    // Spans of another text than the file's would lead a message astray.
    let parsed = DeValue::parse(text).ok().map(|value| Spanned::new(0..0, value.into_inner()));
    match (default, parsed) {
        (serde_json::Value::String(_), Some(value)) if value.get_ref().is_str() => value,
        (serde_json::Value::String(_), _) => word(text),
        (serde_json::Value::Array(_), Some(value)) if value.get_ref().is_array() => value,
        (serde_json::Value::Array(_), _) => {
            let items = text.split(',').filter(|item| !item.trim().is_empty());
            let items: DeArray<'a> = items.map(word).collect();
            Spanned::new(0..0, DeValue::Array(items))
        }
        (_, Some(value)) => value,
        (_, None) => word(text),
    }
}

/// The key whose value is at `span`, with its tables.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let inside = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
        match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, span).map(|path| format!("{}.{path}", key.get_ref())),
            _ => inside(value.span()).then(|| key.get_ref().to_string()),
        }
    })
}

fn misspelt(path: &str, nearest: Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("unknown key `{path}`; the nearest known one is `{nearest}`"),
        None => format!("unknown key `{path}`; deploy/coral.toml lists the known ones"),
    }
}

/// A place in the text, for a message such as a compiler's.
struct Place<'a> {
    name: &'a str,
    text: &'a str,
    span: Option<Range<usize>>,
}

impl Place<'_> {
    fn says(&self, message: &str) -> String {
        let Some(start) = self.span.as_ref().map(|span| span.start.min(self.text.len())) else {
            return format!("{}: {message}", self.name);
        };
        let before = self.text.get(..start).unwrap_or_default();
        let number = before.matches('\n').count() + 1;
        let line = self.text.lines().nth(number - 1).unwrap_or_default();
        format!("{}:{number}: {message}\n{number:>5} | {line}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, overrides: &[Override], expected: Expect) {
        let outcome = match Config::from_text(text, "coral.toml", overrides) {
            Ok(config) => format!(
                "suffixes {} | dsht {} | proxy {:?}\n",
                config.suffixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                config.dsht.node.listen,
                config.proxy.node.listen,
            ),
            Err(e) => format!("{e:#}\n"),
        };
        expected.assert_eq(&outcome);
    }

    fn set(argument: &str) -> Override {
        Override::set(argument).unwrap()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let read = Config::from_text("", "coral.toml", &[]).unwrap();
        let read = serde_json::to_value(read).unwrap();
        assert_eq!(read, serde_json::to_value(Config::default()).unwrap());
    }

    #[test]
    fn a_value_in_the_file_counts() {
        check(
            "suffixes = ['example.net']\n[proxy]\nlisten = '127.0.0.1:8080'\n",
            &[],
            expect![[r#"
                suffixes example.net | dsht 0.0.0.0:4160 | proxy Some(127.0.0.1:8080)
            "#]],
        );
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_nearest_known_one() {
        check(
            "[proxy]\nlisen = '127.0.0.1:8080'\n",
            &[],
            expect![[r#"
                coral.toml:2: unknown key `proxy.lisen`; the nearest known one is `proxy.listen`
                    2 | lisen = '127.0.0.1:8080'
            "#]],
        );
        check(
            "sufixes = ['a.net']",
            &[],
            expect![[r#"
                coral.toml:1: unknown key `sufixes`; the nearest known one is `suffixes`
                    1 | sufixes = ['a.net']
            "#]],
        );
        check(
            "[prxoy]\nlisten = 'off'",
            &[],
            expect![[r#"
                coral.toml:1: unknown key `prxoy`; the nearest known one is `proxy`
                    1 | [prxoy]
            "#]],
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line_and_key() {
        check(
            "[log]\nfilter = 'info'\n\n[proxy]\nlisten = 'here'\n",
            &[],
            expect![[r#"
                coral.toml:5: `proxy.listen`: `here` is neither an address and port such as 127.0.0.1:8080 nor `off`
                    5 | listen = 'here'
            "#]],
        );
        check(
            "[dsht]\nseeds = ['node.example.org']\n",
            &[],
            expect![[r#"
                coral.toml:2: `dsht.seeds`: `node.example.org` is no host:port, such as node.example.org:4160 or [2001:db8::1]:4160
                    2 | seeds = ['node.example.org']
            "#]],
        );
    }

    #[test]
    fn a_broken_file_is_named_with_its_line() {
        check(
            "[proxy]\nlisten = \n",
            &[],
            expect![[r#"
                coral.toml:2: string values must be quoted, expected literal string
                    2 | listen = 
            "#]],
        );
    }

    #[test]
    fn a_section_is_no_value() {
        check(
            "proxy = 3",
            &[],
            expect![[r#"
            coral.toml: this is a section of the file, not a value
        "#]],
        );
    }

    #[test]
    fn the_last_override_counts_and_needs_no_quotes() {
        check(
            "[proxy]\nlisten = '127.0.0.1:1'",
            &[set("proxy.listen=127.0.0.1:2"), set("proxy.listen=off"), set("suffixes=a.net, b.net")],
            expect![[r#"
                suffixes a.net b.net | dsht 0.0.0.0:4160 | proxy None
            "#]],
        );
    }

    #[test]
    fn a_wrong_override_is_named_as_it_was_typed() {
        let variables = [("CORAL_PROXY__LISTEN".into(), "8080".into()), ("PATH".into(), "/bin".into())];
        check(
            "",
            &Override::from_variables(variables),
            expect![[r#"
                CORAL_PROXY__LISTEN: `8080`: `8080` is neither an address and port such as 127.0.0.1:8080 nor `off`
            "#]],
        );
        check(
            "",
            &[set("proxy.lisen=off")],
            expect![[r#"
                --set proxy.lisen: unknown key `proxy.lisen`; the nearest known one is `proxy.listen`
            "#]],
        );
        check(
            "",
            &[set("proxy=off")],
            expect![[r#"
            --set proxy: `proxy` is a section; name a key in it
        "#]],
        );
    }

    #[test]
    fn no_suffix_is_no_node() {
        check(
            "suffixes = []",
            &[],
            expect![[r#"
            `suffixes` is empty: a node serves at least one, such as nyud.net
        "#]],
        );
    }
}
