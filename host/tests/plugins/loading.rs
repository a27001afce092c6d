//! Tests which files the host loads as plugins, and how it explains why it refuses the others.

use std::fs;

use reduct_sink::config::{PluginConfig, PluginSource};
use reduct_sink::plugin::componentize::componentize;
use reduct_sink::plugin::{Digest, LoadProblem, passthrough};

use crate::bed::{Bed, PATIENCE, SHORT, input, load_error, output, plugin, runtime};
use crate::guest::{Guest, component_of, guest};

#[test]
fn the_passthrough_is_built_in_and_a_component_like_any_other() {
    let builtin = runtime().load(&plugin("passthrough", PluginSource::Builtin)).unwrap();
    assert_eq!(builtin.digest, Digest::of(passthrough()));
    assert_eq!(builtin.bytes, passthrough().len());
    let from_file = Bed::of(&[passthrough()]);
    assert_eq!(runtime().load(&from_file.plugins[0]).unwrap().digest, builtin.digest);
    output(from_file.chain().transform(&input(1)));
}

#[test]
fn a_plugin_loads_from_within_tokio_too() {
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let loaded = tokio.block_on(async { runtime().load(&plugin("passthrough", PluginSource::Builtin)) });
    assert_eq!(&*loaded.unwrap().name, "passthrough");
}

#[test]
fn the_configuration_reaches_configure() {
    let check = Guest::new("(call $keep)").configure(
        r#"(if (i32.ne (local.get $config-length) (i32.const 9)) (then (return (call $refuse $"no: expected nine"))))
           (i32.const 0)"#,
    );
    let check = check.build();
    Bed::of(&[]).with("a", &check, |plugin| plugin.config = r#"{"a":"b"}"#.into()).shared();
    let error = load_error(&check);
    assert!(matches!(&error.problem, LoadProblem::ConfigureRefused(text) if text == "no: expected nine"), "{error:?}");
}

#[test]
fn each_problem_names_the_plugin_the_file_and_the_remedy() {
    let component = guest("(call $keep)");
    let trap = Guest::new("(call $keep)").configure("unreachable").build();
    let early = |call: &str| Guest::new("(call $keep)").configure(&format!("{call} (i32.const 0)")).build();
    let other_world = component_of(
        r#"(module (func (export "test:other/math@1.0.0#seven") (result i32) (i32.const 7)))"#,
        "package test:other@1.0.0; interface math { seven: func() -> u32; } world other { export math; }",
        "other",
    );
    let shape = Guest::new("(call $keep)").contract("0.1.0", &[("  keep,", "  keep, perhaps,")]);
    let missing = Guest::new("(call $keep)")
        .importing(r#"(import "reduct-sink:transform/host@0.1.0" "sing" (func))"#, "", "transform")
        .contract("0.1.0", &[("interface host {", "interface host {\n sing: func();")]);
    let unknown = Guest::new("(call $keep)").importing(
        r#"(import "wasi:keyvalue/store@0.2.0" "fetch" (func)) (import "test:mine/math@1.0.0" "add" (func))"#,
        "package test:mine@1.0.0;
         package wasi:keyvalue@0.2.0 { interface store { fetch: func(); } }
         interface math { add: func(); }
         world mine { include reduct-sink:transform/transform@0.1.0; import math; import wasi:keyvalue/store@0.2.0; }",
        "mine",
    );
    type Expected = fn(&LoadProblem) -> bool;
    let cases: [(&str, &[u8], Expected, &[&str]); 17] = [
        ("empty", b"", |p| matches!(p, LoadProblem::Empty), &["is empty", "rename it over"]),
        ("text", b"(component)", |p| matches!(p, LoadProblem::Text), &["is text", "compile it"]),
        (
            "garbage",
            b"\x7fELF\x02\x01\x01\0",
            |p| matches!(p, LoadProblem::NotWasm(_)),
            &["7f 45 4c 46", "isn't WebAssembly"],
        ),
        ("head", b"\0as", |p| matches!(p, LoadProblem::Truncated(_)), &["3 bytes", "copy the file again"]),
        (
            "cut",
            &component[..component.len() / 2],
            |p| matches!(p, LoadProblem::Truncated(_)),
            &["ends too early", "copy the file again"],
        ),
        (
            "damaged",
            &[&component[..8], b"\x01\x05hello", &component[8..]].concat(),
            |p| matches!(p, LoadProblem::Compile(_)),
            &["magic header not detected", "wasm-tools validate"],
        ),
        (
            "core",
            &Guest::new("(call $keep)").core_module(),
            |p| matches!(p, LoadProblem::CoreModule),
            &["is a core module", "reduct-sink plugin componentize"],
        ),
        (
            "world",
            &other_world,
            |p| matches!(p, LoadProblem::WrongWorld { .. }),
            &["exports test:other/math@1.0.0", "world `transform`"],
        ),
        (
            "version",
            &Guest::new("(call $keep)").contract("0.2.0", &[]),
            |p| matches!(p, LoadProblem::OtherVersion { .. }),
            &["asks for reduct-sink:transform@0.2.0, this host offers reduct-sink:transform@0.1"],
        ),
        ("shape", &shape, |p| matches!(p, LoadProblem::WrongShape(_)), &["another shape", "generate the bindings"]),
        (
            "function",
            &missing,
            |p| matches!(p, LoadProblem::UnknownImports(_)),
            &["reduct-sink:transform/host@0.1.0#sing", "or take a host"],
        ),
        (
            "imports",
            &unknown.build(),
            |p| matches!(p, LoadProblem::UnknownImports(_)),
            &["wasi:keyvalue/store@0.2.0", "test:mine/math@1.0.0"],
        ),
        ("configure", &trap, |p| matches!(p, LoadProblem::ConfigureTrapped(_)), &["`configure`: wasm trap", "author"]),
        (
            "payload",
            &early("(call $host-payload)"),
            |p| matches!(p, LoadProblem::ConfigureTrapped(_)),
            &["`payload` may only be called during `transform`"],
        ),
        (
            "labels",
            &early("(call $host-labels)"),
            |p| matches!(p, LoadProblem::ConfigureTrapped(_)),
            &["`labels` may only be called during `transform`"],
        ),
        (
            "read",
            &early("(call $host-read (i64.const 0) (i32.const 1))"),
            |p| matches!(p, LoadProblem::ConfigureTrapped(_)),
            &["`read` may only be called during `transform`"],
        ),
        (
            "memory",
            &Guest::new("(call $keep)").configure("(drop (memory.grow (i32.const 1000))) unreachable").build(),
            |p| matches!(p, LoadProblem::ConfigureTrapped(_)),
            &["memory limit"],
        ),
    ];
    for (name, bytes, expected, texts) in cases {
        let error = load_error(bytes);
        assert!(expected(&error.problem), "{name}: {error:?}");
        let text = error.to_string();
        assert!(!text.contains('\n'), "{name}: {text}");
        assert!(text.starts_with("plugin `a` (") && text.contains("a.wasm)"), "{name}: {text}");
        for expected in texts.iter().chain([&error.problem.remedy()]) {
            assert!(text.contains(expected), "{name}: {expected:?} isn't in {text:?}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_or_not_a_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path| runtime().load(&plugin("a", PluginSource::File(path))).unwrap_err();
    let missing = load(folder.path().join("gone.wasm"));
    assert!(matches!(missing.problem, LoadProblem::NotFound) && missing.to_string().contains("gone.wasm"), "{missing}");
    let directory = load(folder.path().to_owned());
    assert!(matches!(directory.problem, LoadProblem::Unreadable(_)), "{directory}");
    assert!(directory.to_string().contains("not a regular file"), "{directory}");
}

/// It sleeps for most of its time, so that it takes no processor from other tests.
#[test]
fn a_start_that_never_ends_is_stopped() {
    let endless = Guest::new("(call $keep)")
        .configure("(call $block (call $sleep (i64.const 4500000000))) (loop $ever (br $ever)) unreachable");
    assert!(matches!(load_error(&sleeping(endless)).problem, LoadProblem::StartTimedOut));
}

#[test]
fn a_guest_of_a_later_patch_version_loads() {
    let later = Guest::new(r#"(call $host-entry) (call $keep)"#).contract("0.1.7", &[]);
    output(Bed::of(&[&later]).chain().transform(&input(1)));
}

#[test]
fn a_component_that_needs_concurrency_support_loads_and_runs() {
    let concurrent = Guest::new("(call $context-set (i32.const 7)) (call $keep)")
        .importing(r#"(import "$root" "[context-set-0]" (func $context-set (param i32)))"#, "", "transform")
        .build();
    output(Bed::of(&[&concurrent]).chain().transform(&input(1)));
    // The host handles a trap in this engine as it does in the other engine.
    let endless = Guest::new("(call $context-set (i32.const 7)) (loop $ever (br $ever)) unreachable")
        .importing(r#"(import "$root" "[context-set-0]" (func $context-set (param i32)))"#, "", "transform")
        .build();
    let mut chain = Bed::of(&[]).with("endless", &endless, |plugin| plugin.timeout = SHORT).chain();
    for offset in [1, 2] {
        assert!(crate::bed::dead_letter(chain.transform(&input(offset))).reason.contains("time limit"));
    }
}

#[test]
fn a_limit_below_what_a_plugin_starts_with_says_so() {
    let bed = Bed::of(&[]).with("a", &guest("(call $keep)"), |plugin: &mut PluginConfig| plugin.memory_bytes = 65536);
    let error = runtime().load(&bed.plugins[0]).unwrap_err();
    assert!(error.to_string().contains("memory limit"), "{error}");
}

#[test]
fn a_core_module_with_its_world_becomes_a_component() {
    let module = Guest::new(r#"(call $entry $"made") (call $change)"#).module_with_world();
    let component = componentize(&module).unwrap();
    let made = output(Bed::of(&[&component]).chain().transform(&input(1)));
    assert_eq!(made.entry.as_deref(), Some("made"));
}

#[test]
fn what_can_not_become_a_component_says_why() {
    let wasi = wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#).unwrap();
    for (bytes, text) in [
        (b"hello".as_slice(), "not WebAssembly"),
        (&guest("(call $keep)"), "already a component"),
        (&wasi, "bindings of the contract"),
        (&wat::parse_str(r#"(module (import "env" "f" (func)))"#).unwrap(), "bindings of the contract"),
    ] {
        let error = format!("{:#}", componentize(bytes).unwrap_err());
        assert!(error.contains(text), "{text}: {error}");
    }
}

/// A guest that can `(call $block (call $sleep NANOSECONDS))`.
fn sleeping(guest: Guest) -> Vec<u8> {
    let guest = guest.importing(
        r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $sleep (param i64) (result i32)))
           (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#,
        "package test:sleeper;
         package wasi:io@0.2.0 { interface poll { resource pollable { block: func(); } } }
         package wasi:clocks@0.2.0 {
           interface monotonic-clock {
             use wasi:io/poll@0.2.0.{pollable};
             subscribe-duration: func(when: u64) -> pollable;
           }
         }
         world sleeper {
           include reduct-sink:transform/transform@0.1.0;
           import wasi:clocks/monotonic-clock@0.2.0;
           import wasi:io/poll@0.2.0;
         }",
        "sleeper",
    );
    guest.build()
}

#[test]
fn a_plugin_that_sleeps_is_stopped_at_its_limit() {
    let sleeper =
        Guest::new("(call $block (call $sleep (i64.const 3600000000000))) (loop $ever (br $ever)) unreachable");
    let mut chain = Bed::of(&[]).with("sleeper", &sleeping(sleeper), |plugin| plugin.timeout = SHORT).chain();
    let start = std::time::Instant::now();
    let failure = crate::bed::dead_letter(chain.transform(&input(1)));
    assert!(failure.reason.contains("time limit"), "{}", failure.reason);
    assert!(start.elapsed() < PATIENCE, "slept {:?}", start.elapsed());
}

#[test]
fn loading_reads_the_file_as_it_is_now() {
    let bed = Bed::of(&[&guest("(call $keep)")]);
    let before = runtime().load(&bed.plugins[0]).unwrap().digest;
    fs::write(bed.path(0), guest("(call $drop)")).unwrap();
    assert_ne!(runtime().load(&bed.plugins[0]).unwrap().digest, before);
}
