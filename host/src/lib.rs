//! `reduct-sink` reads Kafka, hands each record to a chain of WebAssembly plugins, and writes what they answer to
//! ReductStore.
//!
//! A record's way is one-directional: source → partition → chain → sink → checkpoint → commit. `wasmtime` is known only
//! to [`plugin`], `rdkafka` only to [`source`], `reduct_rs` only to [`sink`]; [`checkpoint`] and [`record`] are plain
//! values without I/O.

pub mod assignment;
pub mod chain;
pub mod checkpoint;
pub mod config;
pub mod dead_letter;
pub mod developer;
pub mod labels;
pub mod lifecycle;
pub mod membership;
pub mod names;
pub mod partition;
pub mod pipeline;
pub mod plugin;
pub mod record;
pub mod replay;
pub mod restarts;
pub mod sharded;
pub mod sink;
pub mod source;
pub mod status;
pub mod supervisor;
pub mod watchdog;
