//! What reduct-cli can ask for: ranges of time and patterns of entries. It has no conditions.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Stored, process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Bench;
use super::clients::{installed, script};

/// Exports everything by a pattern of entries, and then the records at some places, none of which is the first or the last,
/// with their neighbours and alone.
pub fn read_around(bench: &Bench, shapes: &[usize]) -> Result<()> {
    let folder = process::data_folder("readers-cli")?;
    let mut expected: Vec<&[Stored]> = vec![&bench.stored];
    for at in shapes {
        for range in [at - 1..at + 2, *at..at + 1] {
            expected.push(bench.stored.get(range).context("a range")?);
        }
    }
    let mut calls = Vec::new();
    for (at, records) in expected.iter().enumerate() {
        let (first, last) = (records.first().context("a record")?, records.last().context("a record")?);
        let entries = if at == 0 { format!("{}*", bench.entry) } else { bench.entry.clone() };
        let (start, stop) = (first.timestamp_us.to_string(), (last.timestamp_us + 1).to_string());
        let to = folder.path().join(at.to_string());
        make_folders(&to, &bench.entry)?;
        calls.push(export(bench, &to, &["--start", &start, "--stop", &stop, "--entries", &entries]));
    }
    let output = run(bench, &calls)?;
    ensure!(output.status.success(), "reduct-cli: {}", told(&output));
    for (at, records) in expected.iter().enumerate() {
        are_exported(&folder.path().join(at.to_string()).join(&bench.entry), records)?;
    }
    Ok(())
}

/// What reduct-cli leaves to its user: the folders above that of an entry with a `/` in its name.
pub fn make_folders(to: &Path, entry: &str) -> Result<()> {
    let folder = to.join(entry);
    Ok(std::fs::create_dir_all(folder.parent().context("a folder above")?)?)
}

/// The arguments of an export to a folder.
pub fn export(bench: &Bench, to: &Path, more: &[&str]) -> Vec<String> {
    let (from, to) = (format!("store/{}", bench.config.bucket()), to.display().to_string());
    let all = [&["export", "folder", &*from, &*to], more, &["--ext", "bin", "--with-metadata"]].concat();
    all.into_iter().map(Into::into).collect()
}

/// Runs reduct-cli once for each of the lists of arguments, up to the first that fails.
pub fn run(bench: &Bench, calls: &[Vec<String>]) -> Result<Output> {
    let folder = process::data_folder("readers-cli")?;
    let (plan, config) = (folder.path().join("plan.json"), folder.path().join("cli.toml"));
    let alias = ["alias", "add", "store", "--url", &bench.bed.store.url(), "--token", ""].map(String::from).to_vec();
    let calls = [&[alias], calls].concat();
    std::fs::write(&plan, json!({ "config": config, "calls": calls }).to_string())?;
    Ok(Command::new(installed()?.join("bin/python")).arg(script("reader_cli.py")).arg(&plan).output()?)
}

pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// An error unless the folder holds these records, as they are stored, and no other.
pub fn are_exported(folder: &Path, records: &[Stored]) -> Result<()> {
    // A payload and its metadata.
    let files = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?.count();
    ensure!(files == 2 * records.len(), "{files} files for {} records: {:?}", records.len(), records.first());
    records.iter().try_for_each(|stored| is_exported(folder, stored))
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
