//! `reduct-sink run`.

use clap::Args;
use reduct_sink::{config, pipeline};

use super::dry_run::DryRun;
use super::options::ConfigFlags;
use super::{CommandError, Exit};

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
        pipeline::run(&pipelines, sources).map_err(|error| match Exit::from(&error) {
            Exit::Usage => CommandError::of(error),
            // What happens to a running host belongs into its log.
            exit => {
                tracing::error!("{error:#}");
                CommandError::reported(exit)
            }
        })
    }
}
