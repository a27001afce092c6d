//! From a core module to a component, as `wasm-tools component embed` and `new` would do it, with the contract built in.
//!
//! Guarantees: what it makes is valid. Bindings for Rust, C and Zig leave in the module the world that they were generated
//! from; a module without one (Go's) is taken for this contract's. What a module asks of WASI 0.1 is adapted to WASI 0.2.

use anyhow::{Context, ensure};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../../wit/v0.1.0/transform.wit");
const WORLD: &str = "transform";
/// The beginning of the names of the sections in which bindings leave their world.
const WORLD_SECTION: &[u8] = b"component-type";

/// Makes a validated component of a core module.
pub fn componentize(core_module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(core_module.starts_with(b"\0asm"), "not WebAssembly: the first bytes aren't `\\0asm`");
    ensure!(!core_module.starts_with(b"\0asm\x0d\0\x01\0"), "already a component");
    let mut module = core_module.to_vec();
    if !core_module.windows(WORLD_SECTION.len()).any(|bytes| bytes == WORLD_SECTION) {
        embed_contract(&mut module)?;
    }
    let encoder = ComponentEncoder::default().validate(true);
    let mut encoder = encoder
        .module(&module)
        .context("the core module can't be read")?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
        .context("the adapter from WASI 0.1 can't be read")?;
    encoder
        .encode()
        .context("no component can be made of this module: was it built with the bindings of the contract's world?")
}

fn embed_contract(module: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("transform.wit", CONTRACT)?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
        .context("the contract can't be written into the core module")
}
