//! The contract's types and calls, generated from `wit/v0.1.0`.
//!
//! Calls are asynchronous, so that one can be given up while the host waits on its behalf.
//!
//! Borrowed ownership: a message is lowered straight from the record's own bytes, nothing is copied on the host's side
//! first. The host functions are linked by hand in [`super::host_functions`], where a payload is lowered from its `Bytes`.

wasmtime::component::bindgen!({
    path: "../wit/v0.1.0",
    world: "transform",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});
