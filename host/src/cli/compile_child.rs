//! The process that a running host starts to compile a plugin. Not a command for people.

use std::process::ExitCode;
use std::time::Duration;

use reduct_sink::plugin::{CHILD_COMMAND, CompileLimits, compile_as_child};

/// Compiles standard input to standard output if this process was started to do that; `None`: it was not.
pub fn compile_child() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != CHILD_COMMAND {
        return None;
    }
    let mut number = || arguments.next()?.parse().ok();
    let (memory_bytes, time) = (number()?, Duration::from_secs(number()?));
    match compile_as_child(CompileLimits { memory_bytes, time }) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(message) => {
            eprintln!("{message}");
            Some(ExitCode::FAILURE)
        }
    }
}
