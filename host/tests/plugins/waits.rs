//! Plugins that attack the host through what it waits for on their behalf, and through what they don't wait for themselves.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use reduct_sink::config::{GrantedDirectory, PluginConfig};
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Resolve, TypeDefKind, WorldItem};

use crate::bed::{dead_letter, input, load_error, output, runs_alone};
use crate::grants::{asking, chain};
use crate::guest::Guest;

const WASI: &str = include_str!("waits.wit");
const IMPORTS: &str = r#"
  (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $directories (param i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.write-via-stream" (func $stream (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))"#;
const INTERFACES: [&str; 6] = [
    "wasi:io/error@0.2.0",
    "wasi:io/poll@0.2.0",
    "wasi:io/streams@0.2.0",
    "wasi:clocks/wall-clock@0.2.0",
    "wasi:filesystem/types@0.2.0",
    "wasi:filesystem/preopens@0.2.0",
];

fn writing_in(folder: &Path) -> impl Fn(&mut PluginConfig) + use<> {
    let directory = GrantedDirectory { path: folder.to_owned(), guest: "/".into(), writable: true };
    move |plugin| plugin.grants.directories = vec![directory.clone()]
}

/// Opens `one`, and writes this many bytes to each of 200 streams of it, without waiting for any of them.
fn hoarding(bytes: u32) -> Vec<u8> {
    let body = format!(
        r#"(drop (memory.grow (i32.const 100)))
           (call $directories (i32.const 1024))
           (call $open (i32.load (i32.load (i32.const 1024))) (i32.const 0) $"one" (i32.const 1) (i32.const 3)
                       (i32.const 2048))
           (if (i32.load8_u (i32.const 2048)) (then unreachable))
           (local.set $i (i32.load (i32.const 2052)))
           (loop $more
             (call $stream (local.get $i) (i64.const 0) (i32.const 2048))
             (if (i32.load8_u (i32.const 2048)) (then unreachable))
             (call $write (i32.load (i32.const 2052)) (i32.const 0) (i32.const {bytes}) (i32.const 2064))
             (if (i32.load8_u (i32.const 2064)) (then unreachable))
             (local.set $n (i32.add (local.get $n) (i32.const 1)))
             (br_if $more (i32.lt_u (local.get $n) (i32.const 200))))
           (call $keep)"#
    );
    asking(&body, IMPORTS, &INTERFACES, WASI)
}

/// Those of files lie in the host's memory until the file system has taken them.
#[test]
fn writes_that_nobody_waits_for_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut hoarder = chain("hoarder-of-writes", hoarding(1 << 20), writing_in(folder.path()));
    let reason = dead_letter(hoarder.transform(&input(1))).reason;
    assert!(reason.contains("it wrote 1048576 bytes to a stream at once; the most are 65536"), "{reason}");
    // As many as WASI's streams allow at once.
    output(chain("writer", hoarding(1 << 16), writing_in(folder.path())).transform(&input(1)));
    assert_eq!(fs::metadata(folder.path().join("one")).unwrap().len(), 1 << 16);
}

/// The host's own functions instead of WASI's have the types of WASI's, on both engines.
#[test]
fn a_plugin_may_import_every_function_that_may_wait() {
    let interfaces: String = INTERFACES.iter().map(|interface| format!("import {interface};")).collect();
    let mut resolve = Resolve::default();
    let text = format!("package test:all; {WASI} world all {{ {interfaces} }}");
    let package = resolve.push_str("all.wit", &text).unwrap();
    let world = resolve.select_world(&[package], Some("all")).unwrap();
    let (mut imports, mut functions) = (String::new(), 0);
    for (key, item) in &resolve.worlds[world].imports {
        let WorldItem::Interface { id, .. } = item else { continue };
        let (name, interface) = (resolve.name_world_key(key), &resolve.interfaces[*id]);
        let mut import = |function: &str, signature: &str| {
            functions += 1;
            imports += &format!("(import \"{name}\" \"{function}\" (func {signature}))");
        };
        for function in interface.functions.values() {
            let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
            let types = |types: &[WasmType]| types.iter().map(core_type).collect::<String>();
            let (takes, gives) = (types(&signature.params), types(&signature.results));
            import(&function.name, &format!("(param{takes}) (result{gives})"));
        }
        let types = interface.types.iter();
        let resources = types.filter(|(_, id)| matches!(resolve.types[**id].kind, TypeDefKind::Resource));
        resources.for_each(|(resource, _)| import(&format!("[resource-drop]{resource}"), "(param i32)"));
    }
    assert!(functions > 50, "{functions}");
    for concurrent in ["", r#"(import "$root" "[context-set-0]" (func (param i32)))"#] {
        let guest = asking("(call $keep)", &format!("{imports} {concurrent}"), &INTERFACES, WASI);
        output(chain("imports-all", guest, |_| {}).transform(&input(1)));
    }
}

fn core_type(ty: &WasmType) -> &'static str {
    match ty {
        WasmType::I64 | WasmType::PointerOrI64 => " i64",
        WasmType::F32 => " f32",
        WasmType::F64 => " f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => " i32",
    }
}

/// A component of two parts: in each call one part calls a function of the other again and again, which never returns.
/// `lifted`: further options of that function.
fn blocking_forever(lifted: &str) -> Vec<u8> {
    const CONTRACT: &str = "reduct-sink:transform";
    let blocker = format!(
        r#"(component $blocker
          (core module $m
            (import "" "set" (func $set (result i32)))
            (import "" "wait" (func $wait (param i32 i32) (result i32)))
            (func $block (drop (call $wait (call $set) (i32.const 0))) unreachable)
            (func (export "block") (call $block))
            (func (export "block-until") (result i32) (call $block) unreachable)
            (func (export "back") (param i32 i32 i32) (result i32) unreachable))
          (core module $memory (memory (export "memory") 1))
          (core instance $memory (instantiate $memory))
          (core func $set (canon waitable-set.new))
          (core func $wait (canon waitable-set.wait (memory $memory "memory")))
          (core instance $i (instantiate $m
            (with "" (instance (export "set" (func $set)) (export "wait" (func $wait))))))
          (func (export "block") async (canon lift {lifted})))"#
    );
    let wit = "package test:deep; interface blocker { block: async func(); }
      world deep { include reduct-sink:transform/transform@0.1.0; import blocker; }";
    let import = r#"(import "test:deep/blocker" "[async-lower]block" (func $block (result i32)))"#;
    let guest = Guest::new("(loop $ever (drop (call $block)) (br $ever)) unreachable").importing(import, wit, "deep");
    let text = wasmprinter::print_bytes(guest.build()).unwrap();
    // Both are parts of a third component, which imports what the guest imports beside the other part.
    let (_, imports) = text.split_once("(type $ty-test:deep/blocker)))").unwrap();
    let (imports, _) = imports.split_once("(core module").unwrap();
    let guest = text.replacen("(component", "(component $guest", 1);
    let passed = ["types", "host"]
        .map(|interface| format!(r#"(with "{CONTRACT}/{interface}@0.1.0" (instance ${CONTRACT}/{interface}@0.1.0))"#));
    let text = format!(
        r#"(component {imports} {blocker} {guest}
           (instance $blocker (instantiate $blocker))
           (instance $guest (instantiate $guest {} (with "test:deep/blocker" (instance $blocker))))
           (export "{CONTRACT}/transformer@0.1.0" (instance $guest "{CONTRACT}/transformer@0.1.0")))"#,
        passed.concat()
    );
    wat::parse_str(text).unwrap()
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// A task that has a stack takes two mappings, of which a process has 65,530.
#[test]
fn blocked_tasks_are_bounded() {
    if !runs_alone("waits::blocked_tasks_are_bounded") {
        return;
    }
    let guest = blocking_forever(r#"(core func $i "block-until") async (callback (func $i "back"))"#);
    let mut deep = chain("deep", guest, |_| {});
    let (before, ended) = (mappings(), AtomicBool::new(false));
    let (reason, most) = thread::scope(|scope| {
        let looks = || std::iter::repeat_with(mappings).take_while(|_| !ended.load(Ordering::Relaxed)).max();
        let most = scope.spawn(looks);
        let reason = dead_letter(deep.transform(&input(1))).reason;
        ended.store(true, Ordering::Relaxed);
        (reason, most.join().unwrap().unwrap_or_default())
    });
    assert!(reason.contains("resource table has no free keys"), "{reason}");
    assert!(most < before + 4000, "{most} mappings, {before} before");
    // Tasks that block beside each other in one instance, and not one after the other, need what the engine refuses.
    let error = load_error(&blocking_forever(r#"(core func $i "block") async"#));
    assert!(error.to_string().contains("stackful"), "{error}");
}
