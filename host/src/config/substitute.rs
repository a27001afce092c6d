//! `{ env = "NAME" }` and `{ file = "PATH" }` in place of a text: the value is the variable's, or what the file holds.
//!
//! Guarantees: a value that came in this way is never shown in a message; every file that was read is listed, so that the
//! host can read the configuration again when one changes; a table that a key itself takes is never replaced, only the
//! texts inside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::key_table::{self, Takes};
use super::layers::Layers;
use super::pipelines::in_pipeline;
use super::problem::ConfigProblem;
use super::reader::in_full;
use super::regular_file::read_small_text;
use super::value::{ConfigValue, Origin, Value};

/// What the references of one configuration are replaced from.
struct Substitution<'a> {
    folder: &'a Path,
    environment: &'a BTreeMap<String, String>,
    problems: Vec<ConfigProblem>,
    files: Vec<PathBuf>,
}

/// Replaces every reference of the file by its value.
pub fn substitute(layers: &mut Layers, environment: &BTreeMap<String, String>) {
    let folder = layers.folder.clone();
    let mut work = Substitution { folder: &folder, environment, problems: Vec::new(), files: Vec::new() };
    let tables = layers.plugins.iter_mut().flatten().chain(layers.attachments.iter_mut().flatten());
    let of_lists = tables.flat_map(|table| &mut table.values);
    for (path, found) in layers.values.iter_mut().chain(of_lists) {
        let takes = key_table::row(path).map(|row| row.takes);
        let is_table = matches!(takes, Some(Takes::Table(_) | Takes::TableOrNames(_)));
        if is_table { work.inside(path, found) } else { work.replace(path, found) }
    }
    for (name, found) in &mut layers.properties {
        work.replace(&format!("kafka.properties.{name}"), found);
    }
    layers.problems.append(&mut work.problems);
    layers.files.append(&mut work.files);
    for pipeline in layers.pipelines.iter_mut().flatten() {
        substitute(&mut pipeline.own, environment);
        layers.problems.extend(pipeline.own.problems.drain(..).map(|problem| in_pipeline(&pipeline.name, problem)));
    }
}

/// Whether a table is a reference: the one key `env` or `file`, with a text.
pub fn is_reference(value: &Value) -> bool {
    reference(value).is_some()
}

fn reference(value: &Value) -> Option<(&str, &str)> {
    let Value::Table(entries) = value else { return None };
    match entries.as_slice() {
        [(kind, ConfigValue { value: Value::Text(text), .. })] if kind == "env" || kind == "file" => Some((kind, text)),
        _ => None,
    }
}

impl Substitution<'_> {
    fn replace(&mut self, key: &str, found: &mut ConfigValue) {
        let text = match reference(&found.value) {
            None => return self.inside(key, found),
            Some(("env", name)) => self.environment.get(name).cloned().map(|text| (text, Origin::Variable)).ok_or_else(|| {
                format!(
                    "the environment variable {name} isn't set (or isn't UTF-8); set it where reduct-sink is started"
                )
            }),
            Some((_, path)) => self.read(path),
        };
        match text {
            Ok((text, origin)) => (found.value, found.origin) = (Value::Text(text), origin),
            Err(text) => {
                self.problems.push(ConfigProblem::at(&found.location, key, text));
                // So that the value isn't reported a second time for being a table.
                found.value = Value::Unknown;
            }
        }
    }

    fn inside(&mut self, key: &str, found: &mut ConfigValue) {
        match &mut found.value {
            Value::List(items) => items.iter_mut().for_each(|item| self.replace(key, item)),
            Value::Table(entries) => entries.iter_mut().for_each(|(_, entry)| self.replace(key, entry)),
            _ => {}
        }
    }

    fn read(&mut self, path: &str) -> Result<(String, Origin), String> {
        let path = self.folder.join(path);
        let read = read_small_text(&path);
        let text = read.map_err(|error| format!("cannot read {}: {error}", in_full(&path)))?;
        self.files.push(path.clone());
        Ok((without_last_break(&text).to_owned(), Origin::File(path)))
    }
}

/// Without the line break that editors and shells put at the end of a file.
pub fn without_last_break(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
}
