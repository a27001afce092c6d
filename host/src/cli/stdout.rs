//! Standard output: what a command was asked for, and nothing else.
//!
//! Guarantees: a reader that closes the pipe early is no failure of a command that has an end, because it has read enough; the
//! exit code still says how the command ended. A command that shows a running host ends there.

use std::fmt::Display;
use std::io::Write;

use anyhow::anyhow;

use super::{CommandError, ErrorCode};

/// Writes one line, or several.
pub fn print(line: impl Display) {
    super::progress::clear();
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Fails where nobody reads the output any more.
pub fn write(text: &str) -> Result<(), CommandError> {
    let mut output = std::io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    written.map_err(|error| CommandError::new(ErrorCode::Output, anyhow!("cannot write to standard output: {error}")))
}
