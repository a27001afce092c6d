//! The contract's growth, tried out: a host of a 0.1.1 that has one function more.
//!
//! Old guests run on it unchanged, because a component's imports and exports are matched by compatible version; a guest
//! that imports the new function runs on it, and is refused by today's host with the function's name.

use std::time::Duration;

use wasmtime::component::{Component, Linker, Val};
use wasmtime::{Config, Engine, Store};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::error::LoadProblem;
use super::host_functions::link_as;
use super::state::{Setting, State};
use super::{Runtime, passthrough};
use crate::config;

const NEWER: &str = "reduct-sink:transform/host@0.1.1";
/// Guests built against 0.1.0, years ago by then.
const OLD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old_guests/v0.1.0/guest.wasm");

/// The contract as 0.1.1 would be: a function more in `host`, and nothing else.
fn newer_contract() -> String {
    let contract = include_str!("../../../wit/v0.1.0/transform.wit");
    let (version, function) = ("reduct-sink:transform@0.1.0;", "interface host {");
    assert!(contract.contains(version) && contract.contains(function));
    contract
        .replace(version, "reduct-sink:transform@0.1.1;")
        .replace(function, "interface host {\n  /// The bucket that is written to.\n  bucket: func() -> u32;\n")
}

/// A guest of 0.1.1 whose `configure` calls the new function, and succeeds if it answers 7.
fn newer_guest() -> Vec<u8> {
    let module = r#"(module
        (import "reduct-sink:transform/host@0.1.1" "bucket" (func $bucket (result i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "reduct-sink:transform/transformer@0.1.1#configure") (param i32 i32) (result i32)
            (if (i32.ne (call $bucket) (i32.const 7)) (then unreachable))
            (i32.const 0))
        (func (export "reduct-sink:transform/transformer@0.1.1#transform")
            (param i32 i32 i32 i64 i64 i32 i32 i32 i32 i32 i64) (result i32)
            (i32.const 0)))"#;
    let mut module = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("newer.wit", &newer_contract()).unwrap();
    let world = resolve.select_world(&[package], Some("transform")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// The host's side of an instance, as one of the passthrough has it.
fn state() -> State {
    let plugin = config::PluginConfig::new("guest", config::PluginSource::Builtin);
    let loaded = Runtime::new().unwrap().load(&plugin).unwrap();
    let code = &loaded.code;
    let setting = Setting {
        memory_bytes: code.memory_bytes,
        core_state: code.core_state,
        log_lines: 100,
        grants: &code.grants,
        log: &code.log,
        http: None,
        files: &code.files,
        seed: 0,
        labels: &code.labels,
        time_limit: Duration::from_secs(300),
    };
    State::new(&setting).unwrap()
}

/// Starts a guest on the host of 0.1.1 and calls `configure`, by the name of the interface that it exports.
fn configure_on_newer_host(guest: &[u8], interface: &str) -> Vec<Val> {
    let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
    let mut linker = Linker::<State>::new(&engine);
    linker.instance("reduct-sink:transform/types@0.1.1").unwrap();
    link_as(&mut linker, NEWER).unwrap();
    linker.instance(NEWER).unwrap().func_wrap("bucket", |_, ()| Ok((7_u32,))).unwrap();

    let component = Component::from_binary(&engine, guest).unwrap();
    let mut store = Store::new(&engine, state());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let interface = instance.get_export_index(&mut store, None, interface).unwrap();
    let configure = instance.get_export_index(&mut store, Some(&interface), "configure").unwrap();
    let configure = instance.get_func(&mut store, configure).unwrap();
    let mut results = vec![Val::Bool(false)];
    configure.call(&mut store, &[Val::String("{}".into())], &mut results).unwrap();
    results
}

#[test]
fn guests_of_0_1_0_run_on_a_host_of_0_1_1() {
    let old = std::fs::read(OLD).unwrap();
    for guest in [old.as_slice(), passthrough()] {
        // The newer host asks for its own version, and finds the older one.
        for version in ["0.1.0", "0.1.1"] {
            let interface = format!("reduct-sink:transform/transformer@{version}");
            assert_eq!(configure_on_newer_host(guest, &interface), [Val::Result(Ok(None))], "{version}");
        }
    }
}

#[test]
fn a_guest_that_needs_the_new_function_runs_there_and_is_refused_here_by_its_name() {
    let guest = newer_guest();
    let interface = "reduct-sink:transform/transformer@0.1.1";
    assert_eq!(configure_on_newer_host(&guest, interface), [Val::Result(Ok(None))]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("newer.wasm");
    std::fs::write(&file, &guest).unwrap();
    let plugin = config::PluginConfig::new("newer", config::PluginSource::File(file));
    let error = Runtime::new().unwrap().load(&plugin).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::UnknownImports(_)), "{error}");
    assert!(error.to_string().contains("reduct-sink:transform/host@0.1.1#bucket"), "{error}");
}
