//! The process that a running host starts to compile a plugin. Not a command for people.

use std::time::Duration;

use reduct_sink::plugin::{CHILD_COMMAND, CompileLimits, compile_as_child};

/// Compiles standard input to standard output if this process was started to do that, and answers with its exit code; `None`: it was
/// not.
pub fn compile_child() -> Option<u8> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != CHILD_COMMAND {
        return None;
    }
    let mut number = || arguments.next()?.parse().ok();
    let (memory_bytes, time) = (number()?, Duration::from_secs(number()?));
    match compile_as_child(CompileLimits { memory_bytes, time }) {
        Ok(()) => Some(0),
        Err(message) => {
            eprintln!("{message}");
            Some(1)
        }
    }
}
