//! What plugins log: by the contract's `log`, and by what they print to WASI's standard output and error.
//!
//! Guarantees: a plugin writes at most as many lines a second to the host's log as its limits say, each of at most
//! [`LINE_BYTES`] bytes, whatever it does; lines that are left out are counted and reported. A line is one line: control
//! characters are escaped. What a plugin printed before it failed is part of the failure's reason; as lines of its own it is
//! written a few times a minute for each kind of line, and the rest is counted, see [`FailingLines`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::digest::Digest;
use super::failing_lines::FailingLines;
use crate::record::InputRecord;
use crate::record::text::one_line;

pub(super) use super::bindings::reduct_sink::transform::host::Level;

const LINE_BYTES: usize = 4096;
/// Printed lines that wait for the end of the call; when there are more, the oldest are written without their record.
const WAITING_LINES: usize = 64;
/// Of what a plugin printed before it failed, its last lines are the failure's cause.
const CAUSE_LINES: usize = 12;
const CAUSE_LINE_BYTES: usize = 500;
/// Different hosts, for example, that a version's warnings name at most.
const MATTERS: usize = 64;

/// The log of one version of a plugin, shared by its instances.
pub(super) struct PluginLog {
    plugin: Arc<str>,
    version: String,
    lines_per_second: u32,
    window: Mutex<Window>,
    failing: Mutex<FailingLines>,
    /// The kinds of [`Denied`] that were reported, a bit each.
    reported: AtomicU8,
    /// What [`Self::warn_once`] said.
    said: Mutex<BTreeSet<String>>,
}

/// What a plugin asked for without having the grant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Denied<'a> {
    Clocks,
    Random,
    Environment,
    Directories,
    /// To change a directory that it may only read.
    Writing,
    /// A path outside of the directories that it has.
    Outside,
    /// This `host:port`.
    Http(&'a str),
    Sockets,
}

/// One second's lines.
struct Window {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl PluginLog {
    pub fn new(plugin: Arc<str>, digest: Digest, lines_per_second: u32) -> Self {
        let window = Window { since: Instant::now(), lines: 0, left_out: 0 };
        Self {
            plugin,
            version: digest.short(),
            lines_per_second,
            window: Mutex::new(window),
            failing: Mutex::new(FailingLines::new(Instant::now())),
            reported: AtomicU8::new(0),
            said: Mutex::default(),
        }
    }

    /// Writes a line, unless the plugin has had its lines for this second.
    pub fn line(&self, level: Level, text: &str, record: Option<&InputRecord>) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (granted, left_out) = window.take(Instant::now(), self.lines_per_second);
        drop(window);
        self.report_left_out(left_out);
        if granted {
            self.write(level, &one_line(text, LINE_BYTES), record);
        }
    }

    /// Writes a line of a call that failed, unless enough like it were written within the minute.
    pub fn line_of_failure(&self, level: Level, text: &str, record: Option<&InputRecord>) {
        let (granted, left_out) = self.failing().take(Instant::now(), text);
        self.report_failing(left_out);
        if granted {
            self.line(level, text, record);
        }
    }

    /// Reports what the plugin asked for in vain, what it got instead, and which grant would allow it; once for each kind.
    ///
    /// The runtimes of some languages ask for the environment, directories, randomness and the time while an instance starts,
    /// whether the plugin needs them or not: that is reported at debug level only.
    pub fn denied(&self, what: Denied<'_>, instead: &str, while_starting: bool) {
        let (plugin, version, asked, grant) = (&self.plugin, &self.version, what.asked(), what.grant());
        if while_starting && what.is_asked_at_start() {
            tracing::debug!(%plugin, version, %grant, "while it starts, the plugin asks for {asked}: {instead}");
            return;
        }
        if let Denied::Http(target) = what {
            if !self.comes_first(format!("http {target}")) {
                return;
            }
        } else {
            let bit = what.bit();
            let mut before = self.reported.load(Ordering::Relaxed);
            if before & bit == 0 {
                before = self.reported.fetch_or(bit, Ordering::Relaxed);
            }
            if before & bit != 0 {
                return;
            }
        }
        match what {
            Denied::Http(_) | Denied::Sockets => {
                tracing::warn!(%plugin, version, %grant, "the plugin asked for {asked}, which isn't granted: {instead}");
            }
            _ => {
                tracing::info!(%plugin, version, %grant, "the plugin asked for {asked}, which isn't granted: {instead}")
            }
        }
    }

    /// Writes a warning about the plugin, the first time that it is about `matter`.
    pub fn warn_once(&self, matter: &str, text: &str) {
        if self.comes_first(matter.to_owned()) {
            let (plugin, version) = (&self.plugin, &self.version);
            tracing::warn!(%plugin, version, "{}", one_line(text, LINE_BYTES));
        }
    }

    /// Whether this matter comes up for the first time. After [`MATTERS`] of them none does: a plugin may make up as many
    /// as it likes.
    fn comes_first(&self, matter: String) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < MATTERS && said.insert(matter)
    }

    fn write(&self, level: Level, text: &str, record: Option<&InputRecord>) {
        let (plugin, version) = (&self.plugin, &self.version);
        let topic = record.map(|record| &*record.source.topic);
        let partition = record.map(|record| record.source.partition);
        let offset = record.map(|record| record.offset);
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    target: "plugin", tracing::Level::$level, %plugin, version, topic, partition, offset, "{text}"
                )
            };
        }
        match level {
            Level::Error => event!(ERROR),
            Level::Warn => event!(WARN),
            Level::Info => event!(INFO),
            Level::Debug => event!(DEBUG),
        }
    }

    /// Reports lines that were left out and that no later line would report.
    pub fn report_rest(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        self.report_left_out(std::mem::take(&mut window.left_out));
        drop(window);
        let left_out = self.failing().left_out();
        self.report_failing(left_out);
    }

    fn failing(&self) -> MutexGuard<'_, FailingLines> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_failing(&self, left_out: Vec<(u64, String)>) {
        for (lines, last) in left_out {
            let (plugin, version, last) = (&self.plugin, &self.version, one_line(&last, CAUSE_LINE_BYTES));
            tracing::warn!(
                target: "plugin", %plugin, version, lines,
                "{lines} more lines like this within the last minute, from calls that failed: {last}"
            );
        }
    }

    fn report_left_out(&self, lines: u64) {
        if lines > 0 {
            let (plugin, version) = (&self.plugin, &self.version);
            tracing::warn!(target: "plugin", %plugin, version, lines, "left out lines of a plugin that logs more than its `limits.log_rate`");
        }
    }
}

impl Denied<'_> {
    fn is_asked_at_start(self) -> bool {
        matches!(self, Self::Environment | Self::Directories | Self::Random | Self::Clocks)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Clocks => 1,
            Self::Random => 2,
            Self::Environment => 4,
            Self::Directories => 8,
            Self::Http(_) => 16,
            Self::Sockets => 32,
            Self::Writing => 64,
            Self::Outside => 128,
        }
    }

    fn asked(self) -> String {
        match self {
            Self::Clocks => "the time".into(),
            Self::Random => "randomness".into(),
            Self::Environment => "the environment".into(),
            Self::Directories => "directories".into(),
            Self::Http(target) => format!("{} by HTTP", one_line(target, CAUSE_LINE_BYTES)),
            Self::Sockets => "a socket".into(),
            Self::Writing => "writing into a directory".into(),
            Self::Outside => "a path outside of its directories".into(),
        }
    }

    /// What would allow it, as it is written in the configuration.
    fn grant(self) -> String {
        match self {
            Self::Clocks => "grants.clocks = true".into(),
            Self::Random => "grants.random = true".into(),
            Self::Environment => "grants.environment = { NAME = \"value\" }".into(),
            Self::Directories | Self::Outside => "grants.directories = [{ path = \"…\", guest = \"/…\" }]".into(),
            Self::Writing => "grants.directories = [{ …, writable = true }]".into(),
            Self::Http(target) => format!("grants.http = [{:?}]", one_line(target, CAUSE_LINE_BYTES)),
            Self::Sockets => "none: sockets can't be granted, only grants.http".into(),
        }
    }
}

impl Drop for PluginLog {
    fn drop(&mut self) {
        self.report_rest();
    }
}

impl Window {
    /// Whether a line may be written now, and how many lines of an earlier second are still to be reported as left out.
    fn take(&mut self, now: Instant, lines_per_second: u32) -> (bool, u64) {
        let mut unreported = 0;
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            unreported = std::mem::take(&mut self.left_out);
            *self = Self { since: now, lines: 0, left_out: 0 };
        }
        let granted = self.lines < lines_per_second;
        if granted {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        (granted, unreported)
    }
}

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

    pub fn keep_as_cause(&self, text: &str) {
        self.lock().keep_as_cause(text);
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
        if printed.waiting.len() == WAITING_LINES
            && let Some((level, text)) = printed.waiting.pop_front()
        {
            self.log.line(level, &text, None);
        }
        printed.waiting.push_back((level, text));
        self.dirty.store(true, Ordering::Relaxed);
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

    #[test]
    fn a_flood_is_cut_to_its_lines_a_second_and_counted() {
        let start = Instant::now();
        let mut window = Window { since: start, lines: 0, left_out: 0 };
        let granted = (0..1000).filter(|_| window.take(start, 100).0).count();
        assert_eq!(granted, 100);
        assert_eq!(window.take(start + Duration::from_secs(1), 100), (true, 900));
        assert_eq!(window.take(start + Duration::from_secs(1), 100), (true, 0), "reported once");
    }
}
