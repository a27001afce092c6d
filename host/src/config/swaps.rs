//! `[plugins.trial]` and `[plugins.watch]`: how a new version of a plugin, or a new configuration of it, comes to work.

use std::time::Duration;

use super::reader::Reader;
use super::value::Value;

/// Before it takes over: the candidate sees a sample of live records beside the present version, and writes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    pub mode: Mode,
    /// The trial ends after so many records …
    pub records: u64,
    /// … or after so long, if there were fewer.
    pub within: Duration,
    /// One record of so many is sampled.
    pub every: u64,
    /// The candidate may fail on this share of the records more than the present version does.
    pub max_failures: Share,
    /// Its median call may take so many times as long as the present version's.
    pub max_slowdown: u64,
}

/// After it took over: what would have been let through, or came later, still brings the old version back.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    pub mode: Mode,
    /// For so long after the take-over.
    pub window: Duration,
    /// The new version may fail on this share of the records more than the old one did.
    pub max_failures: Share,
    /// Its median call may take so many times as long as the old one's did.
    pub max_slowdown: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Off,
    /// The host decides by the bounds.
    Auto,
    /// The host tells what it found; a person decides.
    Manual,
}

/// A part of all records, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MODES: [(&str, Mode); 3] = [("off", Mode::Off), ("auto", Mode::Auto), ("manual", Mode::Manual)];

impl Default for Trial {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            records: 1000,
            within: 60 * SECOND,
            every: 10,
            max_failures: Share(0.005),
            max_slowdown: 10,
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self { mode: Mode::Auto, window: 60 * SECOND, max_failures: Share(0.005), max_slowdown: 10 }
    }
}

pub(super) fn trial(reader: &mut Reader<'_>) -> Trial {
    let default = Trial::default();
    Trial {
        mode: reader.choice("plugins.trial.mode", &MODES).unwrap_or(default.mode),
        records: reader.number("plugins.trial.records", 1..=1_000_000_000, default.records),
        within: reader.duration("plugins.trial.within", SECOND / 10..=DAY, default.within),
        every: reader.number("plugins.trial.every", 1..=1_000_000, default.every),
        max_failures: share(reader, "plugins.trial.max_failures").unwrap_or(default.max_failures),
        max_slowdown: reader.number("plugins.trial.max_slowdown", 2..=1_000_000, default.max_slowdown),
    }
}

pub(super) fn watch(reader: &mut Reader<'_>) -> Watch {
    let default = Watch::default();
    Watch {
        mode: reader.choice("plugins.watch.mode", &MODES).unwrap_or(default.mode),
        window: reader.duration("plugins.watch.window", SECOND / 10..=DAY, default.window),
        max_failures: share(reader, "plugins.watch.max_failures").unwrap_or(default.max_failures),
        max_slowdown: reader.number("plugins.watch.max_slowdown", 2..=1_000_000, default.max_slowdown),
    }
}

/// A share such as `"0.5%"`; a bare number would leave it to guessing whether it is one of a hundred.
fn share(reader: &mut Reader<'_>, key: &str) -> Option<Share> {
    reader.parsed(key, "a share from 0% to 100%, such as \"0.5%\"", |found| {
        let Value::Text(text) = &found.value else { return None };
        let percent: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
        (0.0..=100.0).contains(&percent).then_some(Share(percent / 100.0))
    })
}
