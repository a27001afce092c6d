//! `reduct-sink status`: the state of a running host, once or again and again.
//!
//! Guarantees: with `--json` the host's own report is passed on as it came; `--watch` outlasts a host that is restarted, and ends
//! where nobody reads it any more.

mod text;

use std::time::Duration;

use clap::Args;
use serde_json::Value;

pub(super) use self::text::{replay_line, word};
use self::text::{several, table};
use super::running_host::RunningPipeline;
use super::stdout::write;
use super::{CommandError, is_json};

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Debug, Args)]
pub struct StatusCommand {
    #[command(flatten)]
    host: RunningPipeline,
    /// Show it again every two seconds until interrupted
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

impl StatusCommand {
    pub fn execute(self) -> Result<(), CommandError> {
        if !self.watch {
            return self.show();
        }
        loop {
            write(CLEAR)?;
            // A host that is being restarted comes back.
            if let Err(CommandError { error: Some(error), .. }) = self.show() {
                write(&format!("{error:#}\n"))?;
            }
            std::thread::sleep(WATCH_EVERY);
        }
    }

    fn show(&self) -> Result<(), CommandError> {
        let answer = self.host.ask(reqwest::Method::GET, "status")?;
        let told = if is_json() {
            answer.text
        } else {
            let report = answer.json()?;
            match report.get("pipelines").and_then(Value::as_object) {
                Some(pipelines) => several(pipelines),
                None => table(&report),
            }
        };
        write(&format!("{}\n", told.trim_end()))
    }
}
