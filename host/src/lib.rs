//! `reduct-sink` reads Kafka, hands each record to a chain of WebAssembly plugins, and writes what they answer to
//! ReductStore.
//!
//! A record's way is one-directional: source → worker → chain → sink → checkpoint → commit. `wasmtime` is known only
//! to [`plugin`], `rdkafka` only to [`kafka`] and [`source`], `reduct_rs` only to [`sink`]; [`flow`] and [`record`] are
//! plain values without I/O.

pub mod chain;
pub mod config;
pub mod dead_letters;
pub mod devkit;
pub mod flow;
pub mod health;
pub mod kafka;
pub mod pipeline;
pub mod plugin;
pub mod record;
pub mod recovery;
pub mod rollout;
pub mod sink;
pub mod source;
