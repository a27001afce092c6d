//! As someone new to it would: from an empty folder, by `plugin new`, `build` and `test`, to a changed label seen in
//! ReductStore through a hot swap, in each language; and how long each step takes.
//!
//! The toolchains are those that `tests/setup languages` installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{KafkaClient, Message, Sink, bed, figures, process, read_back, unique};

/// For one step: on a busy machine Rust's first build takes minutes where the standard library is built too.
const BOUND: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn rust() -> Result<()> {
    first_plugin("rust", "src/lib.rs").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python() -> Result<()> {
    first_plugin("python", "app.py").await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript() -> Result<()> {
    first_plugin("javascript", "plugin.js").await
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript() -> Result<()> {
    first_plugin("typescript", "plugin.ts").await
}

#[tokio::test(flavor = "multi_thread")]
async fn go() -> Result<()> {
    first_plugin("go", "transformer/plugin.go").await
}

#[tokio::test(flavor = "multi_thread")]
async fn c() -> Result<()> {
    first_plugin("c", "plugin.c").await
}

async fn first_plugin(language: &'static str, source: &str) -> Result<()> {
    let bed = bed()?;
    let empty = tempfile::tempdir()?;
    let folder = empty.path().join("first");
    let path = folder.display().to_string();
    let mut steps = Steps { language, since: Instant::now() };
    command(&["plugin", "new", "--lang", language, &path])?;
    steps.took("new")?;
    use_what_is_installed(language, &folder)?;
    steps.since = Instant::now();
    command(&["plugin", "build", &path])?;
    steps.took("build")?;
    command(&["plugin", "test", &path])?;
    steps.took("test")?;

    let topic = unique(&format!("newcomer-{language}"));
    let kafka = bed.kafka.client();
    kafka.create_topic(&topic, 1)?;
    let component = folder.join("build/first.wasm");
    let config = bed.sink_config(&topic).plugin("first", &component, "")?;
    let mut sink = Sink::start(&config)?;
    let client = bed.store.client()?;
    let labels = async |kafka: &KafkaClient, sink: &mut Sink| -> Result<(usize, usize)> {
        kafka.produce(&topic, [Message::new("frame").header("type", "frame")])?;
        sink.wait_caught_up(kafka, config.group(), &[&topic], BOUND)?;
        let stored = read_back(&client, config.bucket(), "*").await?;
        let label = |name: &str| stored.iter().filter(|record| record.label(name) == Some("small")).count();
        Ok((label("size_class"), label("size_group")))
    };
    assert_eq!(labels(&kafka, &mut sink).await?, (1, 0), "the label of the plugin as it was made");
    steps.took("first_record")?;

    let file = folder.join(source);
    let text = fs::read_to_string(&file)?;
    ensure!(text.contains("size_class"), "{source} sets no label size_class");
    fs::write(&file, text.replace("size_class", "size_group"))?;
    command(&["plugin", "build", &path])?;
    steps.took("rebuild")?;
    process::wait_for("word of the swap", BOUND, || {
        sink.process().expect_running()?;
        Ok(sink.log()?.contains("swapped").then_some(()))
    })?;
    assert_eq!(labels(&kafka, &mut sink).await?, (1, 1), "the changed label");
    steps.took("swap_to_label")?;
    sink.stop_cleanly()
}

/// The steps' times, as figures.
struct Steps {
    language: &'static str,
    since: Instant,
}

impl Steps {
    fn took(&mut self, step: &str) -> Result<()> {
        figures::record(&format!("newcomer_s_{}_{step}", self.language), self.since.elapsed().as_secs_f64())?;
        self.since = Instant::now();
        Ok(())
    }
}

fn command(args: &[&str]) -> Result<()> {
    let output = run_to_end(args, &[], BOUND)?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "reduct-sink {}:\n{said}{errors}", args.join(" "));
    Ok(())
}

/// In place of `pip install` and `npm install`, which the new folder's README asks for.
fn use_what_is_installed(language: &str, folder: &Path) -> Result<()> {
    let (part, link) = match language {
        "python" => ("", folder.join(".venv")),
        "javascript" | "typescript" => ("node_modules", folder.join("node_modules")),
        _ => return Ok(()),
    };
    std::os::unix::fs::symlink(installed(language)?.join(part), link)?;
    Ok(())
}

/// Where `tests/setup languages` put what the example pins.
fn installed(language: &str) -> Result<PathBuf> {
    let pins = if language == "python" { "requirements.txt" } else { "package.json" };
    let pins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(language).join(pins);
    let sum = Command::new("sha256sum").arg(pins).output()?.stdout;
    let sum = String::from_utf8(sum)?;
    let folder = process::cache()?.join("languages").join(format!("{language}-{}", sum.get(..12).context("a sum")?));
    ensure!(folder.is_dir(), "{language}'s toolchain isn't installed: run tests/setup languages");
    Ok(folder)
}
