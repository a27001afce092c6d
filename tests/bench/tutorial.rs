//! (e) The tutorial's consumer in Python, with its own clients. It writes one entry, into a bucket with the server's
//! default settings, as in the tutorial.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use reduct_sink_testbed::process::{self, Process};
use reduct_sink_testbed::unique;
use sha2::{Digest, Sha256};

use crate::bed::Bench;
use crate::held::{Rate, Watched, watch};
use crate::plan::Size;

pub fn run(bench: &Bench, size: &Size, bucket: &str, topic: &str) -> Result<Rate> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/tutorial_consumer.py");
    let mut command = Command::new(python()?);
    command.arg(script).args([bench.kafka.brokers(), topic, &unique("group"), &bench.url, bucket]);
    let mut consumer = Process::spawn("the tutorial's consumer", command, &process::new_log("tutorial")?)?;
    let watched: Vec<Watched> =
        bench.servers.into_iter().chain([Watched { name: "python", pid: consumer.pid() }]).collect();
    let rate = watch(bench, bucket, size.tutorial_records, &watched, || consumer.expect_running())?;
    consumer.kill9()?;
    Ok(rate)
}

/// Where `tests/setup python` puts the environment.
fn python() -> Result<PathBuf> {
    let digest = Sha256::digest(include_bytes!("../tutorial/requirements.txt"));
    let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let python = process::cache()?.join(format!("tutorial-{short}/bin/python"));
    ensure!(python.is_file(), "the tutorial's clients aren't in {}: run tests/setup python", python.display());
    Ok(python)
}
