//! From the layers of a configuration to its pipelines: each is validated by itself, then all of them beside each other.
//!
//! Guarantees: everything that is wrong is reported at once, and what several pipelines inherit once; a warning that concerns
//! all pipelines is given once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::layers::Layers;
use super::pipelines::{Pipelines, choose, separate};
use super::problem::{ConfigLocation, ConfigProblem, ConfigProblems};
use super::{LoadOutcome, overlap, substitute, validate, warnings};

/// From the layers to the pipelines and their warnings. `wanted`: the only one that is asked for.
pub(super) fn assemble(
    mut layers: Layers,
    environment: &BTreeMap<String, String>,
    file: Option<&Path>,
    wanted: Option<&str>,
) -> LoadOutcome {
    substitute::substitute(&mut layers, environment);
    let mut warnings = Warnings { found: std::mem::take(&mut layers.warnings), by_pipeline: Vec::new() };
    if layers.unreadable {
        return LoadOutcome { warnings: warnings.all(0), config: Err(ConfigProblems::new(layers.problems)) };
    }
    let mut problems = std::mem::take(&mut layers.problems);
    let locations: Vec<ConfigLocation> =
        layers.pipelines.iter().flatten().map(|pipeline| pipeline.location.clone()).collect();
    let (mut configs, mut secret_files, mut risks) = (Vec::new(), Vec::new(), Vec::new());
    for pipeline in separate(layers, &mut problems) {
        let (layers, own) = pipeline.part();
        let token = layers.values.get("store.token");
        warnings.add(None, warnings::of_texts(&layers.properties, token));
        let with_secret = file.filter(|_| warnings::holds_secret(&layers.properties, token));
        secret_files.extend(with_secret.map(Path::to_owned));
        match validate::validate(layers, own.name.as_ref()) {
            Ok(config) => {
                risks.push((own.name.clone(), [warnings::of_config(&config), own.warnings(&config)].concat()));
                secret_files.extend(config.files.iter().cloned());
                configs.push(config);
            }
            Err(found) => {
                for problem in found.into_iter().map(|problem| own.named(problem)) {
                    // What is inherited is wrong once, not once for each pipeline.
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
            }
        }
    }
    if problems.is_empty() {
        problems.extend(overlap::conflicts(&configs, &locations));
        risks.into_iter().for_each(|(name, texts)| warnings.add(name.as_deref(), texts));
        warnings.add(None, overlap::warnings(&configs));
        secret_files.sort();
        secret_files.dedup();
        warnings.add(None, warnings::of_files(secret_files.iter().map(PathBuf::as_path)));
    }
    validate::keep_own_files(&mut configs, file);
    let number = configs.len();
    let chosen = match problems.is_empty() {
        true => choose(configs, wanted, file).map_err(ConfigProblems::from),
        false => Err(ConfigProblems::new(problems)),
    };
    let config = chosen.and_then(|configs| {
        let nothing = || ConfigProblem { location: None, key: "pipelines".into(), text: "found no pipeline".into() };
        Pipelines::new(configs).ok_or_else(|| nothing().into())
    });
    LoadOutcome { warnings: warnings.all(number), config }
}

/// Warnings of all pipelines: what concerns every one of them is said once.
struct Warnings {
    found: Vec<String>,
    by_pipeline: Vec<(String, Vec<String>)>,
}

impl Warnings {
    fn add(&mut self, pipeline: Option<&str>, texts: Vec<String>) {
        for text in texts {
            let Some(pipeline) = pipeline else {
                if !self.found.contains(&text) {
                    self.found.push(text);
                }
                continue;
            };
            match self.by_pipeline.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) => names.push(pipeline.to_owned()),
                None => self.by_pipeline.push((text, vec![pipeline.to_owned()])),
            }
        }
    }

    /// `number`: how many pipelines there are.
    fn all(self, number: usize) -> Vec<String> {
        let told = |(text, names): (String, Vec<String>)| match names.len() {
            several if several == number => text,
            1 => format!("pipeline {}: {text}", names.concat()),
            _ => format!("pipelines {}: {text}", names.join(", ")),
        };
        self.found.into_iter().chain(self.by_pipeline.into_iter().map(told)).collect()
    }
}
