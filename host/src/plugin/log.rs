//! What plugins log: by the contract's `log`, and by what they print ([`super::printout`]).
//!
//! Guarantees: a plugin writes at most as many lines a second to the host's log as its limits say, each of at most
//! [`LINE_BYTES`] bytes, whatever it does; lines that are left out are counted and reported within a minute or two. A line is one
//! line: control characters are escaped. What a plugin printed before it failed is part of the failure's reason; as lines of its own it is
//! written a few times a minute for each kind of line, and the rest is counted, see [`FailingLines`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::digest::Digest;
use super::failing_lines::FailingLines;
use crate::record::InputRecord;
use crate::record::text::one_line;

pub(super) use super::bindings::reduct_sink::transform::host::Level;

pub(super) const LINE_BYTES: usize = 4096;
pub(super) const CAUSE_LINE_BYTES: usize = 500;
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

    /// Reports lines that were left out a while ago, where no later line has reported them.
    pub fn report_due(&self, now: Instant) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = window.due(now);
        drop(window);
        self.report_left_out(left_out);
        let left_out = self.failing().due(now);
        self.report_failing(left_out);
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
        let unreported = self.due(now);
        let granted = self.lines < lines_per_second;
        if granted {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        (granted, unreported)
    }

    /// How many lines an earlier second left out, which are still to be reported.
    fn due(&mut self, now: Instant) -> u64 {
        if now.saturating_duration_since(self.since) < Duration::from_secs(1) {
            return 0;
        }
        std::mem::replace(self, Self { since: now, lines: 0, left_out: 0 }).left_out
    }
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
        let more = (0..1000).filter(|_| window.take(start + Duration::from_secs(1), 100).0).count();
        assert_eq!(more, 98, "two were written before");
        assert_eq!(window.due(start + Duration::from_millis(1900)), 0);
        assert_eq!(window.due(start + Duration::from_secs(2)), 902, "also if no other line comes");
        assert_eq!(window.due(start + Duration::from_secs(9)), 0);
    }
}
