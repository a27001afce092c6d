//! Tests files that can't be loaded as plugins: as the first version (`check` reports all of them), and in place of the
//! active version under load.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Load, Message, Sink, bed, payload, process, read_back, sized, unique};

use super::{CATCH_UP, has_died, note};
use crate::guest::{Guest, component_of};

const KEEP: &str = "(call $keep)";

/// A file in the place of a plugin: its name, how it gets there, and what the host reports about it.
struct Bad {
    name: &'static str,
    what: What,
    told: &'static str,
}

enum What {
    Bytes(Vec<u8>),
    /// A link to this path.
    Link(PathBuf),
    Folder,
    Pipe,
}

fn bad(name: &'static str, told: &'static str, bytes: impl Into<Vec<u8>>) -> Bad {
    Bad { name, told, what: What::Bytes(bytes.into()) }
}

fn all() -> Vec<Bad> {
    let good = Guest::new(KEEP).build();
    let half = good[..good.len() / 2].to_vec();
    let random = |seed: u64, length: usize| {
        let mut state = seed;
        let next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        std::iter::repeat_with(next).take(length).collect::<Vec<u8>>()
    };
    let configure = |body: &str| Guest::new(KEEP).configure(body).build();
    let with_fields = |fields: &str, configure: &str| {
        Guest::new(KEEP).configure(configure).importing(fields, "", "transform").build()
    };
    let foreign = Guest::new(KEEP).importing(
        r#"(import "wasi:keyvalue/store@0.2.0" "fetch" (func))"#,
        "package test:foreign; package wasi:keyvalue@0.2.0 { interface store { fetch: func(); } }
         world foreign { include reduct-sink:transform/transform@0.1.0; import wasi:keyvalue/store@0.2.0; }",
        "foreign",
    );
    let sing = Guest::new(KEEP)
        .importing(r#"(import "reduct-sink:transform/host@0.1.0" "sing" (func))"#, "", "transform")
        .contract("0.1.0", &[("interface host {", "interface host {\n sing: func();")]);
    let other = component_of(
        r#"(module (func (export "test:other/math@1.0.0#seven") (result i32) (i32.const 7)))"#,
        "package test:other@1.0.0; interface math { seven: func() -> u32; } world other { export math; }",
        "other",
    );
    let nothing = component_of("(module)", "package test:nothing; world nothing { }", "nothing");
    let mut bads = vec![
        bad("empty", "is empty", b""),
        bad("text", "is text", b"(component)"),
        bad("executable", "isn't WebAssembly", b"\x7fELF\x02\x01\x01\0"),
        bad("three-bytes", "3 bytes", b"\0as"),
        bad("cut-in-half", "ends too early", half),
        bad("cut-by-a-byte", "ends too early", &good[..good.len() - 1]),
        bad("random", "isn't WebAssembly", [b"\x01\x02", &random(1, 5000)[..]].concat()),
        bad("random-component", "can compile", [&good[..8], &random(2, 5000)[..]].concat()),
        bad("damaged", "can compile", [&good[..8], b"\x01\x05hello", &good[8..]].concat()),
        bad("core-module", "is a core module", Guest::new(KEEP).core_module()),
        bad("no-export", "it exports nothing", nothing),
        bad("other-world", "exports test:other/math@1.0.0", other),
        bad("other-version", "asks for reduct-sink:transform@0.2.0", Guest::new(KEEP).contract("0.2.0", &[])),
        bad("other-shape", "another shape", Guest::new(KEEP).contract("0.1.0", &[("  keep,", "  keep, perhaps,")])),
        bad("unknown-function", "host@0.1.0#sing", sing),
        bad("unknown-import", "wasi:keyvalue/store@0.2.0", foreign.build()),
        bad("trap-in-configure", "trapped in `configure`", configure("unreachable")),
        bad("endless-configure", "stopped while it started", configure("(loop $ever (br $ever)) unreachable")),
        bad(
            "recursive-configure",
            "call stack exhausted",
            with_fields("(func $deep (call $deep) (call $deep))", "(call $deep) (i32.const 0)"),
        ),
        bad("greedy-configure", "memory limit", configure("(drop (memory.grow (i32.const 1000))) unreachable")),
        bad("refusing-configure", "no such site", configure(r#"(call $refuse $"no such site")"#)),
        bad(
            "verbose-configure",
            "refuses its configuration",
            configure("(call $refuse (i32.const 0) (i32.const 200000))"),
        ),
        bad(
            "payload-in-configure",
            "`payload` may only be called during",
            configure("(call $host-payload) (i32.const 0)"),
        ),
        bad(
            "labels-in-configure",
            "`labels` may only be called during",
            configure("(call $host-labels) (i32.const 0)"),
        ),
        bad("entry-in-configure", "`entry` may only be called during", configure("(call $host-entry) (i32.const 0)")),
        bad(
            "type-in-configure",
            "`content-type` may only be called during",
            configure("(call $host-type) (i32.const 0)"),
        ),
        bad(
            "trap-at-start",
            "trapped when it was started",
            with_fields("(func $go unreachable) (start $go)", "(i32.const 0)"),
        ),
        bad(
            "endless-start",
            "stopped while it started",
            with_fields("(func $go (loop $ever (br $ever))) (start $go)", "(i32.const 0)"),
        ),
        bad("large", "bytes, and 100000 are the most", vec![b'x'; 100_001]),
    ];
    for (name, told, what) in [
        // The missing file follows an existing one, so that the host notices that the file is gone.
        ("link-to-nothing", "", What::Link("nothing-there".into())),
        ("link-to-zeros", "not a regular file", What::Link("/dev/zero".into())),
        ("link-to-itself", "", What::Link("plugin.wasm".into())),
        ("folder", "not a regular file", What::Folder),
        ("pipe", "not a regular file", What::Pipe),
    ] {
        bads.push(Bad { name, told, what });
    }
    bads
}

/// Puts the file in the place of the one that is at `path`.
fn put(bad: &Bad, path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    match &bad.what {
        What::Bytes(bytes) => fs::write(path, bytes)?,
        What::Link(to) => symlink(to, path)?,
        What::Folder => fs::create_dir(path)?,
        What::Pipe => {
            let name = std::ffi::CString::new(path.to_str().context("UTF-8")?)?;
            // SAFETY: a plain system call with a text that ends.
            ensure!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) } == 0, "mkfifo");
        }
    }
    Ok(())
}

/// The keys of a plugin with little memory, whose file must be small.
const SMALL: &str = "memory = '8MB'\nlimits.file_size = 100000";

#[test]
fn check_tells_what_is_wrong_with_each_file() -> Result<()> {
    let folder = process::data_folder("bad")?;
    let bads = all();
    let mut config =
        reduct_sink_testbed::SinkConfig::new("127.0.0.1:1", "http://127.0.0.1:1", "none").topics(&["none"]);
    for bad in &bads {
        let path = folder.path().join(bad.name).join("plugin.wasm");
        fs::create_dir(folder.path().join(bad.name))?;
        put(bad, &path)?;
        config = config.plugin_with(bad.name, &path, SMALL)?;
    }
    // This file loads, but its digest isn't the configured one.
    let pinned = folder.path().join("pinned.wasm");
    fs::write(&pinned, Guest::new(KEEP).build())?;
    let pin = format!("{SMALL}\nsha256 = '{}'", "0".repeat(64));
    config = config.plugin_with("pinned", &pinned, &pin)?.set("cache.path", "");
    let file = folder.path().join("sink.toml");
    fs::write(&file, config.text())?;
    let file = file.to_str().context("UTF-8")?;
    let output = run_to_end(&["check", "--offline", "--config", file], &[], CATCH_UP)?;
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{told}");
    for (name, expected) in bads.iter().map(|bad| (bad.name, bad.told)).chain([("pinned", "the sha256")]) {
        let begin = format!("FAILED  plugin `{name}` (");
        let line = told.lines().find(|line| line.starts_with(&begin)).with_context(|| format!("{name}:\n{told}"))?;
        ensure!(line.contains(expected), "{name}: {expected:?} isn't in {line:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_in_the_place_of_a_good_one_stop_nothing() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("bad-files");
    kafka.create_topic(&topic, 2)?;
    let folder = process::data_folder("swapped")?;
    let path = folder.path().join("plugin.wasm");
    fs::write(&path, Guest::new(KEEP).build())?;
    let config = bed.sink_config(&topic).plugin_with("swapped", &path, SMALL)?.set("cache.path", "");
    let load = Load::start(&kafka, &topic, sized(60, 200, 200), |n| Message::new(payload(n, 1000)))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    let bads = all();
    for bad in &bads {
        let before = sink.log()?.len();
        put(bad, &path)?;
        // A file that looks like a missing one may be reported only as gone.
        let expected = if bad.told.is_empty() { "file is gone" } else { bad.told };
        process::wait_for(&format!("word of {}", bad.name), CATCH_UP, || {
            sink.process().expect_running()?;
            Ok(sink.log()?.get(before..).is_some_and(|log| log.contains(expected)).then_some(()))
        })
        .with_context(|| sink.log().unwrap_or_default().get(before..).unwrap_or_default().to_owned())?;
    }
    // At last a good version is written slowly: the host loads it when it is complete.
    let good = Guest::new("(call $label $\"version\" $\"2\") (call $change)").build();
    fs::remove_file(&path)?;
    for end in [good.len() / 3, good.len() / 3 * 2, good.len()] {
        fs::write(&path, &good[..end])?;
        thread::sleep(Duration::from_millis(300));
    }
    sink.wait_log("swapped: the plugin's new version", CATCH_UP)?;
    let died = has_died(&mut sink);
    thread::sleep(Duration::from_millis(500));
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    let report = compare(&produced, &stored)?;
    note(bads.len() + 2, died, &report)?;
    report.exact()?;
    let new = stored.iter().filter(|record| record.label("version") == Some("2")).count();
    ensure!(0 < new && new < stored.len(), "{new} of {} records are of the new version", stored.len());
    ensure!(!died, "the host died");
    Ok(())
}
