//! How the process ends: the one table from errors to exit codes.
//!
//! Guarantees: an error of one type ends the process with the same code whichever command it comes from.

use reduct_sink::config::ConfigProblems;
use reduct_sink::dead_letters::replay::ReplayError;
use reduct_sink::devkit::build::BuildError;
use reduct_sink::devkit::dry_run::DryRunError;
use reduct_sink::kafka::metadata::KafkaCheckError as KafkaError;
use reduct_sink::kafka::peek::PeekError;
use reduct_sink::pipeline::RunError;
use reduct_sink::plugin::LoadError;
use reduct_sink::sink::AttachmentError;
use reduct_sink::sink::check::StoreCheckError as StoreError;
use reduct_sink::source::SourceError;

/// The documentation of [`Exit`], for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done: the command did what it was asked, or the host was stopped and had acknowledged what it had read
  1  it failed while running
  2  the command line or the configuration is wrong
  3  a plugin doesn't load
  4  Kafka, ReductStore or the running host can't be reached, or refuses";

/// Why the process doesn't end with 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    Plugin = 3,
    Unreachable = 4,
}

impl Exit {
    /// The name that stays the same for scripts, in `--json` output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Plugin => "plugin",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What ends a command before it did what it was asked.
#[derive(Debug)]
pub struct CommandError {
    pub exit: Exit,
    /// What to print on standard error; `None`: it was reported already.
    pub error: Option<anyhow::Error>,
}

impl CommandError {
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: Some(error.into()) }
    }

    /// An error whose exit code is in the table.
    pub fn of<E>(error: E) -> Self
    where
        for<'a> Exit: From<&'a E>,
        E: Into<anyhow::Error>,
    {
        Self::new(Exit::from(&error), error)
    }

    /// For a failure that the command has reported in its own way.
    pub fn reported(exit: Exit) -> Self {
        Self { exit, error: None }
    }
}

impl From<&ConfigProblems> for Exit {
    fn from(_: &ConfigProblems) -> Self {
        Self::Usage
    }
}

impl From<&LoadError> for Exit {
    fn from(_: &LoadError) -> Self {
        Self::Plugin
    }
}

impl From<&KafkaError> for Exit {
    fn from(error: &KafkaError) -> Self {
        if matches!(error, KafkaError::Property(_)) { Self::Usage } else { Self::Unreachable }
    }
}

impl From<&StoreError> for Exit {
    fn from(error: &StoreError) -> Self {
        if matches!(error, StoreError::Client(_)) { Self::Usage } else { Self::Unreachable }
    }
}

impl From<&AttachmentError> for Exit {
    fn from(_: &AttachmentError) -> Self {
        Self::Usage
    }
}

impl From<&SourceError> for Exit {
    fn from(error: &SourceError) -> Self {
        match error {
            SourceError::Configuration(_) => Self::Usage,
            SourceError::Away(error) => Self::from(error),
            _ => Self::Unreachable,
        }
    }
}

impl From<&RunError> for Exit {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::Plugin(error) => Self::from(error),
            RunError::Kafka(error) => Self::from(error),
            RunError::Store { .. } => Self::Unreachable,
            RunError::Attachment(error) => Self::from(error),
            // What has to be corrected first.
            RunError::Several(failures) => failures.iter().map(Self::from).min().unwrap_or(Self::Failed),
            RunError::Failed(_) => Self::Failed,
        }
    }
}

impl From<&PeekError> for Exit {
    fn from(error: &PeekError) -> Self {
        match error {
            PeekError::Kafka(error) => Self::from(error),
            _ => Self::Unreachable,
        }
    }
}

impl From<&DryRunError> for Exit {
    fn from(error: &DryRunError) -> Self {
        match error {
            DryRunError::Plugin(error) => Self::from(error),
            DryRunError::Kafka(error) => Self::from(error),
            DryRunError::Failed(_) => Self::Failed,
        }
    }
}

impl From<&ReplayError> for Exit {
    fn from(error: &ReplayError) -> Self {
        match error {
            ReplayError::Plugin(error) => Self::from(error),
            ReplayError::Kafka(error) => Self::from(error),
            ReplayError::Discard => Self::Usage,
            ReplayError::Attachment(error) => Self::from(error),
            ReplayError::Store { .. } => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl From<&BuildError> for Exit {
    fn from(error: &BuildError) -> Self {
        if matches!(error, BuildError::Missing { .. }) { Self::Usage } else { Self::Failed }
    }
}

/// For errors that pass through layers that don't know them.
impl From<&anyhow::Error> for Exit {
    fn from(error: &anyhow::Error) -> Self {
        if let Some(error) = error.downcast_ref::<LoadError>() {
            Self::from(error)
        } else if let Some(error) = error.downcast_ref::<PeekError>() {
            Self::from(error)
        } else {
            Self::Failed
        }
    }
}
