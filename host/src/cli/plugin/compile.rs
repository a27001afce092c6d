//! `reduct-sink plugin compile`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;
use reduct_sink::config::in_full;
use reduct_sink::devkit::cache;
use reduct_sink::plugin::{Cache, Runtime};
use serde_json::json;

use super::{CommandError, ErrorCode, Progress, failed, tell_done};

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
        let file = in_full(&self.file);
        let component = std::fs::read(&self.file).with_context(|| format!("cannot read {file}")).map_err(failed)?;
        let started = Instant::now();
        let progress = Progress::start(format!("compiling {file}, {} bytes", component.len()));
        let was_there = runtime.compile_ahead(&component).map_err(|problem| {
            CommandError::new(ErrorCode::from(&problem), anyhow!("{file} {problem}; {}", problem.remedy()))
        })?;
        drop(progress);
        let (ms, folder) = (started.elapsed().as_millis(), in_full(&folder));
        let told = json!({ "file": file, "was_there": was_there, "ms": ms, "folder": folder });
        match was_there {
            true => tell_done(format_args!("{file} was there already, in {folder}"), &told),
            false => tell_done(format_args!("{file} compiled in {ms} ms, to {folder}"), &told),
        }
        Ok(())
    }
}
