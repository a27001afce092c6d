//! Standard output: what a command was asked for, and nothing else.
//!
//! Guarantees: a reader that closes the pipe early is no failure, because it has read enough; the exit code still says how
//! the command ended.

use std::fmt::Display;
use std::io::Write;

/// Writes one line, or several.
pub fn print(line: impl Display) {
    super::progress::clear();
    let _ = writeln!(std::io::stdout(), "{line}");
}
