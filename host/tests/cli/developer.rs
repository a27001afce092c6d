//! Runs the commands for plugin authors as an author does.

#[path = "../plugins/guest.rs"]
#[allow(dead_code, reason = "the plugins' own tests use the rest")]
mod guest;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::guest::{Guest, guest};
use tempfile::TempDir;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the binary in a folder, in an environment in which it finds none of this machine's toolchains.
fn run_in(folder: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reduct-sink"));
    command.args(args).current_dir(folder).env("PATH", "/nowhere").env("XDG_CACHE_HOME", folder.join("cache"));
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder with a plugin that drops payloads of three bytes, rejects those of four, and changes all others.
fn bed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let component = guest(
        r#"(if (i64.eq (local.get $payload-size) (i64.const 3)) (then (return (call $drop))))
           (if (i64.eq (local.get $payload-size) (i64.const 4)) (then (return (call $reject $"four bytes"))))
           (call $entry $"e") (call $label $"a" $"1") (call $payload $"new") (call $change)"#,
    );
    fs::write(folder.path().join("p.wasm"), component).unwrap();
    let cases = "[[case]]\nname = 'three'\npayload = 'abc'\n[[case]]\nname = 'four'\npayload = 'abcd'\n\
                 [[case]]\nname = 'five'\npayload = 'abcde'\n";
    fs::create_dir_all(folder.path().join("fixtures/folder")).unwrap();
    fs::write(folder.path().join("fixtures/cases.toml"), cases).unwrap();
    fs::write(folder.path().join("fixtures/folder/record.toml"), "offset = 2").unwrap();
    fs::write(folder.path().join("fixtures/folder/payload.bin"), b"\xff").unwrap();
    folder
}

const TEST: [&str; 6] = ["plugin", "test", "--plugin", "p.wasm", "--fixtures", "fixtures"];

#[test]
fn a_test_without_expectations_fails_until_they_are_written() {
    let bed = bed();
    let first = run_in(bed.path(), &TEST);
    assert_eq!(first.code, Some(1), "{}", first.stderr);
    assert!(first.stdout.contains("FAILED  cases/three") && first.stdout.contains("nothing is expected yet"));
    assert!(first.stdout.ends_with("0 passed, 4 failed\n"), "{}", first.stdout);

    let update = run_in(bed.path(), &[&TEST[..], &["--update"]].concat());
    assert_eq!(update.code, Some(0), "{}{}", update.stdout, update.stderr);
    assert!(update.stdout.ends_with("4 updated, 0 as they were, 0 failed\n"), "{}", update.stdout);
    let second = run_in(bed.path(), &TEST);
    let outcomes: String = second.stdout.split_inclusive('\n').filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        (second.code, outcomes.as_str()),
        (
            Some(0),
            "ok      cases/three\nok      cases/four\n\
        ok      cases/five\nok      folder\n4 passed, 0 failed\n"
        )
    );
    let expected = fs::read_to_string(bed.path().join("fixtures/folder/expected.toml")).unwrap();
    for line in
        ["verdict = \"write\"", "entry = \"e\"", "timestamp = 1700000000000000", "payload = \"new\"", "a = \"1\""]
    {
        assert!(expected.contains(line), "{line} isn't in:\n{expected}");
    }
    let expected = fs::read_to_string(bed.path().join("fixtures/cases.expected.toml")).unwrap();
    assert!(expected.contains("reason = \"four bytes\""), "{expected}");
}

#[test]
fn a_difference_is_told_as_a_diff_and_as_junit() {
    let bed = bed();
    run_in(bed.path(), &[&TEST[..], &["--update"]].concat());
    let file = bed.path().join("fixtures/folder/expected.toml");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before.replace("entry = \"e\"", "entry = \"other\"")).unwrap();
    let ended = run_in(bed.path(), &[&TEST[..], &["--junit", "junit.xml"]].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("        -entry = \"other\"\n        +entry = \"e\"\n"), "{}", ended.stdout);
    assert!(ended.stdout.ends_with("3 passed, 1 failed\n"), "{}", ended.stdout);
    let xml = fs::read_to_string(bed.path().join("junit.xml")).unwrap();
    assert!(xml.contains("tests=\"4\" failures=\"1\"") && xml.contains("+entry = &quot;e&quot;"), "{xml}");
    // An expectation that is met stays as its author wrote it.
    let cases = bed.path().join("fixtures/cases.expected.toml");
    let written = format!("# by hand\n{}", fs::read_to_string(&cases).unwrap());
    fs::write(&cases, &written).unwrap();
    run_in(bed.path(), &[&TEST[..], &["--update"]].concat());
    assert_eq!(fs::read_to_string(&cases).unwrap(), written);
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}

#[test]
fn plugins_are_tested_as_a_chain_too() {
    let bed = bed();
    let ended = run_in(bed.path(), &["plugin", "passthrough", "-o", "q.wasm"]);
    assert_eq!(ended.code, Some(0));
    run_in(bed.path(), &[&TEST[..], &["--update"]].concat());
    let chain = run_in(bed.path(), &[&TEST[..], &["--plugin", "q.wasm"]].concat());
    assert!(chain.stdout.ends_with("4 passed, 0 failed\n"), "{}{}", chain.stdout, chain.stderr);
}

#[test]
fn what_can_not_be_tested_says_why() {
    let bed = bed();
    for (args, code, expected) in [
        (&["plugin", "test"] as &[&str], 2, "plugin new --lang"),
        (&["plugin", "test", "--plugin", "p.wasm"], 2, "--plugin needs --fixtures"),
        (&["plugin", "test", "--plugin", "p.wasm", "--fixtures", "none"], 2, "/none; put fixtures there"),
        (&["plugin", "test", "--plugin", "gone.wasm", "--fixtures", "fixtures"], 3, "build it first"),
    ] {
        let ended = run_in(bed.path(), args);
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{args:?}: {}", ended.stderr);
    }
    fs::write(bed.path().join("text.wasm"), "hello").unwrap();
    let ended = run_in(bed.path(), &["plugin", "test", "--plugin", "text.wasm", "--fixtures", "fixtures"]);
    assert!(ended.code == Some(1) && ended.stdout.contains("is text, not a component"), "{}", ended.stdout);
}

#[test]
fn paths_in_messages_are_in_full() {
    let bed = bed();
    let sink = |args: &str| run_in(bed.path(), &args.split(' ').collect::<Vec<_>>());
    fs::create_dir(bed.path().join("signed")).unwrap();
    fs::write(bed.path().join("signed/p.wasm"), "text").unwrap();
    for (folder, manifest) in [("other", "name = 'a'\nlanguage = 'cobol'"), ("upper", "name = 'A'\nlanguage = 'c'")] {
        fs::create_dir(bed.path().join(folder)).unwrap();
        fs::write(bed.path().join(folder).join("plugin.toml"), manifest).unwrap();
    }
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let verify = format!("plugin verify signed/p.wasm --key {key}");
    for (args, path) in [
        ("plugin build", ""),
        ("plugin build fixtures", "fixtures"),
        ("plugin build other", "other/plugin.toml"),
        ("plugin build upper", "upper/plugin.toml"),
        ("plugin new --lang c fixtures", "fixtures"),
        ("plugin new --lang c p.wasm/c", "p.wasm/c"),
        ("plugin test fixtures", "fixtures"),
        ("plugin test --plugin gone.wasm --fixtures fixtures", "gone.wasm"),
        ("plugin test --plugin p.wasm --fixtures other", "other"),
        ("plugin inspect gone.wasm", "gone.wasm"),
        ("plugin compile gone.wasm --cache cache", "gone.wasm"),
        ("plugin compile signed/p.wasm --cache cache", "signed/p.wasm"),
        ("plugin componentize gone.wasm --output out.wasm", "gone.wasm"),
        ("plugin componentize p.wasm --output out.wasm", "p.wasm"),
        ("plugin passthrough --output gone/out.wasm", "gone/out.wasm"),
        ("plugin bench gone.wasm", "gone.wasm"),
        ("plugin bench p.wasm --payload gone.json", "gone.json"),
        ("plugin bench p.wasm --fixtures gone", "gone"),
        ("plugin push gone.wasm oci://127.0.0.1:1/a:b", "gone.wasm"),
        (&verify, "signed/p.wasm.minisig"),
    ] {
        let ended = sink(args);
        let full = bed.path().canonicalize().unwrap().join(path);
        let full = full.to_str().unwrap().trim_end_matches('/');
        assert_ne!(ended.code, Some(0), "{args}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(full), "{args}: expected {full} in: {}", ended.stderr);
    }
}

#[test]
fn inspect_tells_what_a_component_is() {
    let bed = bed();
    let ended = run_in(bed.path(), &["plugin", "inspect", "p.wasm", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(told["contract"], "reduct-sink:transform@0.1.0");
    assert_eq!(told["world"], "transform");
    assert_eq!(told["bytes"], fs::metadata(bed.path().join("p.wasm")).unwrap().len());
    assert_eq!(told["digest"].as_str().unwrap().len(), 64);
    assert!(told["host_functions"].as_array().unwrap().contains(&"log".into()), "{told}");
    assert!(told["load_ms"].is_number() && told["problem"].is_null() && told["wasi"].as_array().unwrap().is_empty());
    let text = run_in(bed.path(), &["plugin", "inspect", "p.wasm"]).stdout;
    assert!(text.contains("contract    reduct-sink:transform@0.1.0, world `transform`"), "{text}");
    assert!(text.contains("WASI        none") && text.contains("loads       yes"), "{text}");
}

/// An operator who inspects a plugin doesn't trust it yet.
#[test]
fn inspect_shows_names_on_one_line_and_escaped() {
    let evil = "\u{1b}[2J\nsigned      by a friend\u{202e}";
    let named = |text: &str| [vec![text.len() as u8], text.as_bytes().to_vec()].concat();
    let section =
        |name: &str, body: Vec<u8>| [vec![0, (body.len() + name.len() + 1) as u8], named(name), body].concat();
    let name = named(evil);
    let component_name = section("component-name", [vec![0, name.len() as u8], name.clone()].concat());
    let tools = [vec![1], named("processed-by"), vec![1], named(evil), named("1")].concat();
    let component = [guest("(call $keep)"), component_name, section("producers", tools)].concat();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("evil.wasm"), component).unwrap();
    let told = run_in(folder.path(), &["plugin", "inspect", "evil.wasm"]);
    assert_eq!(told.code, Some(0), "{}", told.stdout);
    assert!(told.stdout.contains("name        \\u{1b}[2J\\n"), "{}", told.stdout);
    assert!(told.stdout.lines().any(|line| line.starts_with("made by") && line.contains("friend")), "{}", told.stdout);
    assert!(!told.stdout.contains(['\u{1b}', '\u{202e}']), "{}", told.stdout);
    assert!(!told.stdout.lines().any(|line| line.starts_with("signed") && line.contains("friend")), "{}", told.stdout);
}

#[test]
fn inspect_tells_what_wasi_would_mean_and_why_a_file_does_not_load() {
    let folder = tempfile::tempdir().unwrap();
    let wit = "package test:wide;
        package wasi:filesystem@0.2.0 { interface types { f: func(); } }
        package wasi:http@0.2.0 { interface types { f: func(); } }
        package test:mine@1.0.0 { interface math { f: func(); } }
        world wide { include reduct-sink:transform/transform@0.1.0; import wasi:filesystem/types@0.2.0;
            import wasi:http/types@0.2.0; import test:mine/math@1.0.0; }";
    let imports = r#"(import "wasi:filesystem/types@0.2.0" "f" (func)) (import "wasi:http/types@0.2.0" "f" (func))
        (import "test:mine/math@1.0.0" "f" (func))"#;
    let wide = Guest::new("(call $keep)").importing(imports, wit, "wide").build();
    let core = Guest::new("(call $keep)").core_module();
    let refusing = Guest::new("(call $keep)").configure(r#"(call $refuse $"camera: missing")"#).build();
    let inspect = |bytes: &[u8]| {
        fs::write(folder.path().join("f.wasm"), bytes).unwrap();
        run_in(folder.path(), &["plugin", "inspect", "f.wasm"])
    };
    let told = inspect(&wide);
    assert_eq!(told.code, Some(3));
    for expected in [
        "wasi:filesystem@0.2.0 (types): files; none are there. Granting `directories`",
        "wasi:http@0.2.0 (types): HTTP requests; all are refused. Granting `http`",
        "imports     test:mine/math@1.0.0",
        "FAILED      it imports what this host doesn't offer",
    ] {
        assert!(told.stdout.contains(expected), "{expected} isn't in:\n{}", told.stdout);
    }
    let told = inspect(&core);
    assert!(told.code == Some(3) && told.stdout.contains("plugin componentize"), "{}", told.stdout);
    let told = inspect(b"hello");
    assert!(told.code == Some(3) && told.stdout.contains("is text, not a component"), "{}", told.stdout);
    let told = inspect(&refusing);
    assert!(told.code == Some(0) && told.stdout.contains("it says: camera: missing"), "{}", told.stdout);
}

#[test]
fn a_plugin_is_compiled_ahead_into_the_cache() {
    let bed = bed();
    let compile = || run_in(bed.path(), &["plugin", "compile", "p.wasm", "--cache", "compiled"]);
    let first = compile();
    assert!(first.code == Some(0) && first.stdout.contains("compiled in"), "{}{}", first.stdout, first.stderr);
    let size = |folder: &Path| files(folder).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    assert!(size(&bed.path().join("compiled")) > fs::metadata(bed.path().join("p.wasm")).unwrap().len());
    assert!(compile().stdout.contains("there already"));
    fs::write(bed.path().join("text.wasm"), "hello").unwrap();
    let text = run_in(bed.path(), &["plugin", "compile", "text.wasm", "--cache", "compiled"]);
    assert!(text.code == Some(3) && text.stderr.contains("is text, not a component"), "{}", text.stderr);
}

#[test]
fn bench_measures_beside_the_passthrough() {
    let bed = bed();
    let args = ["plugin", "bench", "p.wasm", "--size", "10B", "--size", "1KB", "--time", "20ms", "--json"];
    let ended = run_in(bed.path(), &args);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    for who in ["plugin", "passthrough"] {
        let cost = &told[who];
        let records = cost["records"].as_array().unwrap();
        assert_eq!(
            records.iter().map(|record| record["payload_bytes"].as_u64().unwrap()).collect::<Vec<_>>(),
            [10, 1000]
        );
        let positive = |value: &serde_json::Value| value.as_f64().is_some_and(|value| value > 0.0);
        assert!(records.iter().all(|record| positive(&record["us_a_record"]) && positive(&record["memory"])), "{cost}");
        assert!(
            positive(&cost["load_ms"]) && positive(&cost["start_ms"]) && positive(&cost["memory_at_end"]),
            "{cost}"
        );
    }
    // A record on which the plugin fails ends the benchmark, instead of counting as a fast one.
    let ended = run_in(bed.path(), &["plugin", "bench", "p.wasm", "--size", "4B", "--time", "20ms"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("four bytes"), "{}", ended.stderr);
}

/// A plugin that reads its payload can't be measured with bytes from 0 to 255.
#[test]
fn bench_takes_payloads_and_fixtures_and_another_version() {
    let bed = bed();
    fs::write(bed.path().join("frame.json"), "{\"device\": 7}").unwrap();
    fs::copy(bed.path().join("p.wasm"), bed.path().join("old.wasm")).unwrap();
    let updated = run_in(bed.path(), &[&TEST[..], &["--update"]].concat());
    assert_eq!(updated.code, Some(0), "{}", updated.stdout);
    let args = ["plugin", "bench", "p.wasm", "--payload", "frame.json", "--fixtures", "fixtures", "--time", "20ms"];
    let ended = run_in(bed.path(), &[&args[..], &["--against", "old.wasm", "--json"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    for (who, name) in [("plugin", "p"), ("against", "old"), ("passthrough", "passthrough")] {
        let cost = &told[who];
        assert_eq!(cost["name"], name);
        let records = cost["records"].as_array().unwrap();
        let names: Vec<_> = records.iter().map(|record| record["record"].as_str().unwrap()).collect();
        assert_eq!(names, ["frame.json", "cases/three", "cases/five", "folder"], "{cost}");
    }
    assert_eq!(told["left_out"], 1, "the case that expects a rejection");
    let ended = run_in(bed.path(), &args);
    assert!(ended.stdout.contains("µs a record: frame.json"), "{}", ended.stdout);
    assert!(ended.stdout.ends_with("1 fixtures that expect a failure were left out\n"), "{}", ended.stdout);
}

#[test]
fn a_test_shows_what_readers_will_see() {
    let bed = bed();
    run_in(bed.path(), &[&TEST[..], &["--update"]].concat());
    let ended = run_in(bed.path(), &TEST);
    let shown = "ok      cases/five\n        stored in e (e/0 if its topic has several partitions), labels ";
    assert!(ended.stdout.contains(shown), "{}", ended.stdout);
    assert!(ended.stdout.contains(" a=1") && ended.stdout.contains("sink.plugins=p@"), "{}", ended.stdout);
}

#[test]
fn every_language_has_a_folder_that_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    for language in ["rust", "python", "javascript", "typescript", "go", "c", "cpp", "zig"] {
        let ended = run_in(folder.path(), &["plugin", "new", "--lang", language, &format!("in/my-{language}")]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let project = folder.path().join(format!("in/my-{language}"));
        for file in ["plugin.toml", "README.md", "wit/transform.wit", "fixtures/cases.toml", ".gitignore"] {
            assert!(project.join(file).exists(), "{language} has no {file}");
        }
        let readme = fs::read_to_string(project.join("README.md")).unwrap();
        assert!(readme.starts_with(&format!("# my-{language}\n")) && readme.lines().count() <= 80, "{readme}");
        for file in files(&project) {
            let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
            let placeholders = ["name", "language", "Language", "prepare", "files", "notes"];
            let left = placeholders.iter().find(|name| text.contains(&format!("{{{{{name}}}}}")));
            assert!(left.is_none(), "the placeholder {left:?} is left in {}", file.display());
        }
        // The command finds no toolchain, so it says what to install.
        let ended = run_in(&project, &["plugin", "build"]);
        let installs = ["rustup target add", "pip install", "npm install", "apt-get install"];
        if ended.code == Some(2) {
            assert!(installs.iter().any(|install| ended.stderr.contains(install)), "{}", ended.stderr);
        } else {
            assert_eq!(language, "rust", "{}{}", ended.stdout, ended.stderr);
        }
    }
    let taken = run_in(folder.path(), &["plugin", "new", "--lang", "c", "in/my-c"]);
    assert!(taken.code == Some(2) && taken.stderr.contains("isn't empty"), "{}", taken.stderr);
    let name = run_in(folder.path(), &["plugin", "new", "--lang", "c", "My_Plugin"]);
    assert!(name.code == Some(2) && name.stderr.contains("no name for a plugin"), "{}", name.stderr);
    let language = run_in(folder.path(), &["plugin", "new", "--lang", "cobol", "x"]);
    assert!(language.code == Some(2) && language.stderr.contains("typescript"), "{}", language.stderr);
}

/// In a new Rust plugin the SDK must find the contract and each of its modules.
#[test]
fn the_sdk_is_embedded_whole() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["plugin", "new", "--lang", "rust", "x"]);
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/sdk/src");
    for file in files(&sdk) {
        let embedded = folder.path().join("x/sdk/src").join(file.strip_prefix(&sdk).unwrap());
        let text = fs::read_to_string(&file).unwrap().replace("../../wit/v0.1.0", "../wit");
        assert_eq!(fs::read_to_string(&embedded).unwrap_or_default(), text, "{}", embedded.display());
    }
    let library = fs::read_to_string(folder.path().join("x/sdk/src/lib.rs")).unwrap();
    assert!(library.contains("path: \"../wit\""), "the SDK's path to the contract has changed");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
