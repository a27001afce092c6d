//! Plugins and chains against guests that behave in every way, made here from text: no WebAssembly toolchain is needed.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests may")]

mod attacks;
mod bed;
mod caching;
mod compiling;
mod failures;
mod grants;
mod guest;
mod hosting;
mod lifecycle;
mod limits;
mod loading;
mod swapping;
mod verdicts;
