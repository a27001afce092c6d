//! How the process ends: with an exit code, and with a message for a person or an object for a program.
//!
//! Guarantees: an error of one type ends the process with the same code whichever command it comes from; with `--json` the
//! last line of standard output is an object that says what went wrong, where, and what to do.

use reduct_sink::config::ConfigProblems;
use reduct_sink::dead_letters::replay::ReplayError;
use reduct_sink::devkit::dry_run::DryRunError;
use reduct_sink::pipeline::RunError;
use reduct_sink::plugin::LoadError;
use serde_json::{Value, json};

pub use super::error_code::ErrorCode;

/// The documentation of [`Exit`], for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done: the command did what it was asked, or the host was stopped and had acknowledged what it had read
  1  it failed while running
  2  the command line or the configuration is wrong
  3  a plugin doesn't load
  4  Kafka, ReductStore, a plugin's registry or the running host can't be reached, or refuses";

/// Why the process doesn't end with 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    Plugin = 3,
    Unreachable = 4,
}

/// What ends a command before it did what it was asked.
#[derive(Debug)]
pub struct CommandError {
    pub code: ErrorCode,
    /// What to print on standard error; `None`: it was reported already.
    pub error: Option<anyhow::Error>,
}

impl CommandError {
    pub fn new(code: impl Into<ErrorCode>, error: impl Into<anyhow::Error>) -> Self {
        Self { code: code.into(), error: Some(error.into()) }
    }

    /// An error whose code is in the table.
    pub fn of<E>(error: E) -> Self
    where
        for<'a> ErrorCode: From<&'a E>,
        E: Into<anyhow::Error>,
    {
        Self::new(ErrorCode::from(&error), error)
    }

    /// For a failure that the command has reported in its own way.
    pub fn reported(code: impl Into<ErrorCode>) -> Self {
        Self { code: code.into(), error: None }
    }

    /// For a program.
    pub fn to_json(&self) -> Value {
        let message = self.error.as_ref().map_or_else(|| self.code.meaning().into(), |error| format!("{error:#}"));
        let config = self.error.as_ref().and_then(|error| error.downcast_ref::<ConfigProblems>());
        let load = self.error.as_ref().and_then(load_error);
        let problems: Vec<Value> = config
            .into_iter()
            .flat_map(ConfigProblems::iter)
            .map(|problem| {
                let place = problem.location.as_ref().map(ToString::to_string);
                json!({ "place": place, "key": problem.key, "message": problem.text })
            })
            .collect();
        let of_first = config.and_then(|all| all.iter().next()?.location.as_ref()).map(ToString::to_string);
        let place = of_first.or_else(|| load.map(|error| error.file.clone()));
        let remedy = load.map_or_else(|| self.code.remedy(), |error| error.problem.remedy());
        let mut error = json!({
            "code": self.code.name(),
            "exit": self.code.exit() as u8,
            "message": message,
            "place": place,
            "remedy": remedy,
        });
        if config.is_some()
            && let Some(fields) = error.as_object_mut()
        {
            fields.insert("problems".into(), problems.into());
        }
        json!({ "error": error })
    }
}

/// The plugin's error within an error of a command that loads plugins.
fn load_error(error: &anyhow::Error) -> Option<&LoadError> {
    match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(RunError::Plugin(error)), _, _)
        | (_, Some(DryRunError::Plugin(error)), _)
        | (_, _, Some(ReplayError::Plugin(error))) => Some(error),
        _ => error.downcast_ref(),
    }
}
