//! The command line: one file a command, and exit codes that mean something.
//!
//! Guarantees: standard output carries only what was asked for (a report, a component); logs and errors go to standard
//! error; a process that ends with 0 did what it was told to.

mod check;
mod compile_child;
mod configuration;
mod dry_run;
mod logging;
mod options;
mod plugin;
mod replay;
mod run;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::logging::Logging;

/// Reads Kafka, hands each record to WebAssembly plugins, and writes what they answer to ReductStore.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done: what was asked for was done, or the sink was stopped and had settled what it had read
  1  it failed while running
  2  the command line or the configuration is wrong
  3  a plugin doesn't load
  4  Kafka, ReductStore or the running host can't be reached, or refuses";

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume, transform and write until told to stop (SIGTERM or SIGINT)
    #[command(after_help = EXIT_CODES)]
    Run(run::Run),
    /// Check the configuration, the plugins, Kafka and ReductStore; consume and write nothing
    #[command(after_help = EXIT_CODES)]
    Check(check::Check),
    /// Send dead letters through the present chain again; a dry run unless told to write
    #[command(after_help = EXIT_CODES)]
    Replay(replay::Replay),
    /// Tell how a running host does: partitions, plugins and their versions, the last swaps
    #[command(after_help = EXIT_CODES)]
    Status(status::Status),
    /// Print what the host knows of its configuration
    #[command(subcommand, name = "config")]
    Configuration(configuration::Configuration),
    /// Work with plugins
    #[command(subcommand)]
    Plugin(plugin::Plugin),
}

/// How the process ends when it doesn't end well: see [`EXIT_CODES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Exit {
    Failed = 1,
    Usage = 2,
    Plugin = 3,
    Unreachable = 4,
}

#[derive(Debug)]
struct Failure {
    exit: Exit,
    /// What to tell; `None`: it was told already.
    error: Option<anyhow::Error>,
}

impl Failure {
    fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: Some(error.into()) }
    }
}

pub use self::compile_child::compile_child;

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = cli.logging.start().and_then(|()| match cli.command {
        Command::Run(run) => run.execute(),
        Command::Check(check) => check.execute(),
        Command::Replay(replay) => replay.execute(),
        Command::Status(status) => status.execute(),
        Command::Configuration(configuration) => configuration.execute(),
        Command::Plugin(plugin) => plugin.execute(),
    });
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if let Some(error) = failure.error {
        // Told as it is, line by line, for people and for editors that read `file:line: …`.
        let _ = writeln!(std::io::stderr(), "{error:#}");
    }
    ExitCode::from(failure.exit as u8)
}
