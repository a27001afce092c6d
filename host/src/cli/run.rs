//! `reduct-sink run`.

use clap::Args;
use reduct_sink::kafka::metadata::CheckError;
use reduct_sink::pipeline::{self, RunError};
use reduct_sink::source::SourceError;

use super::dry_run::DryRun;
use super::options::Options;
use super::{Exit, Failure};

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    dry_run: DryRun,
}

impl Run {
    pub fn execute(self) -> Result<(), Failure> {
        let (config, sources) = self.options.load_from()?;
        if self.dry_run.is_wanted() {
            return self.dry_run.execute(&config);
        }
        pipeline::run(&config, sources).map_err(|error| match exit(&error) {
            Exit::Usage => Failure::new(Exit::Usage, error),
            // What happens to a running sink belongs into its log.
            exit => {
                tracing::error!("{error:#}");
                Failure { exit, error: None }
            }
        })
    }
}

fn exit(error: &RunError) -> Exit {
    match error {
        RunError::Plugin(_) => Exit::Plugin,
        RunError::Kafka(SourceError::Configuration(_) | SourceError::Away(CheckError::Property(_))) => Exit::Usage,
        RunError::Kafka(_) | RunError::Store { .. } => Exit::Unreachable,
        RunError::Failed(_) => Exit::Failed,
    }
}
