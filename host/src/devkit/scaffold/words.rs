//! The texts of a new plugin's README that depend on the language.
//!
//! Guarantees: a language without one of them does not compile.

use super::super::project::Language;

/// The texts of a new folder's README that depend on the language.
pub struct Words {
    /// The language's name.
    pub title: &'static str,
    /// The commands to run before the first build.
    pub prepare: &'static str,
    /// The rows of the table of files.
    pub files: &'static str,
    /// The list of what an author in this language should know.
    pub notes: &'static str,
}

/// Those of a language.
pub fn words(language: Language) -> &'static Words {
    match language {
        Language::Rust => &RUST,
        Language::Python => &PYTHON,
        Language::JavaScript => &JAVASCRIPT,
        Language::TypeScript => &TYPESCRIPT,
        Language::Go => &GO,
        Language::C => &C,
        Language::Cpp => &CPP,
        Language::Zig => &ZIG,
    }
}

static RUST: Words = Words {
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
};

static PYTHON: Words = Words {
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
};

static JAVASCRIPT: Words = Words {
    title: "JavaScript",
    prepare: "npm install\nnpm test                            # the unit tests, on this machine, without WebAssembly\n",
    files: "| `plugin.js` | the transform, in one file |\n| `test/` | its unit tests, and what replaces the host in them |\n\
            | `package.json` | pins the tool that puts QuickJS around it |",
    notes: JAVASCRIPT_NOTES,
};

static TYPESCRIPT: Words = Words {
    title: "TypeScript",
    prepare: "npm install\nnpm test                            # the unit tests, on this machine, without WebAssembly\n",
    files: "| `plugin.ts` | the transform, in one file |\n| `contract.d.ts` | the contract's types |\n\
            | `test/` | its unit tests, and what replaces the host in them |\n\
            | `package.json` | pins the compiler, and the tool that puts QuickJS around what it makes |",
    notes: JAVASCRIPT_NOTES,
};

static GO: Words = Words {
    title: "Go",
    prepare: "go test ./transformer               # the unit tests, on this machine, without WebAssembly\n",
    files: "| `transformer/plugin.go` | the transform |\n| `transformer/plugin_test.go` | its unit tests |\n\
            | `abi/`, `bindings/` | the contract in Go, generated, and what it needs: leave them as they are |",
    notes: "- Go 1.26 or later builds it; it needs no module from elsewhere.\n\
            - A panic rejects the record, with its text, file and line as the reason: see `defer abi.Recover`.\n\
            - `fmt.Println` and `log.Print` write to the host's log.\n\
            - Goroutines don't go on between two calls, and `time.Now()` stands still unless `grants.clocks` is set: \
            the record's time is `message.Timestamp`.",
};

static C: Words = Words {
    title: "C",
    prepare: C_UNIT_TESTS,
    files: "| `plugin.c` | the transform |\n| `test/` | its unit tests, and what replaces the host in them |\n\
            | `json.c`, `json.h` | a small reader of JSON, for the configuration |\n\
            | `bindings/` | the contract in C, generated: leave it as it is |",
    notes: "- Free what the host passes to you. Take the memory of your answer from `malloc`: the bindings free it.\n\
            - A trap becomes the reason of the dead letter, with its file and line, after what `assert` or the plugin \
            printed to `stderr` before. A null pointer doesn't trap in WebAssembly: check for it. What is printed to `stdout` goes to the host's log, at `fflush(stdout)`.\n\
            - Built with clang 16 or later and wasi-libc, or with Zig's compiler.",
};

static CPP: Words = Words {
    title: "C++",
    prepare: ZIG_AND_UNIT_TESTS,
    files: "| `plugin.cpp` | the transform |\n| `test/` | its unit tests, and what replaces the host in them |\n\
            | `json.hpp` | a small reader of JSON, for the configuration |\n\
            | `bindings/` | the contract in C, generated: leave it as it is |",
    notes: "- Free what the host passes to you. Take the memory of your answer from `malloc`: the bindings free it.\n\
            - There are no exceptions in WebAssembly: what would throw one traps. A trap becomes the reason of the \
            dead letter, with its file and line, after what `assert` or the plugin printed to `stderr` before.\n\
            - Built with Zig's compiler, or with clang 16 or later and libc++ for WebAssembly.",
};

static ZIG: Words = Words {
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
};

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
