//! Tests plugins and chains with guests that behave well and badly. The guests are made of text, so that no toolchain
//! for WebAssembly is needed.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests may")]

mod attacks;
mod bed;
mod caching;
mod compiling;
mod configured;
mod directories;
mod failures;
mod grants;
mod guest;
mod hosting;
mod limits;
mod loading;
mod old_guests;
mod rollout;
mod shapes;
mod swapping;
mod verdicts;
mod waits;
