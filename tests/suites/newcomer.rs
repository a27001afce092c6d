//! Does in each language what a new user does: from an empty folder, by `plugin new`, `build` and `test`, to a changed
//! label in ReductStore after a swap, and on to the line of a deliberate mistake. Records how long each step takes.
//!
//! `tests/setup languages` installs the toolchains.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::Process;
use reduct_sink_testbed::sink::{binary, run_to_end};
use reduct_sink_testbed::{KafkaClient, Message, Sink, bed, figures, process, read_back, unique};

/// How long one step may take: on a busy machine Rust's first build takes minutes if the standard library is built,
/// too.
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

#[tokio::test(flavor = "multi_thread")]
async fn cpp() -> Result<()> {
    first_plugin("cpp", "plugin.cpp").await
}

#[tokio::test(flavor = "multi_thread")]
async fn zig() -> Result<()> {
    first_plugin("zig", "plugin.zig").await
}

/// `plugin dev` with a running host: a version whose fixtures fail isn't installed there, one whose fixtures pass is,
/// and the host's answer is printed.
#[tokio::test(flavor = "multi_thread")]
async fn dev_hands_what_passed_to_a_running_host() -> Result<()> {
    let bed = bed()?;
    let empty = tempfile::tempdir()?;
    let folder = empty.path().join("first");
    let path = folder.display().to_string();
    command(&["plugin", "new", "--lang", "c", &path])?;
    command(&["plugin", "build", &path])?;
    // The host runs a copy of the component in another folder, as an operator would install it.
    let installed = empty.path().join("installed.wasm");
    fs::copy(folder.join("build/first.wasm"), &installed)?;

    let topic = unique("newcomer-dev");
    let kafka = bed.kafka.client();
    kafka.create_topic(&topic, 1)?;
    let status = format!("127.0.0.1:{}", process::free_port()?);
    let config = bed.sink_config(&topic).set("status.listen", &*status).plugin("first", &installed, "")?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", BOUND)?;

    let log = process::new_log("plugin-dev")?;
    let mut dev = Command::new(binary()?);
    dev.args(["plugin", "dev", &path, "--into", &status]);
    let mut dev = Process::spawn("plugin dev", dev, &log)?;
    // Waits until the output after the first `after` bytes contains `text`. Returns that output and the length of all
    // output.
    let mut said = |text: &str, after: usize| {
        process::wait_for(&format!("plugin dev to say {text:?}"), BOUND, || {
            let all = fs::read_to_string(&log)?;
            dev.expect_running()?;
            let new = all.get(after..).unwrap_or_default();
            Ok(new.contains(text).then(|| (new.to_owned(), all.len())))
        })
        .with_context(|| format!("it says:\n{}", process::tail(&log, 40)))
    };
    let (text, mut seen) = said("watching", 0)?;
    ensure!(text.contains("is at work in"), "the first version is the host's: {text}");

    let source = folder.join("plugin.c");
    let change = |from: &str, to: &str| -> Result<()> {
        let text = fs::read_to_string(&source)?;
        ensure!(text.contains(from), "{} has no {from}", source.display());
        Ok(fs::write(&source, text.replace(from, to))?)
    };
    // The fixtures expect another label.
    change("size_class", "size_group")?;
    let (text, end) = said("watching", seen)?;
    seen = end;
    ensure!(
        text.contains("changed: plugin.c") && text.contains("-size_class") && text.contains("+size_group"),
        "{text}"
    );
    ensure!(text.contains(&format!("{status} keeps the version that it has")), "{text}");
    // This version doesn't compile.
    change("static uint64_t", "static no_type")?;
    let (text, end) = said("watching", seen)?;
    seen = end;
    ensure!(text.contains("FAILED") && !sink.log()?.contains("swapped"), "{text}");

    // This version is right again, and its new answers are accepted below.
    change("static no_type", "static uint64_t")?;
    seen = said("watching", seen)?.1;
    let fresh = folder.join("build/new/first.wasm").display().to_string();
    let started = Instant::now();
    // With `--update` the differences are accepted, and the exit code is 0.
    command(&["plugin", "test", &path, "--plugin", &fresh, "--update"])?;
    let (text, _) = said("watching", seen)?;
    figures::record("newcomer_s_dev_hand_over", started.elapsed().as_secs_f64())?;
    ensure!(text.contains("handed  version") && text.contains("at work"), "{text}");
    kafka.produce(&topic, [Message::new("frame").header("type", "frame")])?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    assert_eq!(stored.iter().filter(|record| record.label("size_group") == Some("small")).count(), 1);
    dev.stop(BOUND)?;
    sink.stop_cleanly()
}

#[test]
fn dev_tells_what_happens_as_json() -> Result<()> {
    let empty = tempfile::tempdir()?;
    let folder = empty.path().join("first");
    let path = folder.display().to_string();
    command(&["plugin", "new", "--lang", "c", &path])?;
    let output = empty.path().join("events");
    let mut dev = Command::new(binary()?);
    dev.args(["plugin", "dev", &path, "--json"]).stdout(fs::File::create(&output)?).stderr(std::process::Stdio::null());
    let mut dev = dev.spawn()?;
    let source = folder.join("plugin.c");
    let events = |wanted: &str, times: usize| {
        process::wait_for(&format!("{times} {wanted}"), BOUND, || {
            let text = fs::read_to_string(&output)?;
            // The last line may be half written.
            let lines = text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
            let events = lines.map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>()?;
            let found = events.iter().filter(|event| event["event"] == wanted).count();
            Ok((found >= times).then_some(events))
        })
    };
    let checked = (|| {
        let first = events("watching", 1)?;
        ensure!(first.iter().any(|event| event["event"] == "built"), "{first:?}");
        ensure!(first.iter().any(|event| event["failed"] == 0), "{first:?}");
        fs::write(&source, fs::read_to_string(&source)?.replace("static uint64_t", "static no_type"))?;
        let second = events("watching", 2)?;
        ensure!(second.iter().any(|event| event["files"][0] == "plugin.c"), "{second:?}");
        let failed = second.iter().find(|event| event["event"] == "failed").context("a failure")?;
        ensure!(failed["error"]["code"].is_string(), "{failed}");
        Ok(())
    })();
    dev.kill()?;
    dev.wait()?;
    checked
}

#[test]
fn dev_says_at_once_what_is_wrong_with_the_host() -> Result<()> {
    let empty = tempfile::tempdir()?;
    let path = empty.path().join("first").display().to_string();
    command(&["plugin", "new", "--lang", "c", &path])?;
    let nobody = format!("127.0.0.1:{}", process::free_port()?);
    let ended = run_to_end(&["plugin", "dev", &path, "--into", &nobody], &[], BOUND)?;
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.code() == Some(4) && errors.contains(&format!("no host answers at {nobody}")), "{errors}");
    Ok(())
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
    unit_tests(language, &folder)?;
    steps.took("unit_tests")?;
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

    // A deliberate mistake: until its author reads what and where it is.
    let Fault { head, line, told } = fault(language)?;
    let changed = fs::read_to_string(&file)?;
    let at = changed.lines().position(|line| line.contains("size_group")).context("the label's line")?;
    let mut lines: Vec<&str> = changed.lines().collect();
    lines.insert(at, line);
    lines.splice(0..0, head.iter().copied());
    fs::write(&file, lines.join("\n"))?;
    command(&["plugin", "build", &path])?;
    process::wait_for("the version with the mistake", BOUND, || {
        sink.process().expect_running()?;
        Ok((sink.log()?.matches("swapped").count() > 1).then_some(()))
    })?;
    kafka.produce(&topic, [Message::new("frame").header("type", "frame")])?;
    let record = format!("topic={topic} partition=0 offset=2");
    let place = told.replace("LINE", &(at + head.len() + 1).to_string());
    sink.wait_log(&record, BOUND)?;
    let log = sink.log()?;
    let reason = log.lines().find(|line| line.contains(&record)).context("the record's line")?;
    ensure!(reason.contains("deliberate") && reason.contains(&place), "no {place:?} in {reason}");
    steps.took("fault_to_its_line")?;
    sink.stop_cleanly()
}

/// A mistake for the line before the label's.
struct Fault {
    /// Lines for the file's begin.
    head: &'static [&'static str],
    line: &'static str,
    /// What the reason must contain, with LINE for the number of the line.
    told: &'static str,
}

fn fault(language: &str) -> Result<Fault> {
    let (head, line, told): (&[&str], _, _) = match language {
        "rust" => (&[], "if config.large_bytes > 0 { panic!(\"deliberate\") }", "(src/lib.rs:LINE)"),
        "python" => (&[], "        raise ValueError(\"deliberate\")", "(app.py:LINE)"),
        "javascript" => (&[], "if (sizeClass) throw new Error(\"deliberate\");", "(plugin.js:LINE)"),
        "typescript" => (&[], "if (sizeClass) throw new Error(\"deliberate\");", "(plugin.ts:LINE)"),
        "go" => (&[], "if size != \"\" { panic(\"deliberate\") }", "(plugin.go:LINE)"),
        "c" => (&["#include <assert.h>"], "assert(!\"deliberate\");", "(plugin.c:LINE)"),
        "cpp" => (&["#include <cassert>"], "assert(!\"deliberate\");", "(plugin.cpp:LINE)"),
        "zig" => (&[], "if (settings.large_bytes > 0) @panic(\"deliberate\");", "(plugin.zig:LINE)"),
        _ => anyhow::bail!("no mistake in {language}"),
    };
    Ok(Fault { head, line, told })
}

/// Records the time of each step as a figure.
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

/// Runs the unit tests with the command that the new folder's README gives.
fn unit_tests(language: &str, folder: &Path) -> Result<()> {
    let readme = fs::read_to_string(folder.join("README.md"))?;
    let line = readme.lines().find(|line| line.contains("# the unit tests")).context("the README has no unit tests")?;
    let said = Command::new("sh").args(["-ec", line]).current_dir(folder).output()?;
    let text = [said.stdout, said.stderr].concat();
    ensure!(said.status.success(), "{language}: {line}\n{}", String::from_utf8_lossy(&text));
    Ok(())
}

/// Links the installed packages into the new folder, in place of the README's `pip install` and `npm install`.
fn use_what_is_installed(language: &str, folder: &Path) -> Result<()> {
    let (part, link) = match language {
        "python" | "zig" | "cpp" => ("", folder.join(".venv")),
        "javascript" | "typescript" => ("node_modules", folder.join("node_modules")),
        _ => return Ok(()),
    };
    std::os::unix::fs::symlink(installed(language)?.join(part), link)?;
    Ok(())
}

/// The folder into which `tests/setup languages` has installed what the example pins.
fn installed(language: &str) -> Result<PathBuf> {
    let (language, pins) = match language {
        "cpp" => ("zig", "requirements.txt"),
        "python" | "zig" => (language, "requirements.txt"),
        _ => (language, "package.json"),
    };
    let pins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(language).join(pins);
    let sum = Command::new("sha256sum").arg(pins).output()?.stdout;
    let sum = String::from_utf8(sum)?;
    let folder = process::cache()?.join("languages").join(format!("{language}-{}", sum.get(..12).context("a sum")?));
    ensure!(folder.is_dir(), "{language}'s toolchain isn't installed: run tests/setup languages");
    Ok(folder)
}
