//! `reduct-sink plugin promote` and `rollback`: what may be asked of a running host.

use clap::Args;
use serde_json::json;

use super::super::CommandError;
use super::super::running_host::RunningPipeline;
use super::tell_done;

#[derive(Debug, Args)]
pub struct NamedPlugin {
    /// The plugin's name in the chain
    #[arg(value_name = "PLUGIN")]
    name: String,
    #[command(flatten)]
    host: RunningPipeline,
}

impl NamedPlugin {
    pub fn promote(&self) -> Result<(), CommandError> {
        self.ask("promote")
    }

    pub fn rollback(&self) -> Result<(), CommandError> {
        self.ask("rollback")
    }

    fn ask(&self, action: &str) -> Result<(), CommandError> {
        let done = self.host.ask(reqwest::Method::POST, &format!("plugins/{}/{action}", self.name))?.text;
        tell_done(format_args!("{done}"), &json!({ "done": action, "plugin": self.name, "text": done }));
        Ok(())
    }
}
