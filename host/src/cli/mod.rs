//! The command line: one file for each command.
//!
//! Guarantees: standard output carries only what was asked for (a report, a component); logs and errors go to standard
//! error; a process that ends with 0 did what it was asked; with `--json` standard output holds JSON alone, and the last
//! line says what went wrong if something did.

mod check;
mod compile_child;
mod configuration;
mod control;
mod dry_run;
mod error_code;
mod exit;
mod generate;
mod host_address;
mod json_log;
mod logging;
mod options;
mod pipeline_fields;
mod plugin;
mod progress;
mod replay;
mod run;
mod running_host;
mod status;
mod stdout;
mod unpacking;
mod version;

use std::io::Write;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use self::exit::{CommandError, EXIT_CODES, ErrorCode, Exit};
use self::logging::Logging;
use self::stdout::print;

/// Reads Kafka, hands each record to WebAssembly plugins, and writes the results to ReductStore.
#[derive(Debug, Parser)]
#[command(version, long_version = version::long(), after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    /// Answer in JSON; the last line is {"error": …} if the command fails
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Read, transform and write records until SIGTERM or SIGINT
    #[command(after_help = EXIT_CODES)]
    Run(run::RunCommand),
    /// Check the configuration, the plugins, Kafka and ReductStore; consume and write nothing
    #[command(after_help = EXIT_CODES)]
    Check(check::Check),
    /// Send dead letters through the present chain again; a dry run without --write
    #[command(after_help = EXIT_CODES)]
    Replay(replay::ReplayCommand),
    /// Have a running host read nothing more, of all topics or of one, until it is resumed or started again
    #[command(after_help = EXIT_CODES)]
    Pause(control::PauseCommand),
    /// End a pause
    #[command(after_help = EXIT_CODES)]
    Resume(control::PauseCommand),
    /// Show records on their way through a running host, and what each plugin makes of them
    #[command(after_help = EXIT_CODES)]
    Tap(control::TapCommand),
    /// Show the state of a running host: partitions, plugins and their versions, the last swaps
    #[command(after_help = EXIT_CODES)]
    Status(status::StatusCommand),
    /// Print what the host knows of its configuration
    #[command(subcommand, name = "config")]
    Configuration(configuration::Configuration),
    /// Print a shell's completions, to be put where the shell looks for them
    Completions(generate::Completions),
    /// Print the manual page, or write one for each command
    Man(generate::Man),
    /// Work with plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
}

impl CliCommand {
    fn execute(self) -> Result<(), CommandError> {
        match self {
            Self::Run(run) => run.execute(),
            Self::Check(check) => check.execute(),
            Self::Replay(replay) => replay.execute(),
            Self::Pause(pause) => pause.pause(),
            Self::Resume(resume) => resume.resume(),
            Self::Tap(tap) => tap.execute(),
            Self::Status(status) => status.execute(),
            Self::Configuration(configuration) => configuration.execute(),
            Self::Completions(completions) => completions.execute(),
            Self::Man(man) => man.execute(),
            Self::Plugin(plugin) => plugin.execute(),
        }
    }
}

pub use self::compile_child::compile_child;

/// Whether a program reads the output: known before the command line is, so that its mistakes can be told in JSON, too.
pub fn is_json() -> bool {
    static JSON: LazyLock<bool> = LazyLock::new(|| {
        std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json")
    });
    *JSON
}

/// Executes the command that the process was started with, and answers with its exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and versions are what was asked for.
        Err(told) if !told.use_stderr() || !is_json() => told.exit(),
        Err(wrong) => return ended(&CommandError::new(ErrorCode::CommandLine, anyhow::anyhow!("{}", wrong.render()))),
    };
    // The log ends with the command, so that its last lines stand before the error.
    let result = cli.logging.start().and_then(|_log| cli.command.execute());
    result.err().map_or(0, |failure| ended(&failure))
}

fn ended(failure: &CommandError) -> u8 {
    if is_json() {
        print(failure.to_json());
    } else if let Some(error) = &failure.error {
        // Without the log's decoration, for people and for editors that read `file:line: …`.
        let _ = writeln!(std::io::stderr(), "{error:#}");
    }
    failure.code.exit() as u8
}
