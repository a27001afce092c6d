//! Tests ten typical mistakes in each language: the reason of the failure names the mistake, and its file and line if
//! the language knows them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reduct_sink::chain::Outcome;
use reduct_sink_testbed::figures;

use super::guests::{chain, component, header, record};

/// Each language with the file that makes the mistakes, and the name of the file in the reasons.
const LANGUAGES: [(&str, &str, &str); 8] = [
    ("c", "plugin.c", "plugin.c"),
    ("cpp", "plugin.cpp", "plugin.cpp"),
    ("go", "transformer/plugin.go", "plugin.go"),
    ("javascript", "plugin.js", "plugin.js"),
    ("python", "app.py", "app.py"),
    ("rust", "src/lib.rs", "src/lib.rs"),
    ("typescript", "plugin.ts", "plugin.ts"),
    ("zig", "plugin.zig", "plugin.zig"),
];

const MISTAKES: usize = 10;

struct Mistake {
    name: String,
    /// What the reason must contain.
    texts: Vec<String>,
}

#[test]
fn a_reason_names_the_mistake_in_every_language() -> Result<()> {
    let mut problems = Vec::new();
    for (language, file, called) in LANGUAGES {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("causes").join(language).join(file);
        let mistakes = mistakes(&source, called)?;
        ensure!(mistakes.len() == MISTAKES, "{} makes {} mistakes", source.display(), mistakes.len());
        let mut chain = chain(&component("causes", language), &["{}".into()])?;
        let before = problems.len();
        for Mistake { name, texts } in mistakes {
            let record = record(vec![header("mistake", name.clone())], "payload");
            match chain.transform(&Arc::new(record)) {
                Outcome::DeadLetter(failure) if texts.iter().all(|text| failure.reason.contains(text)) => {}
                other => problems.push(format!("{language}: {name}: expected {texts:?}: {other:?}")),
            }
        }
        figures::record(&format!("causes_{language}"), (MISTAKES + before - problems.len()) as f64)?;
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// The mistakes that the file's comments describe; see tests/causes/README.md.
fn mistakes(source: &Path, called: &str) -> Result<Vec<Mistake>> {
    let text = std::fs::read_to_string(source).with_context(|| source.display().to_string())?;
    let mistakes = text.lines().zip(1..).filter_map(|(line, number)| {
        let (place, comment) = ["//", "#"].into_iter().find_map(|comment| {
            let named = |sign| line.split_once(&format!("{comment}{sign} ")).map(|(_, behind)| behind);
            named("=").map(|text| (Some(format!("({called}:{number})")), text)).or(named("~").map(|text| (None, text)))
        })?;
        let (name, text) = comment.split_once(": ")?;
        Some(Mistake { name: name.into(), texts: std::iter::once(text.into()).chain(place).collect() })
    });
    Ok(mistakes.collect())
}
