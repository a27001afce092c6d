//! `reduct-sink plugin passthrough` and `componentize`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use reduct_sink::config::in_full;
use reduct_sink::plugin::line_table::with_line_table;
use reduct_sink::plugin::{componentize, passthrough};
use serde_json::json;

use super::{CommandError, ErrorCode, Exit, failed, is_json, print, write};

#[derive(Debug, Args)]
pub struct Passthrough {
    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Passthrough {
    pub fn execute(self) -> Result<(), CommandError> {
        if is_json() && self.output.is_none() {
            let problem = "--json needs --output: the component itself goes to standard output otherwise";
            return Err(CommandError::new(ErrorCode::CommandLine, anyhow::Error::msg(problem)));
        }
        write(self.output.as_deref(), passthrough())?;
        if let Some(output) = self.output.filter(|_| is_json()) {
            print(json!({ "component": output.display().to_string() }));
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub struct Componentize {
    /// The core module; if it has debug information, the component gets a table of the lines of files below this folder
    /// instead
    #[arg(value_name = "CORE.wasm")]
    core: PathBuf,
    /// Where to write the component
    #[arg(short, long, value_name = "OUT.wasm")]
    output: PathBuf,
}

impl Componentize {
    pub fn execute(self) -> Result<(), CommandError> {
        let core = in_full(&self.core);
        let module = std::fs::read(&self.core).with_context(|| format!("cannot read {core}")).map_err(failed)?;
        let folder = std::env::current_dir().context("this folder can't be found").map_err(failed)?;
        let module = with_line_table(&module, &folder);
        let component = componentize::componentize(&module)
            .with_context(|| format!("cannot make a component of {core}"))
            .map_err(|error| CommandError::new(Exit::Plugin, error))?;
        write(Some(&self.output), &component)?;
        if is_json() {
            print(json!({ "component": self.output.display().to_string() }));
        }
        Ok(())
    }
}
