//! The three transforms of `examples/README.md`: the same answers in every language.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reduct_sink::chain::{Chain, Outcome, SharedChain};
use reduct_sink::record::OutputRecord;

use super::guests::{chain, component, header, languages, plugin, record, runtime};

/// What comes of a payload: a line an output (entry, content type, labels, payload), or what else became of it.
const LABEL: &[(&str, &str)] = &[
    (r#"{"camera": "left", "line": 7, "ok": true}"#, r#"cameras/left application/json line=7 ok=true"#),
    (r#"{"ok": false, "line": -3, "camera": "a/b"}"#, r#"cameras/a/b application/json line=-3 ok=false"#),
    (r#" { "camera" : "left" , "other" : [1, {"camera": 2}, null] } "#, r#"cameras/left application/json"#),
    (r#"{"camera": "l\u0065ft", "line": null}"#, r#"cameras/left application/json"#),
    (r#"{"camera": "left", "line": 9007199254740991}"#, r#"cameras/left application/json line=9007199254740991"#),
    (r#"{"camera": "no entry's name"}"#, "failed: illegal entry"),
    (r#"{"line": 7}"#, "failed: camera"),
    (r#"{"camera": 5}"#, "failed: "),
    (r#"{"camera": "left", "line": "7"}"#, "failed: "),
    (r#"{"camera": "left", "line": 1.5}"#, "failed: "),
    (r#"{"camera": "left", "ok": 1}"#, "failed: "),
    (r#"{"camera": "left""#, "failed: JSON"),
    (r#"{"camera": "left"} and more"#, "failed: JSON"),
    (r#"{"camera": left}"#, "failed: JSON"),
    ("", "failed: JSON"),
    ("no JSON", "failed: JSON"),
    ("[1, 2]", "failed: "),
];

const SPLIT: &[(&str, &str)] = &[
    ("{\"a\": 1}\n[2, 3]\n\"four\"", "part=0 {\"a\": 1}\npart=1 [2, 3]\npart=2 \"four\""),
    ("1\n\n2\n", "part=0 1\npart=1 2"),
    ("true", "part=0 true"),
    ("", "dropped"),
    ("\n\n", "dropped"),
    ("1\n2\nthree\n4", "failed: line 3"),
    ("1\n{\"a\": }", "failed: line 2"),
    ("1\n2 3", "failed: line 2"),
    ("NaN", "failed: line 1"),
];

#[test]
fn the_examples_answer_alike_in_every_language() -> Result<()> {
    let mut problems = Vec::new();
    for language in languages()? {
        let file = component("example", &language);
        if !file.is_file() {
            continue;
        }
        let drop = r#"{"transform": "drop", "header": "type", "value": "heartbeat"}"#;
        let mut drops = chain(&file, &[drop.into()])?;
        for (headers, expected) in [
            (vec![header("type", "heartbeat")], "dropped"),
            (vec![header("size", "1"), header("type", "image"), header("type", "heartbeat")], "dropped"),
            (vec![header("type", "heartbeats"), header("Type", "heartbeat")], "as it is"),
            (vec![], "as it is"),
        ] {
            check(&mut problems, &language, expected, drops.transform(&Arc::new(record(headers, "x"))));
        }
        for (name, cases) in [("label", LABEL), ("split", SPLIT)] {
            let mut chain: Chain = chain(&file, &[format!(r#"{{"transform": "{name}"}}"#)])?;
            for (payload, expected) in cases {
                let outcome = chain.transform(&Arc::new(record(Vec::new(), *payload)));
                check(&mut problems, &format!("{language}: {name} of {payload:?}"), expected, outcome);
            }
        }
        let unknown = plugin("unknown", &file, r#"{"transform": "dance"}"#);
        let error = SharedChain::load(runtime(), &[unknown]).err().map(|error| error.to_string());
        if !error.as_ref().is_some_and(|error| error.contains("drop") && error.contains("split")) {
            problems.push(format!("{language}: an unknown transform is answered with {error:?}"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

fn check(problems: &mut Vec<String>, what: &str, expected: &str, outcome: Outcome) {
    let found = match outcome {
        Outcome::Outputs(outputs) => outputs.iter().map(told).collect::<Vec<_>>().join("\n"),
        Outcome::Dropped => "dropped".into(),
        Outcome::DeadLetter(failure) => format!("failed: {}", failure.reason),
        other => format!("{other:?}"),
    };
    let good = match expected.strip_prefix("failed: ") {
        Some(word) => found.starts_with("failed: ") && found.contains(word),
        None => found == expected,
    };
    if !good {
        problems.push(format!("{what}: expected {expected:?}, found {found:?}"));
    }
}

fn told(output: &OutputRecord) -> String {
    let mut words: Vec<String> = [&output.entry, &output.content_type].into_iter().flatten().cloned().collect();
    let labels = output.labels.iter().filter_map(|label| Some(format!("{}={}", label.name, label.value.as_ref()?)));
    words.extend(labels);
    words.extend(output.payload.iter().map(|payload| String::from_utf8_lossy(payload).into_owned()));
    if words.is_empty() { "as it is".into() } else { words.join(" ") }
}
