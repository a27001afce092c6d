//! Runs every command of the documents: the blocks marked `sh`, in order, each document in a folder of its own.
//!
//! Guarantees: a failed command is reported with its document; a block of commands without the mark is an error, and so
//! is a command that is neither run here nor listed in [`RUN_ELSEWHERE`]. The suite `newcomer` runs the pages of the
//! languages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Bed, Message, Sink, bed, process, sink, unique};

/// The commands that are not run here: how each begins, and what runs it instead.
const RUN_ELSEWHERE: &[(&str, &str)] = &[
    ("cargo build", "every run of tests/run builds the host"),
    ("cargo install", "installs a tool from outside"),
    ("cargo deny", "the workflow CI"),
    (".ci/sbom", "the suite install"),
    ("tests/run", "this is tests/run"),
    ("tests/results/generate", "the suite lint"),
    ("UPDATE_GOLDEN", "writes the files that the suite unit compares"),
    ("examples/quickstart/run", "the suite quickstart"),
    ("plugins/build", "every run of tests/run builds the plugins; the suite unit runs --tests"),
    ("cd plugins && cargo build", "plugins/build runs the same"),
    ("reduct-sink plugin push", "the suite install pushes to a registry of its own"),
    ("reduct-sink plugin componentize", "plugins/build runs the same"),
    ("examples/packaging/", "the suite install"),
    ("sudo ", "changes the machine"),
    ("apt-get ", "changes the machine"),
    ("systemctl ", "needs an installed service"),
    ("journalctl ", "needs an installed service"),
    ("docker ", "needs a container runtime"),
    ("kubectl ", "needs a cluster"),
    ("pip install", "tests/setup installs the same"),
    ("npm install", "tests/setup installs the same"),
    ("rustup ", "tests/setup installs the same"),
];

/// How the project's own commands begin. A block with such a line must be marked `sh`.
const COMMANDS: &[&str] =
    &["reduct-sink ", "target/release/reduct-sink ", "cargo ", "tests/run", "plugins/build", "curl "];

#[test]
fn every_command_can_be_run() -> Result<()> {
    let bed = bed()?;
    let stage = Stage::new(bed)?;
    let mut problems = Vec::new();
    let mut commands = 0;
    for document in documents()? {
        let text = fs::read_to_string(root().join(&document))?;
        problems.extend(unmarked(&text).map(|line| format!("{document}: mark the block of `{line}` with sh")));
        let script = runnable(&text);
        let count = script.lines().count();
        if count > 0 {
            commands += count;
            if let Err(error) = stage.run(&script) {
                problems.push(format!("{document}: {error:#}"));
            }
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n\n"));
    ensure!(commands >= 10, "only {commands} commands were found");
    Ok(())
}

/// The documents with commands, by their paths from the repository's root.
fn documents() -> Result<Vec<String>> {
    let mut documents: Vec<String> = [
        "README.md",
        "tests/README.md",
        "plugins/README.md",
        "plugins/TOOLS.md",
        "wit/README.md",
        "examples/README.md",
    ]
    .map(str::to_owned)
    .into();
    for folder in [".github", "host/docs", "plugins", "examples/quickstart", "examples/packaging"] {
        let Ok(entries) = fs::read_dir(root().join(folder)) else { continue };
        for entry in entries {
            let path = entry?.path();
            let page = if path.is_dir() { path.join("README.md") } else { path };
            if page.extension().is_some_and(|extension| extension == "md") && page.is_file() {
                documents.push(page.strip_prefix(root())?.display().to_string());
            }
        }
    }
    documents.sort();
    documents.dedup();
    Ok(documents)
}

/// The lines of the blocks with this mark.
fn blocks<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    let (mut lines, mut inside) = (Vec::new(), None);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(_), Some(_)) => inside = None,
            (Some(begin), None) => inside = Some(begin == mark),
            (None, Some(true)) => lines.push(line),
            _ => {}
        }
    }
    lines
}

fn unmarked(text: &str) -> impl Iterator<Item = &str> {
    let is_command = |line: &&str| COMMANDS.iter().any(|command| line.starts_with(command));
    // A line of a program's output may begin with the program's name, too; it continues with a sentence.
    blocks(text, "").into_iter().filter(is_command).filter(|line| !line.contains(" was ") && !line.contains(": "))
}

/// The commands of a document that are run here, each on one line.
fn runnable(text: &str) -> String {
    let joined = blocks(text, "sh").join("\n").replace("\\\n", " ");
    let elsewhere = |line: &&str| !RUN_ELSEWHERE.iter().any(|(begin, _)| line.trim_start().starts_with(begin));
    let lines = joined.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    lines.filter(elsewhere).map(|line| format!("{line}\n")).collect()
}

/// What the commands need: servers with topics and records, a running host, a configuration, and the programs.
struct Stage {
    brokers: String,
    url: String,
    status: String,
    bucket: String,
    programs: PathBuf,
    _folder: tempfile::TempDir,
    _host: Sink,
}

impl Stage {
    fn new(bed: &Bed) -> Result<Self> {
        let kafka = bed.kafka.client();
        for topic in ["camera", "frames", "robots", "TOPIC"] {
            // It is there already where the test runs once more on the Kafka that the suites share.
            if let Err(error) = kafka.create_topic(topic, 1) {
                ensure!(error.to_string().contains("TopicAlreadyExists"), "{error:#}");
            }
            let record = |n: u32| Message::new(format!("{{\"frame\": {n}}}")).key("left").header("type", "frame");
            kafka.produce(topic, (0..2_000).map(record))?;
        }
        let folder = process::data_folder("documents")?;
        let programs = folder.path().join("bin");
        fs::create_dir(&programs)?;
        let wrapper = programs.join("reduct-sink");
        fs::write(&wrapper, WRAPPER)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        let status = format!("127.0.0.1:{}", process::free_port()?);
        let config = bed.sink_config("camera").set("status.listen", &*status);
        let mut host = Sink::start(&config)?;
        host.wait_caught_up(&kafka, config.group(), &["camera"], std::time::Duration::from_secs(120))?;
        Ok(Self {
            brokers: bed.kafka.brokers(),
            url: bed.store.url(),
            status,
            bucket: config.bucket().to_owned(),
            programs,
            _folder: folder,
            _host: host,
        })
    }

    /// Runs the commands of one document in a new folder.
    fn run(&self, script: &str) -> Result<()> {
        let folder = process::data_folder("document")?;
        let root = root();
        for name in ["examples", "plugins", "wit", "host"] {
            std::os::unix::fs::symlink(root.join(name), folder.path().join(name))?;
        }
        fs::write(folder.path().join("sink.toml"), self.config())?;
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH")?);
        let output = Command::new("bash")
            .args(["-euxo", "pipefail", "-c", &self.adapted(script)])
            .current_dir(folder.path())
            .env("PATH", path)
            .env("REAL_REDUCT_SINK", sink::binary()?)
            .env("REDUCT_SINK_URL", &self.url)
            .env("REDUCT_SINK_STATUS_LISTEN", &self.status)
            .env("REDUCT_SINK_CACHE_PATH", folder.path().join("cache"))
            .env("REDUCT_SINK_GROUP", unique("documents"))
            .env("TOOLS", process::cache()?.join("languages"))
            .stdin(Stdio::null())
            .output()
            .context("can't start bash")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(25).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        ensure!(output.status.success(), "a command failed ({}):\n{}", output.status, last.join("\n"));
        Ok(())
    }

    /// The commands with the addresses of the test's servers in place of those in the documents.
    fn adapted(&self, script: &str) -> String {
        let host = self.url.trim_start_matches("http://");
        let addresses = [
            ("target/release/reduct-sink", "reduct-sink"),
            ("HOST:9092", &self.brokers),
            ("127.0.0.1:9092", &self.brokers),
            ("localhost:9092", &self.brokers),
            ("HOST:8383", host),
            ("127.0.0.1:8383", host),
            ("localhost:8383", host),
            ("127.0.0.1:9640", &self.status),
            ("localhost:9640", &self.status),
            ("--bucket BUCKET", "--bucket documents"),
        ];
        addresses.iter().fold(script.to_owned(), |script, (from, to)| script.replace(from, to))
    }

    fn config(&self) -> String {
        format!(
            "[kafka]\nbrokers = \"{}\"\ntopics = [\"camera\"]\n\n[store]\nurl = \"{}\"\nbucket = \"{}\"\n",
            self.brokers, self.url, self.bucket
        )
    }
}

/// Runs the host, with two differences. `run` is stopped when it works, and must then end well. A new Python project
/// gets the toolchain that is installed.
const WRAPPER: &str = r#"#!/usr/bin/env bash
set -euo pipefail
case "$*" in
*--dry-run*) exec "$REAL_REDUCT_SINK" "$@" ;;
"run --help") exec "$REAL_REDUCT_SINK" "$@" ;;
"run "*)
    REDUCT_SINK_STATUS_LISTEN=127.0.0.1:$((21000 + RANDOM % 9000)) "$REAL_REDUCT_SINK" "$@" >log 2>&1 &
    host=$!
    for _ in $(seq 600); do
        if grep -q running log; then kill -TERM $host && wait $host && exit 0 || { cat log >&2; exit 1; }; fi
        kill -0 $host 2>/dev/null || { cat log >&2; exit 1; }
        sleep 0.1
    done
    kill -KILL $host
    cat log >&2
    exit 1
    ;;
"plugin new --lang python "*)
    "$REAL_REDUCT_SINK" "$@"
    tools=$(ls -d "$TOOLS"/python-* | head -n 1)
    ln -s "$tools" "${!#}/.venv"
    ;;
*) exec "$REAL_REDUCT_SINK" "$@" ;;
esac
"#;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
