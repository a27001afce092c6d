//! Tests every language: the conformance cases, the examples, and the cost of a record. `tests/conformance/build` makes
//! the guests.

mod cases;
mod causes;
mod costs;
mod examples;
mod guests;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reduct_sink::chain::{Chain, SharedChain};
use reduct_sink_testbed::figures;

use cases::{Cases, Load};
use guests::{chain, component, languages, plugin, runtime};

/// Each language has a thread of its own. Most of the time goes into compiling, which uses both cores anyway.
#[test]
fn every_language_passes_every_case() -> Result<()> {
    let cases = cases::read()?;
    ensure!(cases.case.len() + cases.load.len() >= 60, "too few cases");
    let languages = languages()?;
    let problems: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> =
            languages.iter().map(|language| (language, scope.spawn(|| problems_of(language, &cases)))).collect();
        let of_each = running.into_iter().flat_map(|(language, thread)| match thread.join() {
            Ok(Ok(problems)) => problems,
            Ok(Err(error)) => vec![format!("{language}: {error:#}")],
            Err(_) => vec![format!("{language}: panicked")],
        });
        of_each.collect()
    });
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// The cases that this language's guest fails. Records how many it passes.
fn problems_of(language: &str, cases: &Cases) -> Result<Vec<String>> {
    let file = component("conformance", language);
    let mut chains: BTreeMap<&[String], Chain> = BTreeMap::new();
    let mut problems = Vec::new();
    for case in &cases.case {
        if !chains.contains_key(&*case.configs) {
            chains.insert(&case.configs, chain(&file, &case.configs)?);
        }
        let chain = chains.get_mut(&*case.configs).context("just put there")?;
        for record in case.before() {
            chain.transform(&Arc::new(record));
        }
        if let Err(problem) = case.check(&chain.transform(&Arc::new(case.record()))) {
            problems.push(format!("{language}: {}: {problem:#}", case.name));
        }
    }
    for load in &cases.load {
        if let Err(problem) = check_load(language, load) {
            problems.push(format!("{language}: {}: {problem:#}", load.name));
        }
    }
    let passed = cases.case.len() + cases.load.len() - problems.len();
    figures::record(&format!("conformance_{language}"), passed as f64)?;
    Ok(problems)
}

fn check_load(language: &str, load: &Load) -> Result<()> {
    let plugin = plugin("refused", &component("conformance", language), &load.config);
    match SharedChain::load(runtime(), &[plugin]) {
        Ok(_) => anyhow::bail!("it loads"),
        Err(error) => {
            let text = error.to_string();
            ensure!(text.contains(&load.error), "the error is {text:?}");
            Ok(())
        }
    }
}
