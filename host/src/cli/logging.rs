//! The log: to standard error, as text for people or as JSON for machines.
//!
//! Guarantees: a log that can't be written costs log lines and nothing else. Lines are handed to a thread of their own
//! through a bounded queue; when the queue is full because the reader doesn't read, further lines are dropped; an error of
//! standard error (a full disk, a closed pipe) is ignored. So no thread of the host waits for the log or panics in it.

use std::io::{IsTerminal, stderr};

use clap::{Args, ValueEnum};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::json_log::JsonLines;
use super::pipeline_fields::PipelineFields;
use super::progress::LogOutput;
use super::{CommandError, Exit};

/// How many lines may wait for a slow reader: some megabytes of text at most.
const WAITING_LINES: usize = 8192;

#[derive(Debug, Args)]
pub struct Logging {
    /// How much to log [env: REDUCT_SINK_LOG_LEVEL] [default: what RUST_LOG says, or else info]
    #[arg(long, value_enum, global = true, value_name = "LEVEL", help_heading = "Logging")]
    log_level: Option<Level>,
    /// How to write the log [env: REDUCT_SINK_LOG_FORMAT] [default: text]
    #[arg(long, value_enum, global = true, value_name = "FORMAT", help_heading = "Logging")]
    log_format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Logging {
    /// The guard writes what is still waiting when it is dropped, for a second at most.
    pub fn start(&self) -> Result<WorkerGuard, CommandError> {
        let filter = match or_environment(self.log_level, "REDUCT_SINK_LOG_LEVEL")? {
            Some(level) => EnvFilter::new(directives(level)),
            None => filter_of_environment()?,
        };
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(WAITING_LINES)
            .lossy(true)
            .thread_name("log")
            .finish(LogOutput);
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
        match or_environment(self.log_format, "REDUCT_SINK_LOG_FORMAT")? {
            Some(Format::Json) => lines.event_format(JsonLines).init(),
            Some(Format::Text) | None => lines.with_ansi(stderr().is_terminal()).fmt_fields(PipelineFields).init(),
        }
        Ok(guard)
    }
}

/// The value of a flag, or else of a variable; an empty variable counts as not set.
fn or_environment<T: ValueEnum>(flag: Option<T>, variable: &str) -> Result<Option<T>, CommandError> {
    let value = std::env::var(variable).unwrap_or_default();
    if flag.is_some() || value.is_empty() {
        return Ok(flag);
    }
    let known =
        || T::value_variants().iter().filter_map(|value| Some(value.to_possible_value()?.get_name().to_owned()));
    T::from_str(&value, false).map(Some).map_err(|_| {
        let known = known().collect::<Vec<_>>().join(", ");
        let text = format!("environment variable {variable}: found {value:?}, expected one of {known}");
        CommandError::new(Exit::Usage, anyhow::Error::msg(text))
    })
}

/// Below `info` only our own messages and librdkafka's are wanted, not every library's.
fn directives(level: Level) -> String {
    let name = format!("{level:?}").to_lowercase();
    if level <= Level::Info { name } else { format!("info,reduct_sink={name},librdkafka={name},rdkafka={name}") }
}

fn filter_of_environment() -> Result<EnvFilter, CommandError> {
    let variable = std::env::var("RUST_LOG").unwrap_or_default();
    if variable.is_empty() {
        return Ok(EnvFilter::new(directives(Level::Info)));
    }
    EnvFilter::try_new(&variable).map_err(|error| {
        let text = format!("environment variable RUST_LOG: found {variable:?}, which can't be read: {error}");
        CommandError::new(Exit::Usage, anyhow::Error::msg(text))
    })
}
