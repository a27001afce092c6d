//! The contract's types and calls, generated from `wit/v0.1.0`.
//!
//! Calls are asynchronous, so that one can be given up while the host waits on its behalf. [`direct`] has the same calls for plugins
//! that never make the host wait.
//!
//! Borrowed ownership: a message is lowered straight from the record's own bytes, nothing is copied on the host's side
//! first. The host functions are linked by hand in [`super::host_functions`], where a payload is lowered from its `Bytes`.

wasmtime::component::bindgen!({
    path: "../wit/v0.1.0",
    world: "transform",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});

/// Calls on the calling thread's own stack. An asynchronous call changes to another stack and back, which takes longer than everything
/// else that the host does about a small call.
pub(super) mod direct {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1.0",
        world: "transform",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "reduct-sink:transform/types": super::reduct_sink::transform::types,
            "reduct-sink:transform/host": super::reduct_sink::transform::host,
        },
    });
}
