//! Plugins: WebAssembly components of the contract `reduct-sink:transform`, loaded, checked, started and called.
//!
//! Guarantees: whatever a plugin does (traps, loops, waits, uses up memory, floods the log, answers nonsense), its caller
//! gets a typed answer within the plugin's time limit and the host goes on; a [`LoadedPlugin`] has been compiled, checked
//! against the contract and started once. `wasmtime` is known only here.

mod bindings;
mod breaker;
mod builtin;
mod cache;
mod call_slot;
#[cfg(test)]
mod compat_tests;
mod compiler;
pub mod componentize;
mod config_version;
mod contract;
mod core_state;
mod counters;
mod digest;
mod engine;
mod error;
mod failing_lines;
mod failure_log;
mod host_calls;
mod host_functions;
mod http;
mod http_client;
#[cfg(test)]
mod http_client_tests;
mod instance;
pub mod line_table;
mod loaded;
mod loader;
mod log;
mod memory;
mod message;
mod open_files;
mod own_files;
mod printout;
mod remote;
mod sandbox;
mod signature;
mod state;
mod verdict;
mod waits;
mod wasi;
mod wasi_files;

pub use builtin::passthrough;
pub use cache::{Cache, CacheError};
pub use compiler::{CHILD_COMMAND, CHILD_ENVIRONMENT, CompileLimits, compile_as_child};
pub use config_version::ConfigVersion;
pub use contract::CONTRACT;
pub use counters::Counts;
pub use digest::Digest;
pub use error::{LoadError, LoadProblem};
pub use failure_log::RecentFailure;
pub use loaded::LoadedPlugin;
pub use loader::{Runtime, SharedEngines};
pub use remote::{FetchError, FetchedComponent, push};
pub use signature::{
    SignatureError, SignedBy, claimed_by, claimed_signer, is_public_key, signature_file, verify, verify_text,
};

pub(crate) use breaker::{Admission, Breaker};
pub(crate) use call_slot::{CallSlot, CallWatch, Overdue, calls_stage};
pub(crate) use counters::{CounterSet, PluginCounters, increment};
pub(crate) use instance::{Instance, Trouble};
pub(crate) use loader::read;
pub(crate) use message::{RecordView, header_keys};
pub(crate) use verdict::{MAX_OUTPUTS, Verdict, apply};
