//! From a core module to a component, for guests built for `wasm32-unknown-unknown`: their bindings leave the world
//! that they were generated from in a custom section.

use anyhow::{Context, ensure};
use wit_component::ComponentEncoder;

/// Makes a validated component of a core module.
pub fn componentize(core_module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(core_module.starts_with(b"\0asm"), "not WebAssembly: the first bytes aren't `\\0asm`");
    ensure!(!core_module.starts_with(b"\0asm\x0d\0\x01\0"), "already a component");
    let encoder = ComponentEncoder::default().validate(true);
    let mut encoder = encoder.module(core_module).context("the core module can't be read")?;
    encoder.encode().map_err(|error| {
        let text = format!("{error:#}");
        if text.contains("wasi_snapshot_preview1") {
            error.context(
                "the core module uses WASI 0.1 (it imports wasi_snapshot_preview1), which needs an adapter: build it \
                 for wasm32-unknown-unknown or wasm32-wasip2",
            )
        } else {
            error.context("no component can be made of this module: was it built with the bindings of a WIT world?")
        }
    })
}
