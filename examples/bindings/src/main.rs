//! Writes the committed bindings for C, C++, Zig and Go; with `--check` it only names those that aren't current.
//!
//! Guarantees: the committed bindings are byte for byte what these pinned generators make of `wit/`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};

/// Names that `wit-bindgen go` makes of the contract, and the names that they get here. The runtime is `examples/go/abi`.
const GO_NAMES: [(&str, &str); 8] = [
    ("\"go.bytecodealliance.org/pkg/wit/runtime\"", "\"plugin/abi\""),
    ("\"go.bytecodealliance.org/pkg/wit/types\"", "\"plugin/abi\""),
    ("\"wit_component/export_reduct_sink_transform_transformer\"", "\"plugin/transformer\""),
    ("\"wit_component/", "\"plugin/bindings/"),
    ("export_reduct_sink_transform_transformer", "transformer"),
    ("reduct_sink_transform_types", "types"),
    // The ending `_wasm` keeps the file out of tests without WebAssembly, which are compiled with `native.go` instead.
    ("reduct_sink_transform_host/wit_bindings.go", "host/wit_bindings_wasm.go"),
    ("reduct_sink_transform_host", "host"),
];

fn main() -> Result<ExitCode> {
    let check = std::env::args().any(|argument| argument == "--check");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no folder above")?;
    let c = generate(wit_bindgen_c::Opts::default().build(), examples)?;
    let go = generate(wit_bindgen_go::Opts::default().build(), examples)?;
    let c: Vec<_> = c.iter().map(|(name, contents)| (name.to_owned(), contents.to_owned())).collect();
    let go: Vec<_> = go.iter().filter_map(|(name, contents)| in_go(name, contents)).collect();
    let mut current = true;
    for (language, files) in [("c", &c), ("cpp", &c), ("zig", &c), ("go", &go)] {
        for (name, contents) in files {
            let path = examples.join(language).join("bindings").join(name);
            if std::fs::read(&path).ok().as_ref() == Some(contents) {
                continue;
            }
            current = false;
            println!("{} {}", if check { "not current:" } else { "written:" }, path.display());
            if !check {
                std::fs::create_dir_all(path.parent().context("no folder above")?)?;
                std::fs::write(&path, contents).with_context(|| path.display().to_string())?;
            }
        }
    }
    Ok(if current || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn generate(mut generator: Box<dyn WorldGenerator>, examples: &Path) -> Result<Files> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(examples.join("../wit/v0.1.0"))?;
    let world = resolve.select_world(&[package], Some("transform"))?;
    let mut files = Files::default();
    generator.generate(&mut resolve, world, &mut files)?;
    Ok(files)
}

/// The file's name and text for the folder of a plugin; `None`: the folder has such a file already.
fn in_go(name: &str, contents: &[u8]) -> Option<(String, Vec<u8>)> {
    if name == "go.mod" || name.starts_with("reduct_sink_transform_transformer/") {
        return None;
    }
    let rename = |text: &str| GO_NAMES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let text = String::from_utf8(contents.to_vec()).ok()?;
    Some((rename(name), rename(&text).into_bytes()))
}
