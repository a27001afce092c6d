//! `reduct-sink config`: what is generated from the key table.

use std::io::Write;

use clap::Subcommand;
use reduct_sink::config;

use super::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum Configuration {
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print a configuration file with every key and its default
    Example,
}

impl Configuration {
    pub fn execute(self) -> Result<(), Failure> {
        let text = match self {
            Self::Schema => serde_json::to_string_pretty(&config::schema()).map(|text| text + "\n"),
            Self::Example => Ok(config::example()),
        };
        let text = text.map_err(|error| Failure::new(Exit::Failed, error))?;
        // A reader that closes the pipe has read enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }
}
