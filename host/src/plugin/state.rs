//! What a running instance shares with the host: the record at hand, its memory limit and its sandbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::http_client::HttpClient;
use super::log::{Level, PluginLog};
use super::memory::Memory;
use super::open_files::OpenFiles;
use super::sandbox::Sandbox;
use crate::config::Grants;
use crate::record::OutputRecord;
use crate::record::labels::LabelRules;

/// What an instance is started with on the host's side.
pub(super) struct Setting<'a> {
    pub memory_bytes: u64,
    /// Of an instance of one of its core modules, in the host's memory.
    pub core_state: usize,
    /// Lines that one call may log.
    pub log_lines: u64,
    pub grants: &'a Arc<Grants>,
    pub log: &'a Arc<PluginLog>,
    pub http: Option<&'a Arc<HttpClient>>,
    /// Of all instances of the version.
    pub files: &'a Arc<OpenFiles>,
    /// What its hash tables are seeded with.
    pub seed: u64,
    /// Which labels the plugin sees.
    pub labels: &'a Arc<LabelRules>,
    /// Of starting and configuring it.
    pub time_limit: Duration,
}

pub(super) struct State {
    /// The records that `transform` is called with, one after the other, as they stand; empty outside of it.
    pub outputs: Vec<OutputRecord>,
    /// The one of `outputs` that the present call is about.
    pub at: usize,
    /// When the present call has to be over.
    pub deadline: Instant,
    pub memory: Memory,
    pub sandbox: Sandbox,
    pub seed: u64,
    /// Which labels the plugin sees.
    pub labels: Arc<LabelRules>,
    /// How many lines the present call may still log.
    log_lines: u64,
}

impl State {
    /// Fails if something that the plugin is granted doesn't exist.
    pub fn new(setting: &Setting<'_>) -> Result<Self, String> {
        Ok(Self {
            outputs: Vec::new(),
            at: 0,
            deadline: Instant::now() + setting.time_limit,
            memory: Memory::new(setting.memory_bytes, setting.core_state),
            sandbox: Sandbox::new(setting.grants, setting.log, setting.http, setting.files, setting.time_limit)?,
            seed: setting.seed,
            labels: Arc::clone(setting.labels),
            log_lines: setting.log_lines,
        })
    }

    /// The next call is about the output at this place. `None`: there is none.
    pub fn turn_to(&mut self, at: usize, log_lines: u64) -> Option<&OutputRecord> {
        self.at = at;
        self.log_lines = log_lines;
        self.sandbox.next_record();
        self.present()
    }

    /// The record that the present call is about.
    pub fn present(&self) -> Option<&OutputRecord> {
        self.outputs.get(self.at)
    }

    /// The same, for a function that may only be called during `transform`.
    pub fn output(&self, function: &str) -> wasmtime::Result<&OutputRecord> {
        self.present()
            .ok_or_else(|| wasmtime::Error::msg(format!("`{function}` may only be called during `transform`")))
    }

    pub fn log(&mut self, level: Level, text: &str) -> wasmtime::Result<()> {
        let left = self.log_lines.checked_sub(1);
        self.log_lines = left.ok_or_else(|| wasmtime::Error::msg("it logged more lines in one call than it may"))?;
        let record = self.present().map(|output| &*output.input);
        if matches!(level, Level::Error) {
            // The SDKs report a panic so. Whether it is one shows when the call is over.
            self.sandbox.printout.hold_error(text, record);
        } else {
            self.write_printout();
            self.sandbox.log.line(level, text, record);
        }
        Ok(())
    }

    /// Writes what waits of what the plugin printed during the present call to the log, with the record that the call is about.
    pub fn write_printout(&self) {
        self.sandbox.printout.write(self.present().map(|output| &*output.input));
    }
    /// The same after the call has failed.
    pub fn write_printout_of_failure(&self) {
        self.sandbox.printout.write_failure(self.present().map(|output| &*output.input));
    }
}
