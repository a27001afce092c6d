//! `reduct-sink config`: what is generated from the key table.

use clap::Subcommand;
use reduct_sink::config;

use super::{CommandError, Exit, print};

#[derive(Debug, Subcommand)]
pub enum Configuration {
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print a configuration file with every key and its default
    Example,
}

impl Configuration {
    pub fn execute(self) -> Result<(), CommandError> {
        let text = match self {
            Self::Schema => serde_json::to_string_pretty(&config::schema()),
            Self::Example => Ok(config::example()),
        };
        let text = text.map_err(|error| CommandError::new(Exit::Failed, error))?;
        print(text.trim_end());
        Ok(())
    }
}
