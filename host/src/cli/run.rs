//! `reduct-sink run`.

use clap::Args;
use reduct_sink::{config, pipeline};

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
        let (config, sources) = self.options.load()?.with_warnings_logged();
        if let Some(warning) = config::warning_of_process() {
            tracing::warn!("{warning}");
        }
        if self.dry_run.is_wanted() {
            return self.dry_run.execute(&config);
        }
        pipeline::run(&config, sources).map_err(|error| match Exit::from(&error) {
            Exit::Usage => Failure::of(error),
            // What happens to a running host belongs into its log.
            exit => {
                tracing::error!("{error:#}");
                Failure::reported(exit)
            }
        })
    }
}
