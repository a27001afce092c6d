//! Components whose own shape is the attack: the state of their instances, their names, their encoding of text.

use std::fmt::Write as _;

use reduct_sink::chain::{Chain, SharedChain};
use reduct_sink::plugin::LoadProblem;
use wasmparser::{Parser, Payload};
use wit_component::StringEncoding;

use crate::bed::{Bed, dead_letter, input, load_error, output, resident, runs_alone, runtime};
use crate::guest::{Guest, guest};

/// How a component begins.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A text as it is written in WAT.
fn wat_text(text: &str) -> String {
    text.bytes().map(|byte| format!("\\{byte:02x}")).collect()
}

/// A number in the binary format.
fn leb(mut number: usize, bytes: &mut Vec<u8>) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn section(id: u8, content: &[u8], component: &mut Vec<u8>) {
    component.push(id);
    leb(content.len(), component);
    component.extend(content);
}

/// The component with another core module, of which it makes this many instances.
fn with_instances(mut component: Vec<u8>, module: &str, count: usize) -> Vec<u8> {
    let (mut depth, mut modules) = (0, 0);
    for payload in Parser::new(0).parse_all(&component) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } if depth == 0 => (depth, modules) = (1, modules + 1),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            _ => {}
        }
    }
    section(1, &wat::parse_str(module).unwrap(), &mut component);
    let mut instances = Vec::new();
    leb(count, &mut instances);
    for _ in 0..count {
        instances.push(0);
        leb(modules, &mut instances);
        instances.push(0);
    }
    section(2, &instances, &mut component);
    component
}

/// What an instance of a core module takes beside its memories and tables lives in the host's memory.
#[test]
fn the_state_of_core_instances_counts_against_the_memory_limit() {
    if !runs_alone("shapes::the_state_of_core_instances_counts_against_the_memory_limit") {
        return;
    }
    let many = "(global i64 (i64.const 7))".repeat(100_000);
    let bomb = with_instances(guest("(call $keep)"), &format!("(module {many})"), 240);
    let bed = Bed::of(&[]).with("globals", &bomb, |plugin| plugin.limits.file_bytes = 1 << 30);
    let before = resident();
    // 384 MB, where the plugin may have 16.
    let chain = SharedChain::load(runtime(), &bed.plugins).map(|shared| Chain::new(shared).unwrap());
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown < 200, "{grown} MB more");
    let error = chain.map(drop).unwrap_err();
    assert!(error.to_string().contains("memory limit"), "{error}");
    let few = with_instances(guest("(call $keep)"), "(module (global i64 (i64.const 7)))", 240);
    output(Bed::of(&[&few]).chain().transform(&input(1)));
}

#[test]
fn names_inside_a_component_are_told_escaped_and_not_all_of_them() {
    // Core modules may have any text for a name.
    let evil = "x\n\u{1b}]0;owned\u{7}\u{202e}\u{2028}";
    let mut core = COMPONENT.to_vec();
    let importing = wat::parse_str(format!("(module (import \"{}\" \"f\" (func)))", wat_text(evil))).unwrap();
    section(1, &importing, &mut core);
    section(2, &[1, 0, 0, 0], &mut core);
    let mut exports = COMPONENT.to_vec();
    section(1, &wat::parse_str("(module)").unwrap(), &mut exports);
    let mut names = Vec::new();
    leb(20_000, &mut names);
    for number in 0..20_000 {
        let name = format!("name-of-a-module-{number}");
        names.push(0);
        leb(name.len(), &mut names);
        names.extend(name.as_bytes());
        // The first core module, with the type that it has.
        names.extend([0, 0x11, 0, 0]);
    }
    section(11, &names, &mut exports);
    let mut imports = (String::new(), String::new());
    for number in 0..200 {
        let name = format!("n{number}{}", "x".repeat(300));
        write!(imports.0, "interface {name} {{ f: func(); }} ").unwrap();
        write!(imports.1, "import {name};").unwrap();
    }
    let uses: String = (0..200)
        .map(|number| format!("(import \"test:many/n{number}{}@1.0.0\" \"f\" (func))", "x".repeat(300)))
        .collect();
    let packages = format!(
        "package test:many@1.0.0; {} world many {{ include reduct-sink:transform/transform@0.1.0; {} }}",
        imports.0, imports.1
    );
    let unknown = Guest::new("(call $keep)").importing(&uses, &packages, "many").build();
    for (what, bytes) in [("core names", core), ("exports", exports), ("imports", unknown)] {
        let text = load_error(&bytes).to_string();
        assert!(text.len() < 4_000, "{what}: {} bytes", text.len());
        assert!(!text.contains(['\n', '\u{1b}', '\u{7}', '\u{202e}', '\u{2028}']), "{what}: {text}");
    }
}

/// Texts in UTF-16 may hold halves of characters, and twice as many bytes as their length says.
#[test]
fn texts_of_every_encoding_are_checked() {
    let entry = |unit: u32, length: u32| {
        format!("(i32.store (i32.const 30000) (i32.const {unit})) (call $entry (i32.const 30000) (i32.const {length}))")
    };
    for (body, reason) in [
        // Half a character; one behind the memory's end; more than 2 GB.
        (entry(0xd800, 1), "unpaired surrogate"),
        (entry(0xdc00_0061, 2), "unpaired surrogate"),
        ("(call $entry (i32.const -2) (i32.const 4))".into(), "out of bounds"),
        ("(call $entry (i32.const 30000) (i32.const 0x7fffffff))".into(), "out of bounds"),
        ("(call $entry (i32.const 30001) (i32.const 1))".into(), "aligned"),
        // A line break and a direction mark as an entry.
        (entry(0x202e_000a, 2), "illegal entry"),
    ] {
        let body = format!(
            "(if (i64.ne (local.get $offset) (i64.const 1)) (then (return (call $keep)))) {body} (call $change)"
        );
        let component = Guest::new(&body).encoded(StringEncoding::UTF16);
        let mut chain = Bed::of(&[&component]).chain();
        let failure = dead_letter(chain.transform(&input(1)));
        assert!(failure.reason.contains(reason) && !failure.reason.contains('\u{202e}'), "{reason}: {failure:?}");
        output(chain.transform(&input(2)));
    }
}

/// A component inside of components, as deep as it is allowed to be: the host's stack bears it or says no.
#[test]
fn components_in_components_overflow_no_stack() {
    for depth in [50, 5_000] {
        let mut inner = COMPONENT.to_vec();
        for _ in 0..depth {
            let mut around = COMPONENT.to_vec();
            section(4, &inner, &mut around);
            inner = around;
        }
        let mut component = guest("(call $keep)");
        section(4, &inner, &mut component);
        let bed = Bed::of(&[&component]);
        // A stack that overflowed would end the process.
        match SharedChain::load(runtime(), &bed.plugins) {
            Ok(shared) => drop(output(Chain::new(shared).unwrap().transform(&input(1)))),
            Err(error) => assert!(matches!(error.problem, LoadProblem::Compile(_)), "{depth}: {error}"),
        }
    }
}
