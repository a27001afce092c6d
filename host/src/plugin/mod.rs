//! Plugins: WebAssembly components of the contract `reduct-sink:transform`.
mod bindings;
