//! Tests that components are compiled in a separate process with limits, as a running host does it.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::thread;

use reduct_sink::plugin::{CHILD_COMMAND, CHILD_ENVIRONMENT, passthrough};

use crate::guest::Guest;

/// Compiles the component with at most these bytes of memory and these seconds of processor time.
fn compile(component: &[u8], memory: u64, seconds: u64) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_reduct-sink"))
        .args([CHILD_COMMAND, &memory.to_string(), &seconds.to_string()])
        .envs(CHILD_ENVIRONMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let component = component.to_vec();
    let writing = thread::spawn(move || input.write_all(&component));
    let output = child.wait_with_output().unwrap();
    let _ = writing.join();
    output
}

/// A module of nested loops, each of which changes its own local. The compiler carries every local through every loop,
/// so that its work grows with the square of the depth.
fn loops(depth: usize) -> Vec<u8> {
    let locals = "i32 ".repeat(depth);
    let open: String = (0..depth)
        .map(|local| format!("(loop (local.set {local} (i32.add (local.get {local}) (i32.load (local.get 0))))"))
        .collect();
    let close: String = (0..depth).map(|local| format!("(br_if 0 (local.get {local})))")).collect();
    let sum: String = (0..depth).map(|local| format!("(i32.store (i32.const 0) (local.get {local}))")).collect();
    Guest::new("(call $keep)")
        .defining(&format!("(func (export \"bomb\") (local {locals}) {open} {close} {sum})"))
        .build()
}

#[test]
fn a_component_is_compiled_for_the_engine_that_it_needs() {
    let compiled = compile(passthrough(), 2_000_000_000, 120);
    assert!(compiled.status.success(), "{compiled:?}");
    assert_eq!(compiled.stdout.first(), Some(&b'p'), "nothing asynchronous in it");
}

/// What the allocator only reserves counts for nothing.
#[test]
fn a_component_needs_little_more_memory_than_its_compiler_uses() {
    let compiled = compile(passthrough(), 200_000_000, 120);
    assert!(compiled.status.success(), "{compiled:?}");
}

#[test]
fn what_does_not_compile_says_why() {
    let cut = &passthrough()[..passthrough().len() - 100];
    let refused = compile(cut, 2_000_000_000, 120);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unexpected end"), "{refused:?}");
}

#[test]
fn a_component_that_takes_too_much_memory_ends_its_compiler_only() {
    let bomb = loops(900);
    let ended = compile(&bomb, 64_000_000, 120);
    assert!(ended.status.signal().is_some(), "{:?}", ended.status);
    assert!(ended.stdout.is_empty());
}

#[test]
fn a_component_that_takes_too_much_time_ends_its_compiler_only() {
    let bomb = loops(900);
    let ended = compile(&bomb, 16_000_000_000, 1);
    assert!(matches!(ended.status.signal(), Some(9 | 24)), "{:?}", ended.status);
}
