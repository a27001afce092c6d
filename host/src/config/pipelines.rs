//! `[pipelines.NAME]`: several pipelines in one file.
//!
//! Guarantees: a pipeline has what its table sets, and for every other key what the top of the file (or the environment, or
//! a flag) sets; librdkafka's properties are inherited one by one, the chain of plugins and the attachments as a whole. A key
//! that excludes an inherited one takes its place. What holds for the whole process can't be set in a pipeline, and what a
//! pipeline sets can't be set by the environment or a flag as well: it would be a guess which of them is meant.

use std::path::Path;
use std::sync::Arc;

use toml::de::DeValue;

use super::key_table::{self, PIPELINES, is_of_process};
use super::layers::{LayerValues, Layers, PipelineTable};
use super::problem::{ConfigLocation, ConfigProblem};
use super::value::ConfigValue;
use super::{Config, overlap};

/// The longest name: it is a label of each metric and a part of addresses.
const LONGEST_NAME: usize = 64;

/// The pipelines of a configuration: one without a name, or those of `[pipelines]`. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipelines(Vec<Config>);

impl Pipelines {
    /// `None`: there is none.
    pub(super) fn new(configs: Vec<Config>) -> Option<Self> {
        (!configs.is_empty()).then_some(Self(configs))
    }

    /// All of them, in the order of their names.
    pub fn all(&self) -> &[Config] {
        &self.0
    }

    /// Whether they stand in `[pipelines]`, with names.
    pub fn are_named(&self) -> bool {
        self.0.iter().any(|config| config.pipeline.is_some())
    }

    /// Their names, separated by commas.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.0.iter().filter_map(|config| config.pipeline.as_deref()).collect();
        names.join(", ")
    }

    /// The one of this name.
    pub fn get(&self, name: Option<&str>) -> Option<&Config> {
        self.0.iter().find(|config| config.pipeline.as_deref() == name)
    }

    /// What two of these pipelines share that they must not, in words.
    pub fn conflicts(configs: &[Config]) -> Vec<String> {
        let nowhere = vec![ConfigLocation::Flag("--config"); configs.len()];
        overlap::conflicts(configs, &nowhere).into_iter().map(|problem| problem.text).collect()
    }

    /// What these two must not have in common if their brokers are of one cluster, whatever addresses these have.
    pub fn shared_in_a_cluster(one: &Config, other: &Config) -> Vec<String> {
        overlap::shared_in_a_cluster(one, other)
    }

    /// The only one. With several, the error says which names there are.
    pub fn only(mut self) -> Result<Config, String> {
        match self.0.pop() {
            Some(config) if self.0.is_empty() => Ok(config),
            last => {
                self.0.extend(last);
                let names = self.names();
                Err(format!("the configuration has several pipelines; choose one with --pipeline: {names}"))
            }
        }
    }
}

/// The layers of one pipeline, and what of them stands in its own table.
pub(super) struct PipelineLayers {
    pub name: Option<Arc<str>>,
    pub layers: Layers,
    own: OwnKeys,
}

/// The keys that a pipeline sets itself.
#[derive(Debug, Default)]
struct OwnKeys {
    values: Vec<&'static str>,
    properties: Vec<String>,
    plugins: bool,
    attachments: bool,
}

impl Layers {
    /// Reads `[pipelines]`.
    pub(super) fn read_pipelines(
        &mut self,
        found: &DeValue<'_>,
        here: &ConfigLocation,
        location: &impl Fn(usize) -> ConfigLocation,
    ) {
        let DeValue::Table(tables) = found else {
            let text = "expected tables, [pipelines.NAME] for each pipeline";
            self.misspelt.push(PIPELINES.into());
            return self.problems.push(ConfigProblem::at(here, PIPELINES, text));
        };
        let mut pipelines = Vec::new();
        for (name, value) in tables {
            let (name, here) = (name.get_ref().to_string(), location(name.span().start));
            let path = format!("{PIPELINES}.{name}");
            if !is_name(&name) {
                let text = format!(
                    "a pipeline's name has 1 to {LONGEST_NAME} characters of a-z, 0-9 and `-`, and begins with a letter"
                );
                self.problems.push(ConfigProblem::at(&here, &path, text));
            }
            let DeValue::Table(entries) = value.get_ref() else {
                let text = format!("expected a table: [{path}.kafka], [{path}.store] and so on");
                self.problems.push(ConfigProblem::at(&here, path, text));
                continue;
            };
            let mut own = Self { folder: self.folder.clone(), is_pipeline: true, ..Self::default() };
            let mut values = LayerValues::new();
            own.read_table("", entries, &mut values, location);
            for (key, found) in values.iter().filter(|(key, _)| is_of_process(key)) {
                let text = format!(
                    "this holds for the whole process; set it in [{}] at the top of the file",
                    key.rsplit_once('.').map_or("", |(table, _)| table)
                );
                own.problems.push(ConfigProblem::at(&found.location, *key, text));
            }
            own.values = values;
            self.problems.extend(own.problems.drain(..).map(|problem| in_pipeline(&name, problem)));
            pipelines.push(PipelineTable { name, location: here, own });
        }
        if pipelines.is_empty() && tables.is_empty() {
            let text = "found no pipeline, expected at least one table [pipelines.NAME]";
            self.problems.push(ConfigProblem::at(here, PIPELINES, text));
        }
        pipelines.sort_by(|one: &PipelineTable, other| one.name.cmp(&other.name));
        self.pipelines = Some(pipelines);
    }

    /// What is set here for one pipeline. `problems`: what is set in two places.
    fn with(&self, table: PipelineTable, problems: &mut Vec<ConfigProblem>) -> PipelineLayers {
        let PipelineTable { name, own, .. } = table;
        let mut twice = |key: &str, found: &ConfigLocation| {
            if found.is_text() {
                let text = format!("[{PIPELINES}.{name}] sets {key} or what excludes it, too; set it in one place");
                problems.push(ConfigProblem::at(found, key, text));
            }
        };
        let mut values: LayerValues = self.values.clone();
        for key in own.values.keys() {
            let replaced = values.keys().filter(|inherited| *inherited == key || exclude_each_other(inherited, key));
            let replaced: Vec<&'static str> = replaced.copied().collect();
            for inherited in replaced {
                if let Some(found) = values.remove(inherited) {
                    twice(inherited, &found.location);
                }
            }
        }
        for name in own.properties.keys() {
            if let Some(found) = self.properties.get(name) {
                twice(&format!("kafka.properties.{name}"), &found.location);
            }
        }
        if let (Some(_), Some(location)) = (&own.plugins, &self.plugins_set_by) {
            twice("plugins", location);
        }
        let keys = OwnKeys {
            values: own.values.keys().copied().collect(),
            properties: own.properties.keys().cloned().collect(),
            plugins: own.plugins.is_some(),
            attachments: own.attachments.is_some(),
        };
        values.extend(own.values);
        let properties = self.properties.iter().map(|(name, found)| (name.clone(), found.clone()));
        let layers = Self {
            values,
            properties: properties.chain(own.properties).collect(),
            plugins: own.plugins.or_else(|| self.plugins.clone()),
            attachments: own.attachments.or_else(|| self.attachments.clone()),
            folder: self.folder.clone(),
            misspelt: self.misspelt.iter().cloned().chain(own.misspelt).collect(),
            files: self.files.iter().cloned().chain(own.files).collect(),
            is_pipeline: true,
            ..Self::default()
        };
        PipelineLayers { name: Some(name.into()), layers, own: keys }
    }
}

/// The layers of each pipeline; one without a name where the file has no `[pipelines]`.
pub(super) fn separate(mut layers: Layers, problems: &mut Vec<ConfigProblem>) -> Vec<PipelineLayers> {
    let mut pipelines: Vec<PipelineLayers> = match layers.pipelines.take() {
        Some(tables) => tables.into_iter().map(|table| layers.with(table, problems)).collect(),
        None => {
            let fallbacks = std::mem::take(&mut layers.fallbacks);
            let mut only = PipelineLayers { name: None, layers, own: OwnKeys::default() };
            only.fall_back(&fallbacks);
            return vec![only];
        }
    };
    for pipeline in &mut pipelines {
        pipeline.fall_back(&layers.fallbacks);
    }
    pipelines
}

impl PipelineLayers {
    fn fall_back(&mut self, fallbacks: &LayerValues) {
        for (key, found) in fallbacks {
            self.layers.values.entry(key).or_insert_with(|| ConfigValue::clone(found));
        }
    }

    /// Parts the layers from what is known of their origin.
    pub fn part(self) -> (Layers, PipelineOwn) {
        (self.layers, PipelineOwn { name: self.name, keys: self.own })
    }
}

/// What a pipeline's own table sets.
pub(super) struct PipelineOwn {
    pub name: Option<Arc<str>>,
    keys: OwnKeys,
}

impl PipelineOwn {
    /// Names what stands in the pipeline's own table, or is missing there, by its full path.
    pub fn named(&self, problem: ConfigProblem) -> ConfigProblem {
        match &self.name {
            Some(name) if problem.location.is_none() || self.keys.has(&problem.key) => in_pipeline(name, problem),
            _ => problem,
        }
    }

    /// Secrets of the top of the file that go to an address of the pipeline's own.
    pub fn warnings(&self, config: &Config) -> Vec<String> {
        let mut warnings = Vec::new();
        let sets = |key: &str| self.keys.has(key);
        if sets("store.url") && config.store.token.is_some() && !sets("store.token") && !sets("store.token_file") {
            warnings.push(
                "store.url is the pipeline's own, and the access token is that of the top of the file; set store.token here \
                 if it is another store"
                    .into(),
            );
        }
        let is_inherited = |name: &String| name.contains("password") && !self.keys.properties.contains(name);
        if sets("kafka.brokers") && config.kafka.properties.keys().any(is_inherited) {
            warnings.push(
                "kafka.brokers is the pipeline's own, and the password in kafka.properties is that of the top of the file; \
                 set it here if they are other brokers"
                    .into(),
            );
        }
        warnings
    }
}

impl OwnKeys {
    fn has(&self, key: &str) -> bool {
        let property = key.strip_prefix("kafka.properties.");
        self.values.contains(&key)
            || property.is_some_and(|property| self.properties.iter().any(|name| name == property))
            || (self.plugins && lies_in(key, "plugins"))
            || (self.attachments && lies_in(key, "attachments"))
    }
}

fn lies_in(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn exclude_each_other(one: &str, other: &str) -> bool {
    let excludes = |key: &str| key_table::row(key).and_then(|row| row.excludes);
    excludes(one) == Some(other) || excludes(other) == Some(one)
}

pub(super) fn in_pipeline(name: &str, problem: ConfigProblem) -> ConfigProblem {
    let key = if problem.key.is_empty() { String::new() } else { format!(".{}", problem.key) };
    ConfigProblem { key: format!("{PIPELINES}.{name}{key}"), ..problem }
}

/// A name as plugins' names are, so that it can stand in a label, an address and a log.
fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= LONGEST_NAME && name.chars().all(legal)
}

/// Chooses one of them, or all. `file`: to be named where there are none to choose from.
pub(super) fn choose(
    configs: Vec<Config>,
    wanted: Option<&str>,
    file: Option<&Path>,
) -> Result<Vec<Config>, ConfigProblem> {
    let Some(wanted) = wanted else { return Ok(configs) };
    let location = ConfigLocation::Flag("--pipeline");
    let names: Vec<String> = configs.iter().filter_map(|config| Some(config.pipeline.as_ref()?.to_string())).collect();
    if names.is_empty() {
        let file = file.map_or_else(|| "the configuration".into(), |file| file.display().to_string());
        let text = format!("{file} has no [{PIPELINES}]; leave the flag out");
        return Err(ConfigProblem::at(&location, "", text));
    }
    let chosen: Vec<Config> = configs.into_iter().filter(|one| one.pipeline.as_deref() == Some(wanted)).collect();
    if chosen.is_empty() {
        let text = format!("there is no pipeline {wanted:?}; there are: {}", names.join(", "));
        return Err(ConfigProblem::at(&location, "", text));
    }
    Ok(chosen)
}
