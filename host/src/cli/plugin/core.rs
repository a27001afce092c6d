//! `reduct-sink plugin passthrough` and `componentize`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use reduct_sink::plugin::{componentize, passthrough};

use super::{CommandError, Exit, failed, write};

#[derive(Debug, Args)]
pub struct Passthrough {
    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Passthrough {
    pub fn execute(self) -> Result<(), CommandError> {
        write(self.output.as_deref(), passthrough())
    }
}

#[derive(Debug, Args)]
pub struct Componentize {
    /// The core module
    #[arg(value_name = "CORE.wasm")]
    core: PathBuf,
    /// Where to write the component
    #[arg(short, long, value_name = "OUT.wasm")]
    output: PathBuf,
}

impl Componentize {
    pub fn execute(self) -> Result<(), CommandError> {
        let core = self.core.display();
        let module = std::fs::read(&self.core).with_context(|| format!("cannot read {core}")).map_err(failed)?;
        let component = componentize::componentize(&module)
            .with_context(|| format!("cannot make a component of {core}"))
            .map_err(|error| CommandError::new(Exit::Plugin, error))?;
        write(Some(&self.output), &component)
    }
}
