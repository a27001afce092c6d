//! The quick start: starts real servers and the host, produces blobs with headers, swaps the passthrough for another
//! plugin while records flow, and shows what ReductStore holds.
//!
//! Guarantees: no process is left running and no data is left behind, however the run ends (only SIGKILL leaves data);
//! what the run shows was compared with what Kafka acknowledged: each record once, bit for bit, with the labels that
//! the active version makes; the exit code is 0 only if all of this was true, otherwise the run names what failed.

mod check;
mod feed;
mod flow;
mod report;
mod screen;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reduct_sink_testbed::process::data_folder;
use reduct_sink_testbed::{Kafka, Sink, SinkConfig, Store, kafka, sink, store};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::check::{Version, check, labels_of_passthrough, labels_of_relabel};
use crate::feed::Feed;
use crate::flow::Flow;
use crate::screen::Screen;

const TOPIC: &str = "cameras";
const PARTITIONS: i32 = 4;
const BUCKET: &str = "quickstart";
/// The plugin's name in the chain, which labels and logs show.
const PLUGIN: &str = "labels";
const RELABEL_CONFIG: &str = include_str!("../relabel.toml");
/// How many records must arrive under each version.
const RECORDS: usize = 600;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let result = quick_start();
    while INTERRUPTED.load(Ordering::SeqCst) {
        // Another thread is ending the process, so an error at this moment means only that the servers are being
        // stopped.
        thread::park();
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe quick start failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn quick_start() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(relabel), None) = (arguments.next(), arguments.next()) else {
        bail!("usage: quickstart RELABEL.wasm (examples/quickstart/run builds that and calls this)");
    };
    let relabel = fs::read(&relabel).with_context(|| format!("cannot read the plugin {}", relabel.display()))?;
    let passthrough = passthrough()?;
    let versions @ [before, after] = &[
        Version { what: "passthrough", mark: mark(&passthrough), labels: labels_of_passthrough },
        Version { what: "relabel", mark: mark(&relabel), labels: labels_of_relabel },
    ];

    let started = Instant::now();
    let runtime = Runtime::new()?;
    end_when_interrupted(&runtime)?;
    let mut screen = Screen::new();

    screen.progress("starting Apache Kafka …");
    let kafka = Kafka::start()?;
    let client = kafka.client();
    client.create_topic(TOPIC, PARTITIONS)?;
    screen.say(&format!(
        "Apache Kafka {} at {}: topic {TOPIC}, {PARTITIONS} partitions",
        kafka::version()?,
        kafka.brokers()
    ));
    screen.progress("starting ReductStore …");
    let store = Store::start()?;
    screen.say(&format!("ReductStore {} at {}: bucket {BUCKET}", store::VERSION, store.url()));

    let folder = data_folder("plugin")?;
    let plugin = folder.path().join("plugin.wasm");
    put_in_place(&plugin, &passthrough)?;
    let config = SinkConfig::new(&kafka.brokers(), &store.url(), BUCKET)
        .topics(&[TOPIC])
        .plugin(PLUGIN, &plugin, RELABEL_CONFIG)
        .context("relabel.toml")?;
    screen.say(&format!("reduct-sink run: plugin.wasm is the passthrough, {}", before.mark));
    let sink = Sink::start(&config)?;

    let feed = Feed::start(&client, TOPIC, PARTITIONS)?;
    let mut flow = Flow { screen, runtime, kafka, store, sink, feed };
    flow.until_arrived(versions, 0, RECORDS)?;
    put_in_place(&plugin, &relabel)?;
    flow.screen.say(&format!("mv relabel.wasm plugin.wasm, while records flow: it is relabel now, {}", after.mark));
    flow.until_arrived(versions, 1, RECORDS)?;
    let (blobs, stored, mut screen) = flow.finish(config.group())?;

    let rows = check(&blobs, &stored, versions)?;
    screen.say(&report::table(&rows, versions));
    screen.say(&report::verdict(blobs.len(), started.elapsed()));
    screen.say(&report::your_own_servers(&sink::binary()?));
    Ok(())
}

/// The component that is embedded in the host.
fn passthrough() -> Result<Vec<u8>> {
    let output = sink::run_to_end(&["plugin", "passthrough"], &[], Duration::from_secs(20))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "reduct-sink plugin passthrough ended with {}: {error}", output.status);
    Ok(output.stdout)
}

/// The beginning of the label `sink.plugins` on records that this file of the plugin handled.
fn mark(plugin: &[u8]) -> String {
    let digest = Sha256::digest(plugin);
    let digits: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{PLUGIN}@{digits}")
}

/// Replaces the plugin's file at once: writes another file beside it and renames that.
fn put_in_place(plugin: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = plugin.with_extension("new");
    fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, plugin)).context("cannot put the plugin in place")
}

/// Ends the process at SIGINT or SIGTERM as at its normal end: the test bed stops the servers and removes their data.
fn end_when_interrupted(runtime: &Runtime) -> Result<()> {
    let _inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    runtime.spawn(async move {
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("\ninterrupted: stopping Kafka, ReductStore and reduct-sink");
        std::process::exit(code);
    });
    Ok(())
}
