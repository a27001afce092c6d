//! What reduct-cli can ask for: ranges of time and patterns of entries. It has no conditions.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Stored, process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Bench, installed, script};

/// Exports everything by a pattern of entries, and then the first, middle and last record of an answer and the record alone
/// around each of the shapes, which stand at odd places.
pub fn read_by_cli(bench: &Bench) -> Result<usize> {
    read_around(bench, &(1..bench.stored.len()).step_by(2).collect::<Vec<_>>())
}

/// The same for the records at some places, none of which is the first or the last.
pub fn read_around(bench: &Bench, shapes: &[usize]) -> Result<usize> {
    let folder = process::data_folder("readers-cli")?;
    let from = format!("store/{}", bench.config.bucket());
    let mut expected: Vec<&[Stored]> = vec![&bench.stored];
    for at in shapes {
        for range in [*at..at + 2, at - 1..at + 2, at - 1..at + 1, *at..at + 1] {
            expected.push(bench.stored.get(range).context("a range")?);
        }
    }
    let mut calls = vec![json!(["alias", "add", "store", "--url", bench.bed.store.url(), "--token", ""])];
    let folder_of = |at: usize| folder.path().join(at.to_string());
    for (at, records) in expected.iter().enumerate() {
        let (first, last) = (records.first().context("a record")?, records.last().context("a record")?);
        let entries = if at == 0 { format!("{}*", bench.entry) } else { bench.entry.clone() };
        let (start, stop) = (first.timestamp_us.to_string(), (last.timestamp_us + 1).to_string());
        let to = folder_of(at).display().to_string();
        let range = ["--start", &start, "--stop", &stop, "--entries", &entries, "--ext", "bin", "--with-metadata"];
        calls.push(json!([&["export", "folder", &from, &to][..], &range].concat()));
    }
    let plan = folder.path().join("plan.json");
    let config = folder.path().join("cli.toml");
    std::fs::write(&plan, json!({ "config": config, "calls": calls }).to_string())?;
    let output = Command::new(installed()?.join("bin/python")).arg(script("reader_cli.py")).arg(&plan).output()?;
    let told = || String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "reduct-cli: {}", told());
    for (at, records) in expected.iter().enumerate() {
        let folder = folder_of(at).join(&bench.entry);
        // A payload and its metadata.
        let files = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?.count();
        ensure!(files == 2 * records.len(), "{files} files for {} records: {:?}", records.len(), records.first());
        for stored in *records {
            is_exported(&folder, stored)?;
        }
    }
    Ok(shapes.len())
}

fn is_exported(folder: &Path, stored: &Stored) -> Result<()> {
    let file = folder.join(stored.timestamp_us.to_string());
    let payload = std::fs::read(file.with_extension("bin"))?;
    let told: Value = serde_json::from_slice(&std::fs::read(file.with_extension("json"))?)?;
    let labels: BTreeMap<String, String> = serde_json::from_value(told["labels"].clone())?;
    ensure!(labels == stored.labels, "{labels:?}, wanted {:?}", stored.labels);
    ensure!(told["content_type"] == stored.content_type.as_str(), "{told}, wanted {stored:?}");
    ensure!(Sha256::digest(&payload)[..] == stored.sha256, "other bytes of {stored:?}");
    Ok(())
}
