//! What the documents say is true: commands exist, files parse, paths and links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _};
use coral::cli::Cli;
use coral::config::Config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents in which people look things up.
const DOCUMENTS: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md"];

/// The lines of a document's code blocks.
fn code(text: &str) -> Vec<&str> {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        inside && !fence
    });
    lines.collect()
}

/// A line as words, without a prompt and without what follows `#` or a pipe.
fn words(line: &str) -> Vec<&str> {
    let line = line.trim_start_matches("$ ").split(" #").next().unwrap_or_default();
    line.split(" | ").next().unwrap_or_default().split_whitespace().collect()
}

#[test]
fn every_coral_command_in_the_documents_and_in_help_is_one() {
    let mut lines: Vec<String> = Vec::new();
    for document in DOCUMENTS {
        lines.extend(code(&read(document)).into_iter().map(str::to_owned));
    }
    for command in Cli::command().get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains(&format!("  coral {}", command.get_name())), "{} has no example", command.get_name());
        lines.extend(help.lines().map(|line| line.trim().to_owned()));
    }
    let mut seen = 0;
    for line in &lines {
        let mut words = words(line);
        match words[..] {
            ["cargo", "run", "--release", "--", ..] => drop(words.splice(..4, ["coral"])),
            ["target/release/coral", ..] => words[0] = "coral",
            ["coral", ..] => {}
            _ => continue,
        }
        seen += 1;
        if let Err(e) = Cli::try_parse_from(&words) {
            panic!("`{line}`: {e}");
        }
    }
    assert!(seen >= 12, "only {seen} commands were found: the documents have changed their form");
}

#[test]
fn the_readme_has_the_two_commands_and_ci_runs_them_verbatim() {
    let readme = read("README.md");
    let ci = read(".ci/run");
    for command in ["cargo run --release -- demo", "cargo test"] {
        assert!(code(&readme).contains(&command), "README.md lacks `{command}`");
        assert!(ci.lines().any(|line| line.starts_with(&format!("step {command}"))), ".ci/run lacks `{command}`");
    }
}

#[test]
fn the_example_configuration_is_the_defaults_and_names_every_key() {
    let text = read("deploy/coral.toml");
    let as_json = |config: &Config| serde_json::to_value(config).unwrap();
    let untouched = Config::from_text(&text, "deploy/coral.toml", &[]).unwrap();
    assert_eq!(as_json(&untouched), as_json(&Config::default()));

    // Every option uncommented, but for those that are not set by default.
    let is_option = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
    let uncommented = |with_unset: bool| -> String {
        let lines = text.lines().filter_map(|line| match is_option(line) {
            true if line.ends_with("# not set") && !with_unset => None,
            true => Some(line.trim_start_matches('#')),
            false => Some(line),
        });
        lines.map(|line| format!("{line}\n")).collect()
    };
    let defaults = Config::from_text(&uncommented(false), "deploy/coral.toml, uncommented", &[]).unwrap();
    assert_eq!(as_json(&defaults), as_json(&Config::default()));

    let whole = uncommented(true);
    Config::from_text(&whole, "deploy/coral.toml, with examples", &[]).unwrap();
    let written: toml::Table = whole.parse().unwrap();
    let mut missing = Vec::new();
    missing_keys(&as_json(&Config::default()), &written, "", &mut missing);
    assert_eq!(missing, [""; 0], "deploy/coral.toml does not name these");
}

/// The keys of the defaults that the file has not.
fn missing_keys(defaults: &serde_json::Value, file: &toml::Table, above: &str, missing: &mut Vec<String>) {
    for (key, value) in defaults.as_object().into_iter().flatten() {
        match (value.is_object(), file.get(key)) {
            (_, None) => missing.push(format!("{above}{key}")),
            (true, Some(toml::Value::Table(inner))) => missing_keys(value, inner, &format!("{above}{key}."), missing),
            _ => {}
        }
    }
}

#[test]
fn the_configurations_in_the_documents_are_right() {
    for document in DOCUMENTS {
        let text = read(document);
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            if let Err(e) = Config::from_text(block, document, &[]) {
                panic!("{e:#}");
            }
        }
    }
}

#[test]
fn the_code_map_names_every_source_file_and_no_other() {
    let architecture = read("ARCHITECTURE.md");
    let map = architecture.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let (mut named, mut directories, mut prefix) = (BTreeSet::new(), Vec::new(), "");
    for line in code(map) {
        let path = line.split_whitespace().next().unwrap_or_default();
        match line.strip_prefix("  ") {
            None => prefix = path.trim_start_matches("./"),
            // A description that goes on.
            Some(entry) if entry.starts_with(' ') => {}
            // One line for all of a directory.
            Some(_) if path.ends_with('/') => directories.push(format!("{prefix}{path}")),
            Some(_) => assert!(named.insert(format!("{prefix}{path}")), "{prefix}{path} is named twice"),
        }
    }
    let mut exist = BTreeSet::new();
    for top in ["src", "tests", "coral-dsht", "coral-dns", "coral-proxy", "deploy/testbed"] {
        source_files(&root().join(top), &mut exist);
    }
    for directory in &directories {
        let before = exist.len();
        exist.retain(|path| !path.starts_with(directory));
        assert!(exist.len() < before, "the code map names {directory}, where there is nothing");
    }
    let lacking: Vec<_> = exist.difference(&named).collect();
    let stale: Vec<_> = named.difference(&exist).collect();
    assert!(lacking.is_empty() && stale.is_empty(), "the code map lacks {lacking:#?} and has too many {stale:#?}");
}

fn source_files(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn relative_links_lead_somewhere() {
    for document in DOCUMENTS {
        let directory: PathBuf = root().join(document).parent().unwrap().to_owned();
        let text = read(document);
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = target.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(directory.join(target).exists(), "{document} links to {target}, which is not there");
            }
        }
    }
}

#[test]
fn every_dependency_has_its_row() {
    let architecture = read("ARCHITECTURE.md");
    let table = architecture.split("## Dependencies").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let mut used = BTreeSet::new();
    for package in [".", "coral-dsht", "coral-dns", "coral-proxy", "deploy/testbed"] {
        let manifest: toml::Table = read(&format!("{package}/Cargo.toml")).parse().unwrap();
        for kind in ["dependencies", "dev-dependencies"] {
            used.extend(
                manifest.get(kind).and_then(toml::Value::as_table).into_iter().flatten().map(|(name, _)| name.clone()),
            );
        }
    }
    let lacking: Vec<_> = used
        .iter()
        .filter(|name| *name != "coral" && !name.starts_with("coral-") && !rows.contains(name.as_str()))
        .collect();
    assert!(lacking.is_empty(), "ARCHITECTURE.md does not say what these are for: {lacking:?}");
}
