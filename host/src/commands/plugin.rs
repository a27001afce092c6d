//! `reduct-sink plugin`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use reduct_sink::plugin::{componentize, passthrough};

use super::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Write the embedded passthrough component
    Passthrough {
        /// Where to write it [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a component of a core module that was built for the contract
    Componentize {
        /// The core module
        #[arg(value_name = "CORE.wasm")]
        core: PathBuf,
        /// Where to write the component
        #[arg(short, long, value_name = "OUT.wasm")]
        output: PathBuf,
    },
}

impl Plugin {
    pub fn execute(self) -> Result<(), Failure> {
        match self {
            Self::Passthrough { output } => write(output.as_deref(), passthrough()),
            Self::Componentize { core, output } => {
                let module = std::fs::read(&core)
                    .with_context(|| format!("cannot read {}", core.display()))
                    .map_err(|error| Failure::new(Exit::Failed, error))?;
                let component = componentize::componentize(&module)
                    .with_context(|| format!("cannot make a component of {}", core.display()))
                    .map_err(|error| Failure::new(Exit::Plugin, error))?;
                write(Some(&output), &component)
            }
        }
    }
}

fn write(output: Option<&Path>, bytes: &[u8]) -> Result<(), Failure> {
    let written = match output {
        Some(path) => std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display())),
        None => std::io::stdout().lock().write_all(bytes).context("cannot write to standard output"),
    };
    written.map_err(|error| Failure::new(Exit::Failed, error))
}
