//! Prints what the user sees: lines that stay, and the progress, which is one changing line on a terminal and otherwise
//! a plain line now and then.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the progress is printed if it can't be overwritten.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Clears the line in which the cursor stands.
const CLEAR: &str = "\r\x1b[2K";

pub struct Screen {
    terminal: bool,
    last_line: Option<Instant>,
}

impl Screen {
    pub fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), last_line: None }
    }

    /// Prints a line that stays, in place of the last progress.
    pub fn say(&mut self, text: &str) {
        self.write(&format!("{}{text}\n", if self.terminal { CLEAR } else { "" }));
        self.last_line = None;
    }

    /// Prints the progress, which the next call replaces.
    pub fn progress(&mut self, text: &str) {
        if self.terminal {
            self.write(&format!("{CLEAR}{text}"));
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.write(&format!("{text}\n"));
            self.last_line = Some(Instant::now());
        }
    }

    /// Writes the text and ignores errors: the reader may be gone (`run | head`), and the run still continues to its
    /// end.
    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
