//! The binary `reduct-sink`: everything is in the commands.

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    commands::main()
}
