//! What the instances of a component's core modules take in the host's memory beside their memories and tables: globals,
//! imports and references to functions.
//!
//! Guarantees: never less than what wasmtime allocates for an instance, so that the number of instances can be limited by it.

use wasmparser::{Parser, Payload};

/// An imported function and a reference to a function are the largest of what is counted.
const ITEM_BYTES: usize = 48;
/// Of an instance with nothing in it.
const LEAST_BYTES: usize = 1024;

/// The most that one instance of one of the component's core modules takes, in bytes.
pub(super) fn largest(component: &[u8]) -> usize {
    let (mut around, mut items, mut most) = (Vec::new(), 0_usize, 0_usize);
    for payload in Parser::new(0).parse_all(component) {
        // It was compiled before: what can't be read is nothing that could be instantiated.
        let Ok(payload) = payload else { break };
        let count = match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                around.push(items);
                items = 0;
                0
            }
            Payload::End(_) => {
                most = most.max(items);
                items = around.pop().unwrap_or_default();
                0
            }
            Payload::ImportSection(section) => section.into_imports().count(),
            Payload::FunctionSection(section) => section.count() as usize,
            Payload::TableSection(section) => section.count() as usize,
            Payload::MemorySection(section) => section.count() as usize,
            Payload::GlobalSection(section) => section.count() as usize,
            Payload::TagSection(section) => section.count() as usize,
            Payload::ElementSection(section) => section.into_iter().map(|segment| segment.map_or(0, length)).sum(),
            _ => 0,
        };
        items = items.saturating_add(count);
    }
    most.saturating_mul(ITEM_BYTES).saturating_add(LEAST_BYTES)
}

/// A passive segment is kept by each instance.
fn length(segment: wasmparser::Element<'_>) -> usize {
    match segment.items {
        wasmparser::ElementItems::Functions(items) => items.count() as usize,
        wasmparser::ElementItems::Expressions(_, items) => items.count() as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component of these sections, each with its number: 1 is a core module, 4 a component.
    fn component(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        for (id, content) in sections {
            let length = content.len();
            bytes.extend([*id, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
            bytes.extend(content);
        }
        bytes
    }

    fn module(fields: &str) -> Vec<u8> {
        wat::parse_str(format!("(module {fields})")).unwrap()
    }

    #[test]
    fn the_largest_module_counts_wherever_it_is() {
        let globals = |count| module(&"(global i32 (i32.const 1))".repeat(count));
        assert_eq!(largest(&component(&[])), LEAST_BYTES);
        let inner = component(&[(1, globals(20))]);
        let nested = component(&[(1, globals(10)), (1, globals(1)), (4, inner), (1, globals(1))]);
        assert_eq!(largest(&nested), 20 * ITEM_BYTES + LEAST_BYTES);
        let items = r#"(import "a" "b" (func)) (import "a" "c" (global i32)) (func) (func) (table 5 funcref) (memory 1)
            (elem func 0 1 2) (elem funcref (ref.null func))"#;
        assert_eq!(largest(&component(&[(1, module(items))])), 10 * ITEM_BYTES + LEAST_BYTES);
    }
}
