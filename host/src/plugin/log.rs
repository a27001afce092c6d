//! What plugins log: by the contract's `log`, and by what they print to WASI's standard output and error.
//!
//! Guarantees: a plugin costs the host's log at most so many lines a second as its limits say, of [`LINE_BYTES`] bytes,
//! whatever it does; what was left out is counted and told. A line is one line: control characters are escaped.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::digest::Digest;
use crate::record::InputRecord;

pub(super) use super::bindings::reduct_sink::transform::host::Level;

const LINE_BYTES: usize = 4096;

/// The log of one version of a plugin, shared by its instances.
pub(super) struct PluginLog {
    plugin: Arc<str>,
    version: String,
    lines_per_second: u32,
    window: Mutex<Window>,
    /// The kinds of [`Denied`] that have been told, a bit each.
    told: AtomicU8,
}

/// What a plugin asked for and isn't granted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Denied<'a> {
    Clocks,
    Random,
    Environment,
    Directories,
    /// Into one that it may only read.
    Writing,
    /// Out of those that it has.
    Outside,
    /// To this `host:port`.
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
        let told = AtomicU8::new(0);
        Self { plugin, version: digest.short(), lines_per_second, window: Mutex::new(window), told }
    }

    /// Writes a line, unless the plugin has had its lines for this second.
    pub fn line(&self, level: Level, text: &str, record: Option<&InputRecord>) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (granted, left_out) = window.take(Instant::now(), self.lines_per_second);
        drop(window);
        self.tell_left_out(left_out);
        if granted {
            self.write(level, &one_line(text), record);
        }
    }

    /// Tells, once a kind, what the plugin asked for in vain, what it got instead, and which grant would allow it.
    pub fn denied(&self, what: Denied<'_>, instead: &str) {
        let told = self.told.load(Ordering::Relaxed);
        if told & what.bit() != 0 || self.told.fetch_or(what.bit(), Ordering::Relaxed) & what.bit() != 0 {
            return;
        }
        let (plugin, version, asked, grant) = (&self.plugin, &self.version, what.asked(), what.grant());
        // Runtimes ask for some of it at their start, whether the plugin needs it or not.
        match what {
            Denied::Http(_) | Denied::Sockets => {
                tracing::warn!(%plugin, version, %grant, "the plugin asked for {asked}, which isn't granted: {instead}");
            }
            _ => {
                tracing::info!(%plugin, version, %grant, "the plugin asked for {asked}, which isn't granted: {instead}")
            }
        }
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

    /// Tells what no later line would tell.
    pub fn tell_rest(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell_left_out(std::mem::take(&mut window.left_out));
    }

    fn tell_left_out(&self, lines: u64) {
        if lines > 0 {
            let (plugin, version) = (&self.plugin, &self.version);
            tracing::warn!(target: "plugin", %plugin, version, lines, "left out lines of a plugin that logs too many");
        }
    }
}

impl Denied<'_> {
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
            Self::Http(target) => format!("{target} by HTTP"),
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
            Self::Http(target) => format!("grants.http = [{target:?}]"),
            Self::Sockets => "none: sockets can't be granted, only grants.http".into(),
        }
    }
}

impl Drop for PluginLog {
    fn drop(&mut self) {
        self.tell_rest();
    }
}

impl Window {
    /// Whether a line may be written now, and how many lines of an earlier second are still to be told as left out.
    fn take(&mut self, now: Instant, lines_per_second: u32) -> (bool, u64) {
        let mut untold = 0;
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            untold = std::mem::take(&mut self.left_out);
            *self = Self { since: now, lines: 0, left_out: 0 };
        }
        let granted = self.lines < lines_per_second;
        if granted {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        (granted, untold)
    }
}

/// The text as one line of bounded length, its control characters escaped.
fn one_line(text: &str) -> String {
    let cut = clip(text, LINE_BYTES);
    let mut line = String::with_capacity(cut.len());
    for c in cut.chars() {
        match c {
            '\t' => line.push(c),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    if cut.len() < text.len() {
        line.push_str(&format!(" … ({} more bytes)", text.len() - cut.len()));
    }
    line
}

/// The longest beginning of `text` that has at most `bytes` bytes.
pub(super) fn clip(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// A plugin's standard output or error: each line of it becomes a line of the log.
#[derive(Clone)]
pub(super) struct LogStream {
    log: Arc<PluginLog>,
    level: Level,
    /// What has come of a line that hasn't ended yet. Shared: a plugin may open the stream more than once.
    begun: Arc<Mutex<Vec<u8>>>,
}

impl LogStream {
    pub fn new(log: Arc<PluginLog>, level: Level) -> Self {
        Self { log, level, begun: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            // Past the cut a line is read on, but kept no longer.
            let room = (LINE_BYTES + 1).saturating_sub(begun.len());
            begun.extend(text.iter().take(room));
            if piece.ends_with(b"\n") {
                self.end_line(&mut begun);
            }
        }
    }

    fn end_line(&self, begun: &mut Vec<u8>) {
        let line = std::mem::take(begun);
        if !line.is_empty() {
            self.log.line(self.level, &String::from_utf8_lossy(&line), None);
        }
    }
}

impl Drop for LogStream {
    /// The last clone ends a line that was begun: a panic's last words often have no line break.
    fn drop(&mut self) {
        if let Some(begun) = Arc::get_mut(&mut self.begun) {
            let mut begun = std::mem::take(begun.get_mut().unwrap_or_else(PoisonError::into_inner));
            self.end_line(&mut begun);
        }
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
        self.take(&bytes);
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
        assert_eq!(window.take(start + Duration::from_secs(1), 100), (true, 0), "told once");
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\r\nb\u{1b}[0m\tc"), "a\\r\\nb\\u{1b}[0m\tc");
        let long = one_line(&"é".repeat(LINE_BYTES));
        assert!(long.starts_with("éé") && long.ends_with(&format!(" … ({LINE_BYTES} more bytes)")), "{long}");
    }
}
