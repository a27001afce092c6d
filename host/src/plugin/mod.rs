//! Plugins: WebAssembly components of the contract `reduct-sink:transform`, loaded, checked, started and called.
//!
//! Guarantees: whatever a plugin does (traps, loops, eats memory, floods the log, answers nonsense), its caller gets a
//! typed answer within the plugin's time limit and the host goes on; a [`LoadedPlugin`] has been compiled, checked
//! against the contract and started once. `wasmtime` is known only here.

mod bindings;
mod breaker;
mod builtin;
mod cache;
#[cfg(test)]
mod compat_tests;
pub mod componentize;
mod counters;
mod digest;
mod error;
mod files;
mod host;
mod http;
mod instance;
mod loaded;
mod log;
mod message;
mod runtime;
mod sandbox;
mod verdict;

pub use builtin::passthrough;
pub use cache::{Cache, CacheError};
pub use counters::Counts;
pub use digest::Digest;
pub use error::{LoadError, Problem};
pub use loaded::LoadedPlugin;
pub use runtime::Runtime;

pub(crate) use breaker::{Admission, Breaker};
pub(crate) use counters::{CounterSet, Counters, increment};
pub(crate) use instance::{Instance, Trouble};
pub(crate) use message::{RecordView, header_keys};
pub(crate) use runtime::read;
pub(crate) use verdict::{MAX_OUTPUTS, Verdict, apply};
