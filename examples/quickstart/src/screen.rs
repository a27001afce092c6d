//! What the user sees: lines that stay, and progress, which on a terminal is one line in motion and elsewhere a plain
//! line now and then.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often progress is told where it can't be overwritten.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Takes back the line that the cursor is in.
const CLEAR: &str = "\r\x1b[2K";

pub struct Screen {
    terminal: bool,
    last_line: Option<Instant>,
}

impl Screen {
    pub fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), last_line: None }
    }

    /// A line that stays, in the place of progress that was told last.
    pub fn say(&mut self, text: &str) {
        self.write(&format!("{}{text}\n", if self.terminal { CLEAR } else { "" }));
        self.last_line = None;
    }

    /// A line that the next call replaces.
    pub fn progress(&mut self, text: &str) {
        if self.terminal {
            self.write(&format!("{CLEAR}{text}"));
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.write(&format!("{text}\n"));
            self.last_line = Some(Instant::now());
        }
    }

    /// Nobody may be reading any more (`run | head`): the run goes on to its end all the same, and its exit code tells.
    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
