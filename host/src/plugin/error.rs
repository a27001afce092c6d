//! Why a plugin can't be loaded: each problem with its remedy.

use std::io;

use super::contract::{CONTRACT, START_TIMEOUT};
use super::digest::Digest;
use super::remote::FetchError;
use super::signature::SignatureError;
use crate::record::text::one_line;

/// How many of a component's names a message tells, and of each this many bytes.
const NAMES: usize = 10;
const NAME_BYTES: usize = 200;
/// Of what the compiler says.
const TEXT_BYTES: usize = 2000;

/// A plugin that didn't load. Its text names the plugin, the file, what was found and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("plugin `{plugin}` ({file}) {problem}; {}", problem.remedy())]
pub struct LoadError {
    /// The plugin's name in the configuration.
    pub plugin: String,
    /// As configured; `builtin` for the passthrough inside the binary.
    pub file: String,
    /// Why it can't be loaded.
    pub problem: LoadProblem,
}

/// Why a plugin can't be loaded.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum LoadProblem {
    #[error("isn't there")]
    NotFound,
    #[error("can't be read: {0}")]
    Unreadable(#[source] io::Error),
    #[error("{0}")]
    Fetch(#[source] Box<FetchError>),
    #[error("has {found} bytes, and {most} are the most")]
    TooLarge { found: u64, most: u64 },
    #[error("has the sha256 {found}, and its `sha256` in the configuration lets in {pinned} only")]
    OtherDigest { found: Digest, pinned: String },
    #[error("{0}")]
    Signature(#[source] SignatureError),
    #[error("is empty")]
    Empty,
    #[error("is a core module, not a component")]
    CoreModule,
    #[error("is text, not a component")]
    Text,
    #[error("isn't WebAssembly: it begins with {0}")]
    NotWasm(String),
    #[error("ends too early, as if it were cut off: {}", shown(.0))]
    Truncated(String),
    #[error("isn't a component that this host can compile: {}", shown(.0))]
    Compile(String),
    #[error("takes more than its limit to compile: {0}")]
    TooCostly(String),
    #[error("asks for {}, this host offers {CONTRACT}", shown(asks))]
    OtherVersion { asks: String },
    #[error("doesn't export reduct-sink:transform/transformer; it exports {}", list(.exports))]
    WrongWorld { exports: Vec<String> },
    #[error("has another shape than the contract {CONTRACT}: {}", shown(.0))]
    WrongShape(String),
    #[error("imports what this host doesn't offer: {}", list(.0))]
    UnknownImports(Vec<String>),
    #[error("can't be given what it is granted: {0}")]
    Grant(String),
    #[error("trapped when it was started: {0}")]
    StartTrapped(String),
    #[error("refuses its configuration: {0}")]
    ConfigureRefused(String),
    #[error("trapped in `configure`: {0}")]
    ConfigureTrapped(String),
    #[error("wasn't ready within {START_TIMEOUT:?}: it was stopped while it started")]
    StartTimedOut,
    #[error("couldn't be started by the host: {0}")]
    Host(String),
}

impl LoadProblem {
    /// From a fetch, whose error is large.
    pub(super) fn of_fetching(error: FetchError) -> Self {
        Self::Fetch(Box::new(error))
    }

    /// From what the compiler says.
    pub(super) fn of_compiling(text: &str) -> Self {
        // The parser's messages may have line breaks.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.contains("unexpected end") { Self::Truncated(text) } else { Self::Compile(text) }
    }

    /// What the operator or the plugin's author can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotFound => {
                "check the path; a relative one in a configuration file starts at the folder of that file"
            }
            Self::Unreadable(_) => "check the file's permissions and that it is a regular file",
            Self::Fetch(error) => error.remedy(),
            Self::TooLarge { .. } => "make it smaller (strip it), or raise the plugin's `limits.file_size`",
            Self::OtherDigest { .. } => "put the file back, or change `sha256` once you trust this one",
            Self::Signature(_) => {
                "sign it (`minisign -Sm FILE`) with a key of `trust.signed_by`, and put FILE.minisig beside it; for a \
                 registry, push both again with `reduct-sink plugin push`"
            }
            Self::Empty => "copy the component to a temporary name and rename it over the file",
            Self::CoreModule => "make a component of it: `reduct-sink plugin componentize CORE.wasm --output OUT.wasm`",
            Self::Text => "compile it; a plugin is a binary component",
            Self::NotWasm(_) => "give the file that the plugin's build made",
            Self::Truncated(_) => "copy the file again, and compare the sizes",
            Self::Compile(_) => "build it again with a current toolchain, and check it with `wasm-tools validate`",
            Self::TooCostly(_) => "make it smaller, or raise `limits.compile_memory` and `limits.compile_time`",
            Self::OtherVersion { .. } => {
                "build the plugin against the WIT of that version, or take a host that offers the other"
            }
            Self::WrongWorld { .. } => "build the plugin for the world `transform` of reduct-sink:transform",
            Self::WrongShape(_) => "generate the bindings from the released WIT again and rebuild",
            Self::UnknownImports(_) => "build without them, or take a host that offers them",
            Self::Grant(_) => "correct the plugin's `grants`, or provide what they name",
            Self::StartTrapped(_) | Self::ConfigureTrapped(_) => "the plugin's author has to fix this",
            Self::ConfigureRefused(_) => "change the plugin's `config`",
            Self::StartTimedOut => "make `configure` faster",
            Self::Host(_) => {
                "raise `plugins.memory` if that is too little, or the limits on memory and threads of the host's process"
            }
        }
    }

    /// Whether a file that is still being written may look like this.
    pub(crate) fn may_be_half_written(&self) -> bool {
        !matches!(
            self,
            Self::ConfigureRefused(_)
                | Self::ConfigureTrapped(_)
                | Self::StartTimedOut
                | Self::TooCostly(_)
                | Self::Fetch(_)
                | Self::Grant(_)
                | Self::Host(_)
        )
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".into();
    }
    let mut shown: Vec<String> = names.iter().take(NAMES).map(|name| one_line(name, NAME_BYTES)).collect();
    if names.len() > NAMES {
        shown.push(format!("and {} more", names.len() - NAMES));
    }
    shown.join(", ")
}

/// A text that may hold names from inside the component.
fn shown(text: &str) -> String {
    one_line(text, TEXT_BYTES)
}
