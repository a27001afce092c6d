//! `reduct-sink run`.

use clap::Args;
use reduct_sink::{config, pipeline};

use super::dry_run::DryRun;
use super::options::ConfigFlags;
use super::{CommandError, Exit, is_json};

#[derive(Debug, Args)]
pub struct RunCommand {
    #[command(flatten)]
    options: ConfigFlags,
    #[command(flatten)]
    dry_run: DryRun,
}

impl RunCommand {
    pub fn execute(self) -> Result<(), CommandError> {
        let (pipelines, sources) = self.options.load()?.with_warnings_logged();
        if let Some(warning) = config::warning_of_process() {
            tracing::warn!("{warning}");
        }
        if self.dry_run.is_wanted() {
            let config =
                pipelines.only().map_err(|problem| CommandError::new(Exit::Usage, anyhow::Error::msg(problem)))?;
            return self.dry_run.execute(&config);
        }
        pipeline::run(&pipelines, sources).map_err(|error| {
            let failure = CommandError::of(error);
            if failure.code.exit() == Exit::Usage {
                return failure;
            }
            // What happens to a running host belongs into its log.
            let error = failure.error.filter(|error| {
                tracing::error!("{error:#}");
                is_json()
            });
            CommandError { error, ..failure }
        })
    }
}
