//! What the tests of plugins share: a chain of guests, each in its own file, records for it, and the log lines that it
//! writes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reduct_sink::chain::{Chain, Outcome, PluginFailure, SharedChain};
use reduct_sink::config::{PluginConfig, PluginSource};
use reduct_sink::plugin::{LoadError, Runtime};
use reduct_sink::record::{Header, InputRecord, OutputRecord, TopicPartition};
use tempfile::TempDir;

pub struct Bed {
    pub folder: TempDir,
    pub plugins: Vec<PluginConfig>,
}

impl Bed {
    /// A chain of these guests, named `a`, `b` … in order.
    pub fn of(guests: &[&[u8]]) -> Self {
        let mut bed = Self { folder: tempfile::tempdir().unwrap(), plugins: Vec::new() };
        for (name, guest) in ('a'..).zip(guests) {
            bed = bed.with(&name.to_string(), guest, |_| {});
        }
        bed
    }

    /// Adds a guest at the chain's end.
    pub fn with(mut self, name: &str, guest: &[u8], adjust: impl FnOnce(&mut PluginConfig)) -> Self {
        let path = self.folder.path().join(format!("{name}.wasm"));
        fs::write(&path, guest).unwrap();
        let mut plugin = plugin(name, PluginSource::File(path));
        adjust(&mut plugin);
        self.plugins.push(plugin);
        self
    }

    pub fn path(&self, index: usize) -> PathBuf {
        match &self.plugins[index].source {
            PluginSource::File(path) => path.clone(),
            PluginSource::Builtin | PluginSource::Remote(_) => panic!("plugin {index} has no file"),
        }
    }

    pub fn shared(&self) -> Arc<SharedChain> {
        SharedChain::load(runtime(), &self.plugins).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn chain(&self) -> Chain {
        Chain::new(self.shared()).unwrap()
    }
}

/// The runtime, one for all tests, as in the host.
pub fn runtime() -> Arc<Runtime> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).clone()
}

/// Far more than any call takes on a machine that is busy with other tests: what ends a call is what the test is about.
/// Tests that wait for the time limit itself take [`SHORT`].
pub const PATIENCE: Duration = Duration::from_secs(300);
/// A time limit that a test waits for.
pub const SHORT: Duration = Duration::from_millis(200);

pub fn plugin(name: &str, source: PluginSource) -> PluginConfig {
    PluginConfig { timeout: PATIENCE, memory_bytes: 16 << 20, ..PluginConfig::new(name, source) }
}

/// The error with which the host refuses to load a file with these bytes.
pub fn load_error(bytes: &[u8]) -> LoadError {
    let bed = Bed::of(&[bytes]);
    match runtime().load(&bed.plugins[0]) {
        Ok(loaded) => panic!("{loaded:?} loaded"),
        Err(error) => error,
    }
}

pub fn input(offset: u64) -> Arc<InputRecord> {
    Arc::new(record(offset))
}

pub fn record(offset: u64) -> InputRecord {
    InputRecord {
        source: TopicPartition { topic: "line.7".into(), partition: 2 },
        topic_id: None,
        offset,
        timestamp_ms: Some(1_700_000_000_000),
        key: Some(Bytes::from_static(b"key")),
        headers: vec![header(b"type", Some(b"binary")), header(b"size", Some(b"10"))],
        payload: Some(Bytes::from_static(b"0123456789")),
    }
}

pub fn header(key: &'static [u8], value: Option<&'static [u8]>) -> Header {
    Header { key: Bytes::from_static(key), value: value.map(Bytes::from_static) }
}

pub fn outputs(outcome: Outcome) -> Vec<OutputRecord> {
    match outcome {
        Outcome::Outputs(outputs) => outputs,
        other => panic!("{other:?}"),
    }
}

pub fn output(outcome: Outcome) -> OutputRecord {
    let mut outputs = outputs(outcome);
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    outputs.remove(0)
}

pub fn dead_letter(outcome: Outcome) -> PluginFailure {
    match outcome {
        Outcome::DeadLetter(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// The label of that name, as it would be stored.
pub fn label(output: &OutputRecord, name: &str) -> Option<String> {
    reduct_sink::record::labels::LabelRules::default().record_labels(output).remove(name)
}

/// Whether this process runs the test of this name and no other, so that what is measured of the process is the test's own. If not,
/// the test runs in such a process now, and fails here if it fails there.
pub fn runs_alone(test: &str) -> bool {
    let alone = [test, "--exact"];
    if std::env::args().skip(1).take(alone.len()).eq(alone) {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap()).args(alone).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "in a process of its own: {}: {told}", output.status);
    false
}

/// The resident memory of this process, in bytes.
pub fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Waits until `found` returns something; panics after a while.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The log lines so far that contain all of `parts`. All tests share one log, so one of the parts has to be unique to
/// the test.
pub fn logged(parts: &[&str]) -> Vec<String> {
    let log = LOG.lock().unwrap();
    log.iter().filter(|line| parts.iter().all(|part| line.contains(part))).cloned().collect()
}

/// Collects the log lines of the host and of plugins from now on. The compiler would write a hundred times as many.
pub fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("reduct_sink=debug,plugin=debug")
            .with_writer(|| Log)
            .init();
    });
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    /// Gets whole lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend(String::from_utf8_lossy(bytes).lines().map(ToOwned::to_owned));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
