//! The plugin inside the binary.

/// The passthrough: a component of the contract that keeps every record as it is. `host/build.rs` makes it from
/// `plugins/passthrough`; any host of the contract can load it.
pub fn passthrough() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/passthrough.wasm"))
}
