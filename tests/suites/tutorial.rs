//! Runs the tutorial as its reader does: with the Python clients of Kafka and ReductStore, and the host with the
//! passthrough between them.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reduct_sink_testbed::{Sink, bed, figures, process, unique};
use sha2::{Digest, Sha256};

const COUNT: u32 = 200;
const CATCH_UP: Duration = Duration::from_secs(240);

#[test]
fn the_tutorials_reader_finds_every_blob() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (topic, folder) = (unique("tutorial"), process::data_folder("tutorial")?);
    let manifest = folder.path().join("manifest.jsonl").display().to_string();
    let count = COUNT.to_string();
    let (brokers, url) = (bed.kafka.brokers(), bed.store.url());
    python(&["produce", "--brokers", &brokers, "--topic", &topic, "--manifest", &manifest, "--count", &count])?;

    let config = bed.sink_config(&topic);
    let verify = ["verify", "--url", &url, "--bucket", config.bucket(), "--topic", &topic, "--manifest", &manifest];
    let start = Instant::now();
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    figures::record("tutorial_records_per_s", f64::from(COUNT) / start.elapsed().as_secs_f64())?;
    sink.stop_cleanly()?;
    python(&verify)?;

    // A new group reads everything again from the earliest offset, and no record is stored twice.
    let again = config.clone().set("kafka.group", unique("group"));
    let mut sink = Sink::start(&again)?;
    sink.wait_caught_up(&kafka, again.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    python(&verify)
}

/// The interpreter of the virtual environment that `tests/setup python` made for these requirements.
fn interpreter() -> Result<PathBuf> {
    let requirements = Sha256::digest(include_bytes!("../tutorial/requirements.txt"));
    let digest: String = requirements.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let path = process::cache()?.join(format!("tutorial-{digest}/bin/python"));
    ensure!(path.exists(), "the tutorial's clients aren't in {}: run tests/setup python", path.display());
    Ok(path)
}

fn python(args: &[&str]) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tutorial/tutorial.py");
    let output = Command::new(interpreter()?).arg(script).args(args).output().context("can't start Python")?;
    if !output.status.success() {
        bail!("tutorial.py {}: {}", args[0], String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
