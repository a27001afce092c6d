//! `reduct-sink plugin promote` and `rollback`: what may be asked of a running host.

use clap::Args;

use super::super::Failure;
use super::super::status::RunningHost;
use super::write;

#[derive(Debug, Args)]
pub struct Named {
    /// The plugin's name in the chain
    #[arg(value_name = "PLUGIN")]
    name: String,
    #[command(flatten)]
    host: RunningHost,
}

impl Named {
    pub fn promote(&self) -> Result<(), Failure> {
        self.ask("promote")
    }

    pub fn rollback(&self) -> Result<(), Failure> {
        self.ask("rollback")
    }

    fn ask(&self, action: &str) -> Result<(), Failure> {
        let done = self.host.ask(reqwest::Method::POST, &format!("plugins/{}/{action}", self.name))?;
        write(None, format!("{done}\n").as_bytes())
    }
}
