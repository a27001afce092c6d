//! Looks keys up by the paths that stand in a file, and says what would be right for a key that isn't known.

use super::{COMMAND_LINE, Key, PIPELINES, PREFIX, keys, row};
use crate::config::problem::ConfigLocation;

/// What a path of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    Value(&'static Key),
    Table,
    /// `[kafka.properties]`, whose names librdkafka knows.
    Properties,
    /// `[[plugins]]`.
    Plugins,
    /// `[[attachments]]`.
    Attachments,
}

pub fn kind(path: &str) -> Option<PathKind> {
    match path {
        "kafka.properties" => return Some(PathKind::Properties),
        "plugins" => return Some(PathKind::Plugins),
        "attachments" => return Some(PathKind::Attachments),
        _ => (),
    }
    let value = row(path).map(PathKind::Value);
    value.or_else(|| keys().any(|key| below(key.path, path).is_some()).then_some(PathKind::Table))
}

/// The key of a table that a misspelt one resembles; `table` is empty at the top of the file.
pub fn misspelt(table: &str, name: &str) -> Option<&'static str> {
    nearest(name, children(table).into_iter())
}

/// Says what would be right instead of a key that isn't known.
pub fn suggest(table: &str, name: &str) -> String {
    if let Some(near) = misspelt(table, name) {
        return format!("unknown key, did you mean `{near}`?");
    }
    if kind(name).is_some() {
        return "unknown key, it belongs at the top of the file, before the first [table]".into();
    }
    let elsewhere = keys().filter_map(|key| key.path.rsplit_once('.')).find(|(_, leaf)| *leaf == name);
    if let Some((owner, _)) = elsewhere {
        return format!("unknown key, it belongs in {}", shown(owner));
    }
    let names = children(table).join(", ");
    format!("unknown key, {} takes {names}", shown(table))
}

/// A table as it stands in a file.
fn shown(table: &str) -> String {
    match table {
        "" => "a configuration".into(),
        table => heading(table),
    }
}

/// What stands above a table's keys in a file.
pub fn heading(table: &str) -> String {
    if is_list(table) { format!("[[{table}]]") } else { format!("[{table}]") }
}

/// Whether the table is one of a list of tables.
pub fn is_list(table: &str) -> bool {
    matches!(table, "plugins" | "attachments")
}

/// The known name that a misspelt one resembles most, if it resembles one at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    let distances = known.map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= (candidate.len() / 3).max(1)).then_some(candidate)
}

/// Every variable that means something to the host.
pub fn variables() -> impl Iterator<Item = String> {
    let keys = keys().filter_map(|key| key.env).map(|env| format!("{PREFIX}{env}"));
    keys.chain(COMMAND_LINE.map(String::from))
}

/// How a missing key can be set; `pipeline`: for this one of several.
pub fn ways_to_set(path: &str, pipeline: Option<&str>) -> String {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let example = row(path).map_or("…", |key| key.example);
    if let Some(pipeline) = pipeline {
        return format!(
            "set `{name} = {example}` in [{PIPELINES}.{pipeline}.{table}] of the configuration file, or in [{table}] for all \
             pipelines"
        );
    }
    let mut ways = format!("set `{name} = {example}` in [{table}] of the configuration file");
    if let Some(key) = row(path) {
        if let Some(env) = key.env {
            ways.push_str(&format!(", or {}", ConfigLocation::Environment(format!("{PREFIX}{env}"))));
        }
        if let Some(flag) = key.flag {
            ways.push_str(&format!(", or {}", flag.name));
        }
    }
    ways
}

/// The names directly in a table, each once, in the order of the documents.
fn children(table: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in keys() {
        let Some(name) = below(key.path, table).and_then(|rest| rest.split('.').next()) else { continue };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if table.is_empty() {
        names.push(PIPELINES);
    }
    names
}

/// What of a path is left inside a table.
fn below<'a>(path: &'a str, table: &str) -> Option<&'a str> {
    if table.is_empty() { Some(path) } else { path.strip_prefix(table)?.strip_prefix('.') }
}
