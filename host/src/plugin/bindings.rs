//! The contract's types and calls, generated from `wit/v0.1.0`.
//!
//! Calls run on the calling thread's own stack. [`concurrent`] has the same calls for the engine on which they are asynchronous.
//!
//! Borrowed ownership: a message is lowered straight from the record's own bytes, nothing is copied on the host's side
//! first. The host functions are linked by hand in [`super::host_functions`], where a payload is lowered from its `Bytes`.

wasmtime::component::bindgen!({
    path: "../wit/v0.1.0",
    world: "transform",
    ownership: Borrowing { duplicate_if_necessary: true },
});

/// For components that use the component model's own asynchronous functions.
pub(super) mod concurrent {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1.0",
        world: "transform",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "reduct-sink:transform/types": super::reduct_sink::transform::types,
            "reduct-sink:transform/host": super::reduct_sink::transform::host,
        },
    });
}
