//! The raw configuration: what the file, the environment and the flags say, one over the other, not yet validated.
//!
//! Guarantees: a flag wins over the environment, the environment over the file, key by key (the chain of plugins as a
//! whole); every value remembers its location; a key that isn't known is a problem, a variable that isn't is a warning.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key_table::{self, COMMAND_LINE, Key, PIPELINES, PREFIX, PROPERTY_PREFIX, PathKind, Takes, keys};
use super::problem::{ConfigLocation, ConfigProblem};
use super::reader::in_full;
use super::substitute::is_reference;
use super::validate::FILE_PROPERTIES;
use super::value::{ConfigValue, Origin, Value};

pub type LayerValues = BTreeMap<&'static str, ConfigValue>;

#[derive(Debug, Default)]
pub struct Layers {
    pub values: LayerValues,
    /// librdkafka's properties, by their full names.
    pub properties: BTreeMap<String, ConfigValue>,
    /// `None`: nothing is said about plugins.
    pub plugins: Option<Vec<TableOfList>>,
    /// The flag or variable that the plugins came from.
    pub plugins_set_by: Option<ConfigLocation>,
    /// `[[attachments]]`. `None`: nothing is said about them.
    pub attachments: Option<Vec<TableOfList>>,
    /// `[pipelines.NAME]`, in the order of the names. `None`: the file has none, and is one pipeline.
    pub pipelines: Option<Vec<PipelineTable>>,
    /// These are of one pipeline of several.
    pub is_pipeline: bool,
    /// What counts for a key that is set nowhere else.
    pub fallbacks: LayerValues,
    /// Of the configuration file: what its relative paths begin at.
    pub folder: PathBuf,
    /// The file can't be read or parsed, so it is unknown which keys are missing.
    pub unreadable: bool,
    /// Keys and tables that were misspelt, so that they aren't reported as missing as well.
    pub misspelt: Vec<String>,
    /// Files beside the configuration file from which values came.
    pub files: Vec<PathBuf>,
    pub problems: Vec<ConfigProblem>,
    pub warnings: Vec<String>,
}

/// What a file says of one of several pipelines.
#[derive(Debug)]
pub struct PipelineTable {
    pub name: String,
    pub location: ConfigLocation,
    /// Without problems: those are the file's.
    pub own: Layers,
}

#[derive(Debug, Clone)]
pub struct TableOfList {
    pub values: LayerValues,
    pub location: ConfigLocation,
}

/// A key as set by flags. A repeatable flag has several values.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The key's path.
    pub key: &'static str,
    /// The values in the order of the command line.
    pub values: Vec<String>,
    /// It counts only where nothing else sets the key.
    pub is_fallback: bool,
}

impl Flag {
    /// A flag that wins over every other layer.
    pub fn new(key: &'static str, values: Vec<String>) -> Self {
        Self { key, values, is_fallback: false }
    }
}

impl Layers {
    /// `named_by` is the flag or variable that named the file.
    pub fn read_file(&mut self, path: &Path, named_by: &ConfigLocation) {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let text = format!(
                    "cannot read the configuration file {}: {error}; name a file that can be read, or make one with \
                     `reduct-sink config example`",
                    in_full(path)
                );
                self.unreadable = true;
                return self.problems.push(ConfigProblem::at(named_by, "", text));
            }
        };
        self.folder = path.parent().unwrap_or(Path::new("")).into();
        self.read_toml(&path.display().to_string(), &bytes);
    }

    /// `name` is what messages call the file.
    pub fn read_toml(&mut self, name: &str, bytes: &[u8]) {
        let path: Arc<str> = name.into();
        let location = |offset: usize| ConfigLocation::File {
            path: path.clone(),
            line: bytes.iter().take(offset).filter(|byte| **byte == b'\n').count() + 1,
        };
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let here = location(error.valid_up_to());
                self.unreadable = true;
                return self.problems.push(ConfigProblem::at(&here, "", "not valid TOML: the text isn't UTF-8"));
            }
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            self.unreadable = true;
            let remedy = match name.rsplit_once('.') {
                Some((_, "yaml" | "yml" | "json")) => {
                    "; a configuration is TOML, `reduct-sink config example` prints one"
                }
                _ => "",
            };
            let problems = errors.iter().map(|error| {
                let here = location(error.span().map_or(0, |span| span.start));
                ConfigProblem::at(&here, "", format!("not valid TOML: {}{remedy}", error.message()))
            });
            return self.problems.extend(problems);
        }
        let mut values = LayerValues::new();
        self.read_table("", root.get_ref(), &mut values, &location);
        self.values.extend(values);
    }

    pub(super) fn read_table(
        &mut self,
        table: &str,
        entries: &DeTable<'_>,
        values: &mut LayerValues,
        location: &impl Fn(usize) -> ConfigLocation,
    ) {
        for (name, value) in entries {
            let path = if table.is_empty() { name.to_string() } else { format!("{table}.{}", name.get_ref()) };
            let here = location(name.span().start);
            match (key_table::kind(&path), value.get_ref()) {
                (_, _) if path == PIPELINES && self.is_pipeline => {
                    let text = "a pipeline has no pipelines of its own; write [pipelines.NAME] at the top of the file";
                    self.problems.push(ConfigProblem::at(&here, path, text));
                }
                (_, found) if path == PIPELINES => self.read_pipelines(found, &here, location),
                (None, _) => {
                    let near = key_table::misspelt(table, name.get_ref());
                    self.misspelt.extend(near.map(|near| format!("{table}.{near}")));
                    self.problems.push(ConfigProblem::at(&here, path, key_table::suggest(table, name.get_ref())));
                }
                (Some(PathKind::Table), DeValue::Table(inner)) => self.read_table(&path, inner, values, location),
                (Some(PathKind::Properties), DeValue::Table(inner)) => self.read_properties("", inner, location),
                (Some(PathKind::Plugins), DeValue::Array(items)) => {
                    self.plugins = Some(self.read_list("plugins", items.iter(), location));
                }
                (Some(PathKind::Attachments), DeValue::Array(items)) => {
                    self.attachments = Some(self.read_list("attachments", items.iter(), location));
                }
                (Some(PathKind::Value(key)), _) => match ConfigValue::from_toml(value, location) {
                    Ok(found) => drop(values.insert(key.path, found)),
                    Err(problem) => self.problems.push(ConfigProblem { key: path, ..problem }),
                },
                (Some(kind), _) => {
                    let expected = match kind {
                        PathKind::Plugins => "[[plugins]] tables",
                        PathKind::Attachments => "[[attachments]] tables",
                        _ => "a table",
                    };
                    let found = ConfigValue::from_toml(value, location).map(|found| found.value.to_string());
                    let found = found.unwrap_or_else(|_| "something else".into());
                    self.misspelt.push(path.clone());
                    self.problems.push(ConfigProblem::at(&here, path, format!("found {found}, expected {expected}")));
                }
            }
        }
    }

    fn read_list<'a>(
        &mut self,
        list: &str,
        items: impl Iterator<Item = &'a Spanned<DeValue<'a>>>,
        location: &impl Fn(usize) -> ConfigLocation,
    ) -> Vec<TableOfList> {
        let mut tables = Vec::new();
        for item in items {
            let here = location(item.span().start);
            if let DeValue::Table(entries) = item.get_ref() {
                let mut values = LayerValues::new();
                self.read_table(list, entries, &mut values, location);
                tables.push(TableOfList { values, location: here });
            } else {
                let found = ConfigValue::from_toml(item, location).map(|found| found.value.to_string());
                let found = found.unwrap_or_else(|_| "something else".into());
                let each = if list == "plugins" { ", each with a `path`" } else { "" };
                let text = format!("found {found}, expected [[{list}]] tables{each}");
                self.problems.push(ConfigProblem::at(&here, list, text));
            }
        }
        tables
    }

    /// An unquoted `security.protocol = …` is a table in a table to TOML, and one name to librdkafka.
    fn read_properties(&mut self, prefix: &str, entries: &DeTable<'_>, location: &impl Fn(usize) -> ConfigLocation) {
        for (name, value) in entries {
            let name = format!("{prefix}{}", name.get_ref());
            // `private.key.file = "key.pem"` is a table with the one key `file` to TOML, too.
            let names_file = FILE_PROPERTIES.contains(&format!("{name}.file").as_str());
            if let DeValue::Table(inner) = value.get_ref()
                && (names_file
                    || !ConfigValue::from_toml(value, location).is_ok_and(|found| is_reference(&found.value)))
            {
                self.read_properties(&format!("{name}."), inner, location);
                continue;
            }
            match ConfigValue::from_toml(value, location) {
                Ok(found) => {
                    let here = found.location.clone();
                    if self.properties.insert(name.clone(), found).is_some() {
                        self.problems.push(ConfigProblem::at(&here, format!("kafka.properties.{name}"), "set twice"));
                    }
                }
                Err(problem) => {
                    self.problems.push(ConfigProblem { key: format!("kafka.properties.{name}"), ..problem });
                }
            }
        }
    }

    /// A variable that is empty counts as not set, as a compose file leaves it.
    pub fn read_environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        let mut variables: Vec<_> = variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
            .collect();
        variables.sort();
        for (name, value) in variables {
            let location = ConfigLocation::Environment(name.clone());
            let Ok(value) = value.into_string() else {
                self.problems.push(ConfigProblem::at(&location, "", "the value isn't UTF-8"));
                continue;
            };
            let suffix = name.strip_prefix(PREFIX).unwrap_or_default();
            if let Some(property) = name.strip_prefix(PROPERTY_PREFIX) {
                let property = property.to_lowercase().replace('_', ".");
                self.properties.insert(property, ConfigValue::text(value, location));
            } else if let Some(key) = keys().find(|key| key.env == Some(suffix)) {
                let several = matches!(key.takes, Takes::Texts(_) | Takes::Plugins);
                let values = if several { value.split(',').map(String::from).collect() } else { vec![value] };
                self.set(key, values, location);
            } else if !COMMAND_LINE.contains(&name.as_str()) && !set_by_kubernetes(suffix) {
                let known: Vec<String> = key_table::variables().collect();
                let near = key_table::nearest(&name, known.iter().map(String::as_str));
                let near = near.map_or(String::new(), |near| format!(", did you mean {near}?"));
                self.warnings.push(format!("{location}: not known{near}"));
            }
        }
    }

    pub fn read_flags(&mut self, flags: Vec<Flag>) {
        for Flag { key, values, is_fallback } in flags {
            let Some((key, flag)) = key_table::row(key).and_then(|row| Some((row, row.flag?))) else {
                self.problems.push(ConfigProblem {
                    location: None,
                    key: key.into(),
                    text: "no flag sets this key".into(),
                });
                continue;
            };
            let location = ConfigLocation::Flag(flag.name);
            if is_fallback && matches!(key.takes, Takes::Plugins) {
                // The chain isn't asked for, so it doesn't matter what the file says of it.
                self.plugins = Some(Vec::new());
            } else if is_fallback {
                let text = values.into_iter().next_back().unwrap_or_default();
                self.fallbacks.insert(key.path, ConfigValue::text(text, location));
            } else {
                self.set(key, values, location);
            }
        }
    }

    /// Sets a key to a text, or to a list of them.
    fn set(&mut self, key: &'static Key, texts: Vec<String>, location: ConfigLocation) {
        match key.takes {
            Takes::Properties => {
                for text in texts {
                    match text.split_once('=') {
                        Some((name, value)) => {
                            self.properties
                                .insert(name.trim().into(), ConfigValue::text(value.trim(), location.clone()));
                        }
                        None => self.problems.push(ConfigProblem::at(
                            &location,
                            "kafka.properties",
                            "found no `=`, expected NAME=VALUE",
                        )),
                    }
                }
            }
            Takes::Plugins => {
                let plugin = |path: String| TableOfList {
                    values: LayerValues::from([("plugins.path", ConfigValue::text(path.trim(), location.clone()))]),
                    location: location.clone(),
                };
                self.plugins = Some(texts.into_iter().map(plugin).collect());
                self.plugins_set_by = Some(location);
            }
            Takes::Texts(_) => {
                let items = texts.iter().map(|text| ConfigValue::text(text.trim(), location.clone())).collect();
                self.values
                    .insert(key.path, ConfigValue { value: Value::List(items), location, origin: Origin::Literal });
            }
            _ => {
                self.values.extend(texts.into_iter().map(|text| (key.path, ConfigValue::text(text, location.clone()))));
            }
        }
    }
}

/// Kubernetes describes a service called `reduct-sink` by variables of these names.
fn set_by_kubernetes(suffix: &str) -> bool {
    suffix.starts_with("SERVICE_") || suffix == "PORT" || suffix.starts_with("PORT_")
}
