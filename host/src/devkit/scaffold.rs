//! `plugin new`: makes a folder with a plugin that builds and passes its tests.
//!
//! Guarantees: no existing file is overwritten; the contract, the SDK and the bindings are embedded from their places
//! in this repository, so that there is one copy of each.

mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use self::words::{Words, words};
use super::project::{Language, check_name};
use crate::config::in_full;

/// The path of a file in a new folder, and its text, in which `{{name}}` and the like are placeholders.
type TemplateFile = (&'static str, &'static str);

const COMMON: &[TemplateFile] = &[
    ("plugin.toml", include_str!("templates/common/plugin.toml")),
    ("README.md", include_str!("templates/common/README.md")),
    ("fixtures/cases.toml", include_str!("templates/common/cases.toml")),
    ("fixtures/cases.expected.toml", include_str!("templates/common/cases.expected.toml")),
    ("wit/transform.wit", include_str!("../../../wit/v0.1.0/transform.wit")),
];

const RUST: &[TemplateFile] = &[
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml")),
    ("Cargo.lock", include_str!("templates/rust/Cargo.lock")),
    ("src/lib.rs", include_str!("templates/rust/src/lib.rs")),
    ("sdk/Cargo.toml", include_str!("templates/rust/sdk.toml")),
    ("sdk/src/lib.rs", include_str!("../../../plugins/sdk/src/lib.rs")),
    ("sdk/src/change.rs", include_str!("../../../plugins/sdk/src/change.rs")),
    ("sdk/src/config.rs", include_str!("../../../plugins/sdk/src/config.rs")),
    ("sdk/src/guest.rs", include_str!("../../../plugins/sdk/src/guest.rs")),
    ("sdk/src/record.rs", include_str!("../../../plugins/sdk/src/record.rs")),
    ("sdk/src/stored.rs", include_str!("../../../plugins/sdk/src/stored.rs")),
    ("sdk/src/testing.rs", include_str!("../../../plugins/sdk/src/testing.rs")),
    (".gitignore", "/build/\n/target/\n"),
];

const PYTHON: &[TemplateFile] = &[
    ("app.py", include_str!("templates/python/app.py")),
    ("test_app.py", include_str!("templates/python/test_app.py")),
    ("contract.py", include_str!("templates/python/contract.py")),
    ("requirements.txt", include_str!("templates/python/requirements.txt")),
    (".gitignore", "/build/\n/.venv/\n__pycache__/\n"),
];

const JAVASCRIPT: &[TemplateFile] = &[
    ("plugin.js", include_str!("templates/javascript/plugin.js")),
    ("package.json", include_str!("templates/javascript/package.json")),
];

const TYPESCRIPT: &[TemplateFile] = &[
    ("plugin.ts", include_str!("templates/typescript/plugin.ts")),
    ("contract.d.ts", include_str!("../../../examples/typescript/contract.d.ts")),
    ("tsconfig.json", include_str!("templates/typescript/tsconfig.json")),
    ("package.json", include_str!("templates/typescript/package.json")),
];

/// The files that JavaScript and TypeScript have in common.
const QUICKJS: &[TemplateFile] = &[
    ("test/plugin.test.js", include_str!("templates/javascript/test/plugin.test.js")),
    ("test/host.js", include_str!("templates/javascript/test/host.js")),
    (".gitignore", "/build/\n/node_modules/\n"),
];

const GO: &[TemplateFile] = &[
    ("transformer/plugin.go", include_str!("templates/go/plugin.go")),
    ("transformer/plugin_test.go", include_str!("templates/go/plugin_test.go")),
    ("go.mod", include_str!("../../../examples/go/go.mod")),
    ("abi/abi.go", include_str!("../../../examples/go/abi/abi.go")),
    ("abi/empty.s", include_str!("../../../examples/go/abi/empty.s")),
    ("bindings/wit_exports.go", include_str!("../../../examples/go/bindings/wit_exports.go")),
    ("bindings/host/wit_bindings_wasm.go", include_str!("../../../examples/go/bindings/host/wit_bindings_wasm.go")),
    ("bindings/host/native.go", include_str!("../../../examples/go/bindings/host/native.go")),
    ("bindings/host/empty.s", include_str!("../../../examples/go/bindings/host/empty.s")),
    ("bindings/types/empty.s", include_str!("../../../examples/go/bindings/types/empty.s")),
    ("bindings/types/wit_bindings.go", include_str!("../../../examples/go/bindings/types/wit_bindings.go")),
    (".gitignore", "/build/\n"),
];

const C: &[TemplateFile] = &[
    ("plugin.c", include_str!("templates/c/plugin.c")),
    ("json.c", include_str!("../../../examples/c/json.c")),
    ("json.h", include_str!("../../../examples/c/json.h")),
    ("test/plugin_test.c", include_str!("templates/c/test/plugin_test.c")),
    ("test/run", include_str!("templates/c/test/run")),
];

const CPP: &[TemplateFile] = &[
    ("plugin.cpp", include_str!("templates/cpp/plugin.cpp")),
    ("json.hpp", include_str!("templates/cpp/json.hpp")),
    ("test/plugin_test.cpp", include_str!("templates/cpp/test/plugin_test.cpp")),
    ("test/run", include_str!("templates/cpp/test/run")),
    ("requirements.txt", ZIG_PIN),
];

const ZIG: &[TemplateFile] = &[
    ("plugin.zig", include_str!("templates/zig/plugin.zig")),
    ("bindings/panic.zig", include_str!("../../../examples/zig/bindings/panic.zig")),
    ("test/run", include_str!("templates/zig/test/run")),
    ("requirements.txt", ZIG_PIN),
];

/// The files that the languages with bindings in C have in common.
const C_BINDINGS: &[TemplateFile] = &[
    ("bindings/transform.c", include_str!("../../../examples/c/bindings/transform.c")),
    ("bindings/transform.h", include_str!("../../../examples/c/bindings/transform.h")),
    ("test/host.c", include_str!("templates/c/test/host.c")),
    ("test/host.h", include_str!("templates/c/test/host.h")),
    (".gitignore", "/build/\n/.venv/\n"),
];

/// Pins Zig's compiler, which compiles C++, too.
const ZIG_PIN: &str = include_str!("../../../examples/zig/requirements.txt");

const C_BINARIES: &[(&str, &[u8])] = &[(
    "bindings/transform_component_type.o",
    include_bytes!("../../../examples/c/bindings/transform_component_type.o"),
)];

/// Where the SDK finds the contract: in this repository, and in a new folder.
const SDK_CONTRACT: (&str, &str) = ("../../wit/v0.1.0", "../wit");

/// Makes the folder and returns the paths of its files in the order in which they were written.
pub fn create(folder: &Path, name: &str, language: Language) -> anyhow::Result<Vec<PathBuf>> {
    check_name(name)?;
    if folder.exists()
        && fs::read_dir(folder).with_context(|| format!("can't read {}", in_full(folder)))?.next().is_some()
    {
        bail!("{} exists already and isn't empty; name another folder", in_full(folder));
    }
    let mut written = Vec::new();
    for (path, content) in files(language) {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("can't make {}", in_full(parent)))?;
        fs::write(&path, filled(content, name, language)).with_context(|| format!("can't write {}", in_full(&path)))?;
        written.push(path);
    }
    for (path, content) in binary_files(language) {
        let path = folder.join(path);
        fs::write(&path, content).with_context(|| format!("can't write {}", in_full(&path)))?;
        written.push(path);
    }
    Ok(written)
}

fn files(language: Language) -> impl Iterator<Item = &'static TemplateFile> {
    let (own, shared): (&[TemplateFile], &[TemplateFile]) = match language {
        Language::Rust => (RUST, &[]),
        Language::Python => (PYTHON, &[]),
        Language::JavaScript => (JAVASCRIPT, QUICKJS),
        Language::TypeScript => (TYPESCRIPT, QUICKJS),
        Language::Go => (GO, &[]),
        Language::C => (C, C_BINDINGS),
        Language::Cpp => (CPP, C_BINDINGS),
        Language::Zig => (ZIG, C_BINDINGS),
    };
    COMMON.iter().chain(own).chain(shared)
}

fn binary_files(language: Language) -> &'static [(&'static str, &'static [u8])] {
    match language {
        Language::C | Language::Cpp | Language::Zig => C_BINARIES,
        _ => &[],
    }
}

fn filled(content: &str, name: &str, language: Language) -> String {
    let Words { title, prepare, files, notes } = words(language);
    let script = if language == Language::TypeScript { "../build/plugin.js" } else { "../plugin.js" };
    let content = content.replace("{{script}}", script);
    let content = content.replace("{{files}}", files).replace("{{notes}}", notes).replace("{{prepare}}\n", prepare);
    let content = content.replace("{{name}}", name).replace("{{language}}", language.name());
    content.replace("{{Language}}", title).replace(SDK_CONTRACT.0, SDK_CONTRACT.1)
}
