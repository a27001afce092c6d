//! `plugin new`: makes a folder with a plugin that builds and passes its tests.
//!
//! Guarantees: no existing file is overwritten; the contract, the SDK and the bindings are embedded from their places
//! in this repository, so that there is one copy of each.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

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

/// The texts of a new folder's README that depend on the language.
struct Words {
    /// The language's name.
    title: &'static str,
    /// The commands to run before the first build.
    prepare: &'static str,
    /// The rows of the table of files.
    files: &'static str,
    /// The list of what an author in this language should know.
    notes: &'static str,
}

fn words(language: Language) -> Words {
    match language {
        Language::Rust => Words {
            title: "Rust",
            prepare: "cargo test                          # the unit tests, on this machine, without WebAssembly\n",
            files: "| `src/lib.rs` | the transform, and its unit tests |\n\
                    | `sdk/` | the crate `reduct-sink-plugin`: leave it as it is |",
            notes: "- An `Err` with a text rejects the record. A panic does so too, with its text, file and line as the reason, \
                    and the next record goes to a fresh instance. So does a trap, and a call that is stopped at its time limit.\n\
                    - `log::info!` and the like write to the host's log. `println!` writes nowhere.\n\
                    - `SystemTime::now()` and `Instant::now()` panic on this target, and there are no files and threads. The \
                    record's time is `record.timestamp`.\n\
                    - `Cargo.lock` pins the crates; Rust 1.95 or later builds them.",
        },
        Language::Python => Words {
            title: "Python",
            prepare: "python3 -m unittest                 # the unit tests, on this machine, without WebAssembly\n\
                      python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n",
            files: "| `app.py` | the transform |\n| `test_app.py` | its unit tests |\n\
                    | `contract.py` | the modules of the contract, for the unit tests: leave it as it is |\n\
                    | `requirements.txt` | pins componentize-py |",
            notes: "- `raise Err(Failure_Reject(\"why\"))` in `transform` rejects the record. Any other exception does so too, with \
                    its type, message, file and line as the reason; its traceback is in the host's log at level debug.\n\
                    - `print` writes to the host's log.\n\
                    - Import at the top of the file: while records flow, no module can be loaded.\n\
                    - `json.loads` guesses the encoding of bytes, and takes a zero byte for UTF-16: write \
                    `json.loads(host.payload().decode())`.\n\
                    - Each call gets a new `Transformer`: what is to be kept from `configure` belongs in a variable of the \
                    module.\n\
                    - `time.time()` stands still unless `grants.clocks` is set: take the record's time, `message.timestamp`.\n\
                    - The component has all of Python in it: 18 MB, which takes seconds to compile. Modules in pure \
                    Python can be imported if they are in this folder.",
        },
        Language::JavaScript => Words {
            title: "JavaScript",
            prepare: "npm install\nnpm test                            # the unit tests, on this machine, without WebAssembly\n",
            files: "| `plugin.js` | the transform, in one file |\n| `test/` | its unit tests, and what replaces the host in them |\n\
                    | `package.json` | pins the tool that puts QuickJS around it |",
            notes: JAVASCRIPT_NOTES,
        },
        Language::TypeScript => Words {
            title: "TypeScript",
            prepare: "npm install\nnpm test                            # the unit tests, on this machine, without WebAssembly\n",
            files: "| `plugin.ts` | the transform, in one file |\n| `contract.d.ts` | the contract's types |\n\
                    | `test/` | its unit tests, and what replaces the host in them |\n\
                    | `package.json` | pins the compiler, and the tool that puts QuickJS around what it makes |",
            notes: JAVASCRIPT_NOTES,
        },
        Language::Go => Words {
            title: "Go",
            prepare: "go test ./transformer               # the unit tests, on this machine, without WebAssembly\n",
            files: "| `transformer/plugin.go` | the transform |\n| `transformer/plugin_test.go` | its unit tests |\n\
                    | `abi/`, `bindings/` | the contract in Go, generated, and what it needs: leave them as they are |",
            notes: "- Go 1.26 or later builds it; it needs no module from elsewhere.\n\
                    - A panic rejects the record, with its text, file and line as the reason: see `defer abi.Recover`.\n\
                    - `fmt.Println` and `log.Print` write to the host's log.\n\
                    - Goroutines don't go on between two calls, and `time.Now()` stands still unless `grants.clocks` is set: \
                    the record's time is `message.Timestamp`.",
        },
        Language::C => Words {
            title: "C",
            prepare: C_UNIT_TESTS,
            files: "| `plugin.c` | the transform |\n| `test/` | its unit tests, and what replaces the host in them |\n\
                    | `json.c`, `json.h` | a small reader of JSON, for the configuration |\n\
                    | `bindings/` | the contract in C, generated: leave it as it is |",
            notes: "- Free what the host passes to you. Take the memory of your answer from `malloc`: the bindings free it.\n\
                    - A trap becomes the reason of the dead letter, with its file and line, after what `assert` or the plugin \
                    printed to `stderr` before. A null pointer doesn't trap in WebAssembly: check for it. What is printed to `stdout` goes to the host's log, at `fflush(stdout)`.\n\
                    - Built with clang 16 or later and wasi-libc, or with Zig's compiler.",
        },
        Language::Cpp => Words {
            title: "C++",
            prepare: ZIG_AND_UNIT_TESTS,
            files: "| `plugin.cpp` | the transform |\n| `test/` | its unit tests, and what replaces the host in them |\n\
                    | `json.hpp` | a small reader of JSON, for the configuration |\n\
                    | `bindings/` | the contract in C, generated: leave it as it is |",
            notes: "- Free what the host passes to you. Take the memory of your answer from `malloc`: the bindings free it.\n\
                    - There are no exceptions in WebAssembly: what would throw one traps. A trap becomes the reason of the \
                    dead letter, with its file and line, after what `assert` or the plugin printed to `stderr` before.\n\
                    - Built with Zig's compiler, or with clang 16 or later and libc++ for WebAssembly.",
        },
        Language::Zig => Words {
            title: "Zig",
            prepare: ZIG_AND_UNIT_TESTS,
            files: "| `plugin.zig` | the transform, and its unit tests |\n\
                    | `test/` | what runs them, and what replaces the host in them |\n\
                    | `bindings/` | the contract in C, generated, and what a panic does: leave it as it is |\n\
                    | `requirements.txt` | pins Zig's compiler |",
            notes: "- Free what the host passes to you. Take the memory of your answer from `heap`: the bindings free it.\n\
                    - An error that `decide` returns rejects the record, with the error's name as the reason. A panic does so \
                    too, with its text, file and line, and the next record goes to a fresh instance.\n\
                    - Zig 0.16 builds it.",
        },
    }
}

const C_UNIT_TESTS: &str =
    "sh test/run                         # the unit tests, on this machine, without WebAssembly\n";

const ZIG_AND_UNIT_TESTS: &str = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n\
    sh test/run                         # the unit tests, on this machine, without WebAssembly\n";

const JAVASCRIPT_NOTES: &str = "- `throw { tag: \"reject\", val: \"why\" }` in `transform` rejects the record. Any exception does so \
    too, with its type, message, file and line as the reason; so does a verdict of a wrong shape, with what was expected.\n\
    - `console.log` and the like write to the host's log.\n\
    - Numbers of 64 bits (offset, timestamp, payloadSize) are plain numbers here, exact up to 2^53; a time in microseconds \
    stays below that until the year 2255.\n\
    - It runs on QuickJS: no `TextDecoder`, no `fetch`, no timers, no Node.js modules. What you import has to be in the file.";
