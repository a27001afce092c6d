//! Compares the answers to wrong configurations with golden files: `reduct-sink check --offline` gets
//! `host/tests/config/NAME.toml`, and its standard error must be `NAME.stderr` beside it (and its standard output
//! `NAME.stdout`, if there is that file).
//!
//! The first lines of a case may give `# flags: …`, `# environment: NAME=VALUE …` (`\n` is a line break), `# exit:
//! CODE` (the default is 2) and `# command: …` for another command, which gets no `--config`. In the golden files
//! FOLDER stands for the folder of the cases and TIME for a time. With `UPDATE_GOLDEN=1` in the environment the test
//! writes the golden files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use similar::TextDiff;

#[test]
fn each_mistake_gets_its_exit_code_place_and_remedy() {
    let cases = cases();
    assert!(cases.len() >= 75, "only {} cases were found", cases.len());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differences = Vec::new();
    for case in &cases {
        let output = check(case);
        let expected_exit = directive(&text(case), "exit").map_or(2, |code| code.parse().unwrap());
        if output.status.code() != Some(expected_exit) {
            differences.push(format!("{}: {}, expected exit code {expected_exit}", case.display(), output.status));
        }
        for (extension, bytes) in [("stderr", &output.stderr), ("stdout", &output.stdout)] {
            let (golden, found) = (case.with_extension(extension), without_places_and_times(bytes));
            let expected = std::fs::read_to_string(&golden).unwrap_or_default();
            if update && !found.is_empty() {
                std::fs::write(&golden, found.as_bytes()).unwrap();
            } else if expected != found {
                let diff = TextDiff::from_lines(expected.as_str(), &found);
                let name = golden.file_name().unwrap().to_string_lossy();
                differences.push(diff.unified_diff().header(&name, "found").to_string());
            }
        }
    }
    assert!(differences.is_empty(), "{}\nwith UPDATE_GOLDEN=1 these become the expected", differences.join("\n"));
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn cases() -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    cases.sort();
    cases
}

/// The output, without the paths and times that differ between machines and users.
fn without_places_and_times(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace(&folder().display().to_string(), "FOLDER");
    let text: String = text.split_inclusive('\n').filter(|line| !line.contains("has root's rights")).collect();
    let is_time = |word: &&str| word.len() == 27 && word.ends_with('Z') && word.contains('T');
    let times: Vec<String> = text.split_whitespace().filter(is_time).map(String::from).collect();
    times.iter().fold(text, |text, time| text.replace(time, "TIME"))
}

/// Runs a case without the environment of the person who runs the tests.
fn check(case: &Path) -> Output {
    let text = text(case);
    let flags = directive(&text, "flags").unwrap_or_default();
    let environment = directive(&text, "environment").unwrap_or_default();
    let words = directive(&text, "command");
    let mut command = Command::new(env!("CARGO_BIN_EXE_reduct-sink"));
    command.current_dir(folder()).env_clear().args(words.unwrap_or("check --offline").split_whitespace());
    let variables = environment.split_whitespace().filter_map(|variable| variable.split_once('='));
    command.args(flags.split_whitespace()).envs(variables.map(|(name, value)| (name, value.replace("\\n", "\n"))));
    if !flags.contains("--config") && words.is_none() {
        command.arg("--config").arg(case.file_name().unwrap());
    }
    command.output().unwrap()
}

fn text(case: &Path) -> String {
    std::fs::read_to_string(case).unwrap()
}

/// The text after `# NAME:` in the comments at the beginning of a case.
fn directive<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let comments = text.lines().map_while(|line| line.strip_prefix("# "));
    comments.filter_map(|comment| comment.strip_prefix(name)?.strip_prefix(": ")).next()
}
