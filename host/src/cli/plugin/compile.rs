//! `reduct-sink plugin compile`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;
use reduct_sink::devkit::cache;
use reduct_sink::plugin::{Cache, Runtime};

use super::{CommandError, Exit, failed, print};

#[derive(Debug, Args)]
pub struct Compile {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The cache's folder, as in cache.path [default: the one that `run` uses by default]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Compile {
    pub fn execute(self) -> Result<(), CommandError> {
        let folder = self.cache.or_else(Cache::default_folder);
        let folder =
            folder.context("the environment names no folder for a cache; name one by --cache").map_err(failed)?;
        let runtime = Runtime::for_strangers(Some(cache(&folder).map_err(failed)?)).map_err(failed)?;
        let file = self.file.display();
        let component = std::fs::read(&self.file).with_context(|| format!("cannot read {file}")).map_err(failed)?;
        let started = Instant::now();
        let was_there = runtime
            .compile_ahead(&component)
            .map_err(|problem| CommandError::new(Exit::Plugin, anyhow!("{file} {problem}; {}", problem.remedy())))?;
        let (ms, folder) = (started.elapsed().as_millis(), folder.display());
        print(match was_there {
            true => format!("{file} was there already, in {folder}"),
            false => format!("{file} compiled in {ms} ms, to {folder}"),
        });
        Ok(())
    }
}
