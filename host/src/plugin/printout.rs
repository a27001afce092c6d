//! What a plugin prints to WASI's standard output and error, and what it reports at error level, until its call is over.
//!
//! Guarantees: a line that waits is written with the record that its call was about, and as a line of a failure if the call failed; at
//! most [`WAITING_LINES`] wait, none much longer than a line may be, whatever the plugin prints.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::log::{CAUSE_LINE_BYTES, LINE_BYTES, Level, PluginLog};
use crate::record::InputRecord;
use crate::record::text::{clip, one_line};

/// Lines that wait for the end of the call; when there are more, the oldest are written before, printed ones without their record.
const WAITING_LINES: usize = 64;
/// Of what a plugin printed before it failed, its last lines are the failure's cause.
const CAUSE_LINES: usize = 12;

/// What an instance printed during the present call. The lines are written when the call is over, with the record that it
/// was about.
pub(super) struct Printout {
    log: Arc<PluginLog>,
    /// Lines wait, or there is a cause. Looked at after each call, without a lock.
    dirty: AtomicBool,
    printed: Mutex<Printed>,
}

#[derive(Default)]
struct Printed {
    waiting: VecDeque<(Level, String)>,
    /// The beginnings of lines whose ends haven't come yet, of standard output and of standard error.
    begun: [Vec<u8>; 2],
    /// The last lines of standard error and of `log(error)` in the present call.
    cause: VecDeque<String>,
}

/// Which of its streams a plugin prints to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Printer {
    Output,
    Error,
}

impl Printout {
    pub fn new(log: Arc<PluginLog>) -> Self {
        Self { log, dirty: AtomicBool::new(false), printed: Mutex::default() }
    }

    /// Writes the lines that wait.
    pub fn write(&self, record: Option<&InputRecord>) {
        if self.dirty.load(Ordering::Relaxed) {
            let waiting = std::mem::take(&mut self.lock().waiting);
            waiting.iter().for_each(|(level, text)| self.log.line(*level, text, record));
        }
    }

    /// Writes the lines that wait, where the call failed.
    pub fn write_failure(&self, record: Option<&InputRecord>) {
        if self.dirty.load(Ordering::Relaxed) {
            let waiting = std::mem::take(&mut self.lock().waiting);
            waiting.iter().for_each(|(level, text)| self.log.line_of_failure(*level, text, record));
        }
    }

    /// A call begins: what was printed before it explains none of its failures.
    pub fn forget_cause(&self) {
        if self.dirty.swap(false, Ordering::Relaxed) {
            let mut printed = self.lock();
            printed.cause.clear();
            if !printed.waiting.is_empty() {
                self.dirty.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What the plugin printed last before it failed, on one line. Ends lines that were begun: the last line before a
    /// panic often has no line break.
    pub fn cause(&self) -> Option<String> {
        let mut printed = self.lock();
        self.end_lines(&mut printed);
        let cause = std::mem::take(&mut printed.cause);
        (!cause.is_empty()).then(|| Vec::from(cause).join(" | "))
    }

    /// Whether there is a [`Self::cause`].
    pub fn has_cause(&self) -> bool {
        let printed = self.lock();
        let [_, error] = &printed.begun;
        !printed.cause.is_empty() || !error.is_empty()
    }

    /// An error that the plugin has logged: if the call fails, it is a part of the cause, and one of the lines of a failure. Of a text
    /// that is longer than a line may be, only what a line holds is kept: one call could log many.
    pub fn hold_error(&self, text: &str, record: Option<&InputRecord>) {
        let text = clip(text, LINE_BYTES + 1);
        let mut printed = self.lock();
        printed.keep_as_cause(text);
        self.hold(&mut printed, Level::Error, text.to_owned(), record);
    }

    fn hold(&self, printed: &mut Printed, level: Level, text: String, record: Option<&InputRecord>) {
        if printed.waiting.len() == WAITING_LINES
            && let Some((level, text)) = printed.waiting.pop_front()
        {
            self.log.line(level, &text, record);
        }
        printed.waiting.push_back((level, text));
        self.dirty.store(true, Ordering::Relaxed);
    }

    fn take(&self, printer: Printer, bytes: &[u8]) {
        let mut printed = self.lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let begun = printed.begun(printer);
            // What is longer than a line may be is read, but not kept.
            let room = (LINE_BYTES + 1).saturating_sub(begun.len());
            begun.extend(text.iter().take(room));
            if piece.ends_with(b"\n") {
                self.end_line(&mut printed, printer);
            }
        }
    }

    fn end_lines(&self, printed: &mut Printed) {
        self.end_line(printed, Printer::Output);
        self.end_line(printed, Printer::Error);
    }

    fn end_line(&self, printed: &mut Printed, printer: Printer) {
        let line = std::mem::take(printed.begun(printer));
        if line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        let level = match printer {
            Printer::Output => Level::Info,
            Printer::Error => {
                printed.keep_as_cause(&text);
                Level::Warn
            }
        };
        self.hold(printed, level, text, None);
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Printed {
    fn begun(&mut self, printer: Printer) -> &mut Vec<u8> {
        let [output, error] = &mut self.begun;
        match printer {
            Printer::Output => output,
            Printer::Error => error,
        }
    }

    fn keep_as_cause(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if self.cause.len() == CAUSE_LINES {
                self.cause.pop_front();
            }
            self.cause.push_back(one_line(line, CAUSE_LINE_BYTES));
        }
    }
}

impl Drop for Printout {
    fn drop(&mut self) {
        let mut printed = std::mem::take(&mut *self.lock());
        self.end_lines(&mut printed);
        printed.waiting.iter().for_each(|(level, text)| self.log.line(*level, text, None));
    }
}

/// A plugin's standard output or error.
#[derive(Clone)]
pub(super) struct LogStream {
    printout: Arc<Printout>,
    printer: Printer,
}

impl LogStream {
    pub fn new(printout: Arc<Printout>, printer: Printer) -> Self {
        Self { printout, printer }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Only asked for by WASI 0.3, which this host doesn't link.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.printout.take(self.printer, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Digest;

    /// One call may log thousands of errors of tens of megabytes each.
    #[test]
    fn of_an_error_only_what_a_line_holds_waits() {
        let printout = Printout::new(Arc::new(PluginLog::new("p".into(), Digest::of(b""), 100)));
        (0..WAITING_LINES * 2).for_each(|_| printout.hold_error(&"x".repeat(1 << 20), None));
        let printed = printout.lock();
        let held = printed.waiting.iter().map(|(_, text)| text.capacity()).sum::<usize>();
        assert!(held <= WAITING_LINES * (LINE_BYTES + 1), "{held}");
    }
}
