//! `reduct-sink plugin`: what plugin authors work with.

mod bench;
mod build;
mod capture;
mod compile;
mod control;
mod core;
mod dev;
mod inspect;
mod new;
mod registry;
mod test;
mod verify;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::Subcommand;
use reduct_sink::config::in_full;

use super::progress::Progress;
use super::{CommandError, ErrorCode, Exit, is_json, print};

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a folder for a new plugin: it builds as it is, and has a test
    New(new::New),
    /// Build a plugin's folder to a component, with the toolchain of its language
    Build(build::Build),
    /// Watch a plugin's folder: build it after each change, run its fixtures, and hand what passed to a running host
    Dev(dev::Dev),
    /// Run fixtures through plugins and compare the results with the expected ones; no server is needed
    Test(test::Test),
    /// Write records of a live topic as fixtures, without joining a group or committing
    Capture(capture::Capture),
    /// Measure the time and memory that a plugin takes, beside the embedded passthrough
    Bench(bench::Bench),
    /// Show what a file is: version, contract, imports, sizes, and why it wouldn't load
    Inspect(inspect::Inspect),
    /// Store a component in an OCI registry, from which hosts can fetch it
    Push(registry::Push),
    /// Check that a plugin is signed by one of these keys
    Verify(verify::Verify),
    /// Compile a plugin into the cache ahead of time, so that a small machine needn't when it starts
    Compile(compile::Compile),
    /// Write the embedded passthrough component
    Passthrough(core::Passthrough),
    /// Make a component of a core module that was built for the contract
    Componentize(core::Componentize),
    /// Make the candidate of a running host the active version, whatever its trial found so far
    Promote(control::NamedPlugin),
    /// End the trial of a running host's candidate, or roll back to the previous version
    Rollback(control::NamedPlugin),
}

impl PluginCommand {
    pub fn execute(self) -> Result<(), CommandError> {
        match self {
            Self::New(new) => new.execute(),
            Self::Build(build) => build.execute(),
            Self::Dev(dev) => dev.execute(),
            Self::Test(test) => test.execute(),
            Self::Capture(capture) => capture.execute(),
            Self::Bench(bench) => bench.execute(),
            Self::Inspect(inspect) => inspect.execute(),
            Self::Push(push) => push.execute(),
            Self::Verify(verify) => verify.execute(),
            Self::Compile(compile) => compile.execute(),
            Self::Passthrough(passthrough) => passthrough.execute(),
            Self::Componentize(componentize) => componentize.execute(),
            Self::Promote(named) => named.promote(),
            Self::Rollback(named) => named.rollback(),
        }
    }
}

fn failed(error: impl Into<anyhow::Error>) -> CommandError {
    let error = error.into();
    CommandError::new(ErrorCode::from(&error), error)
}

fn write(output: Option<&Path>, bytes: &[u8]) -> Result<(), CommandError> {
    let written = match output {
        Some(path) => std::fs::write(path, bytes).with_context(|| format!("cannot write {}", in_full(path))),
        None => std::io::stdout().lock().write_all(bytes).context("cannot write to standard output"),
    };
    written.map_err(|error| CommandError::new(ErrorCode::Output, error))
}

/// A sentence, or what a program reads.
fn tell_done(text: std::fmt::Arguments<'_>, done: &serde_json::Value) {
    if is_json() { print(done) } else { print(text) }
}
