//! The clients in Python and JavaScript, as they are published, and what a client returned.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use reduct_sink_testbed::{Stored, process};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Labels and 85 records need more than the 16 KiB of headers that Node.js reads unless it is told otherwise.
pub const NODE_OPTIONS: &str = "--max-http-header-size=1048576";

/// A record as a client returned it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Read {
    pub entry: String,
    pub time: u64,
    pub labels: BTreeMap<String, String>,
    #[serde(rename = "type")]
    pub content_type: String,
    pub size: usize,
    pub sha256: String,
}

impl From<&Stored> for Read {
    fn from(stored: &Stored) -> Self {
        Self {
            entry: stored.entry.clone(),
            time: stored.timestamp_us,
            labels: stored.labels.clone(),
            content_type: stored.content_type.clone(),
            size: stored.size,
            sha256: hex(&stored.sha256),
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a question was answered with.
#[derive(Debug, Deserialize)]
pub struct Answer {
    pub id: String,
    pub records: Vec<Read>,
}

/// A client that reads as a plan asks, in a process of its own.
pub struct Client(Vec<PathBuf>);

impl Client {
    pub fn python() -> Result<Self> {
        Ok(Self(vec![installed()?.join("bin/python"), script("reader.py")]))
    }

    /// Node.js finds packages beside the script.
    pub fn javascript() -> Result<Self> {
        let copy = installed()?.join("reader.mjs");
        let fresh = copy.with_extension(format!("{}.mjs", std::process::id()));
        std::fs::copy(script("reader.mjs"), &fresh)?;
        std::fs::rename(&fresh, &copy)?;
        Ok(Self(vec!["node".into(), copy]))
    }

    pub fn ask(&self, url: &str, bucket: &str, entry: &str, questions: &[Value]) -> Result<Vec<Answer>> {
        let folder = process::data_folder("readers")?;
        let plan = folder.path().join("plan.json");
        let text = json!({ "url": url, "bucket": bucket, "entry": entry, "questions": questions }).to_string();
        std::fs::write(&plan, text)?;
        let (program, arguments) = self.0.split_first().context("a program")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(&plan).env("NODE_OPTIONS", NODE_OPTIONS);
        let output = command.output().with_context(|| format!("can't start {}", program.display()))?;
        if !output.status.success() {
            bail!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
        }
        let lines = String::from_utf8(output.stdout)?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

pub fn script(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/readers")).join(name)
}

/// The folder into which `tests/setup readers` has installed the clients.
pub fn installed() -> Result<PathBuf> {
    let files =
        [&include_bytes!("../../readers/requirements.txt")[..], &include_bytes!("../../readers/package.json")[..]];
    let digest = hex(&Sha256::digest(files.concat())[..6]);
    let path = process::cache()?.join(format!("readers-{digest}"));
    ensure!(path.exists(), "the clients aren't in {}: run tests/setup readers", path.display());
    Ok(path)
}
