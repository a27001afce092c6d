//! Checks that `wit/REFERENCE.md`, the contract's reference, is what the WIT generates. With `UPDATE_REFERENCE=1` in
//! the environment the test writes the file.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests may")]

use std::fmt::Write;
use std::path::Path;

use wit_parser::{Docs, Function, Handle, Interface, Resolve, Type, TypeDef, TypeDefKind, WorldItem};

const HEAD: &str = "\
# The contract's reference

Generated from [`v0.1.0/transform.wit`](v0.1.0/transform.wit), which says the same; don't edit it here. [README.md](README.md)
tells how a plugin is called, and how the contract grows.

| | in WIT | Rust | Python | JavaScript | Go | C |
|---|---|---|---|---|---|---|
| text | `string` | `String` | `str` | `string` | `string` | pointer and length |
| bytes | `list<u8>` | `Vec<u8>` | `bytes` | `Uint8Array` | `[]uint8` | pointer and length |
| may be missing | `option<T>` | `Option<T>` | `T` or `None` | `T` or `undefined` | `abi.Option[T]` | `is_some`, `val` |
| 64 bits | `u64` | `u64` | `int` | `number`, exact to 2^53 | `uint64` | `uint64_t` |
| an answer or an error | `result<T, E>` | `Result<T, E>` | returned, `raise Err(E)` | returned, `throw` | `abi.Result[T, E]` | `bool`, two pointers |

";

#[test]
fn the_reference_is_current() {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit.join("v0.1.0")).unwrap();
    let world = resolve.select_world(&[package], Some("transform")).unwrap();
    let mut text = HEAD.to_owned();
    let package = &resolve.packages[package];
    writeln!(text, "## Package `{}`\n\n{}", package.name, docs(&package.docs)).unwrap();
    for (_, id) in &package.interfaces {
        interface(&mut text, &resolve, &resolve.interfaces[*id]);
    }
    let world = &resolve.worlds[world];
    writeln!(text, "## World `{}`\n\n{}", world.name, docs(&world.docs)).unwrap();
    for (direction, items) in [("imports", &world.imports), ("exports", &world.exports)] {
        for item in items.values() {
            if let WorldItem::Interface { id, .. } = item {
                let name = resolve.interfaces[*id].name.as_deref().unwrap_or_default();
                writeln!(text, "- {direction} [`{name}`](#interface-{name})").unwrap();
            }
        }
    }
    let file = wit.join("REFERENCE.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    if there != text {
        let diff = similar::TextDiff::from_lines(&there, &text);
        panic!(
            "wit/REFERENCE.md is out of date: run UPDATE_REFERENCE=1 cargo test --test reference\n{}",
            diff.unified_diff()
        );
    }
}

fn interface(text: &mut String, resolve: &Resolve, interface: &Interface) {
    let name = interface.name.as_deref().unwrap_or_default();
    writeln!(text, "## Interface `{name}`\n\n{}", docs(&interface.docs)).unwrap();
    for (name, id) in &interface.types {
        let ty = &resolve.types[*id];
        // A type that is only imported from another interface is described there.
        if !matches!(ty.kind, TypeDefKind::Type(_)) {
            type_definition(text, resolve, name, ty);
        }
    }
    for function in interface.functions.values() {
        writeln!(text, "### `{}`\n\n{}", signature(resolve, function), docs(&function.docs)).unwrap();
    }
}

fn type_definition(text: &mut String, resolve: &Resolve, name: &str, ty: &TypeDef) {
    type Row<'a> = (String, &'a Docs);
    let typed = |name: &str, ty: Option<&Type>| match ty {
        Some(ty) => format!("`{name}`: `{}`", type_name(resolve, ty)),
        None => format!("`{name}`"),
    };
    let (kind, rows): (&str, Vec<Row<'_>>) = match &ty.kind {
        TypeDefKind::Record(record) => {
            ("record", record.fields.iter().map(|field| (typed(&field.name, Some(&field.ty)), &field.docs)).collect())
        }
        TypeDefKind::Variant(variant) => {
            ("variant", variant.cases.iter().map(|case| (typed(&case.name, case.ty.as_ref()), &case.docs)).collect())
        }
        TypeDefKind::Enum(of) => ("enum", of.cases.iter().map(|case| (typed(&case.name, None), &case.docs)).collect()),
        other => panic!("{name}: the reference knows no {}", other.as_str()),
    };
    writeln!(text, "### {kind} `{name}`\n\n{}", docs(&ty.docs)).unwrap();
    for (row, row_docs) in rows {
        let told = docs(row_docs).trim_end().replace('\n', "\n  ");
        let colon = if told.is_empty() { "" } else { " — " };
        writeln!(text, "- {row}{colon}{told}").unwrap();
    }
    text.push('\n');
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let params: Vec<String> =
        function.params.iter().map(|param| format!("{}: {}", param.name, type_name(resolve, &param.ty))).collect();
    let result = function.result.as_ref().map(|ty| format!(" -> {}", type_name(resolve, ty)));
    format!("{}({}){}", function.name, params.join(", "), result.unwrap_or_default())
}

fn type_name(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else { return format!("{ty:?}").to_lowercase() };
    let of = |ty: &Option<Type>| ty.as_ref().map_or("_".into(), |ty| type_name(resolve, ty));
    let ty = &resolve.types[*id];
    match (&ty.name, &ty.kind) {
        (Some(name), _) => name.clone(),
        (None, TypeDefKind::List(ty)) => format!("list<{}>", type_name(resolve, ty)),
        (None, TypeDefKind::Option(ty)) => format!("option<{}>", type_name(resolve, ty)),
        (None, TypeDefKind::Result(result)) => format!("result<{}, {}>", of(&result.ok), of(&result.err)),
        (None, TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id))) => format!("{:?}", resolve.types[*id].name),
        (None, other) => panic!("the reference knows no {}", other.as_str()),
    }
}

/// The text of a comment, followed by an empty line.
fn docs(docs: &Docs) -> String {
    docs.contents.as_ref().map_or(String::new(), |text| format!("{}\n", text.trim()))
}
