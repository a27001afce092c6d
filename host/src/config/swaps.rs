//! `[plugins.trial]` and `[plugins.bake]`: how a new version of a plugin, or a new
//! configuration of it, takes over.

use std::time::Duration;

use super::key_table::Word;
use super::reader::{KeyReader, defaults};

/// The shadow trial before a take-over: the candidate sees a sample of live records beside the active version, and nothing
/// that it answers is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Whether there is a trial, and who decides.
    pub mode: Mode,
    /// The trial ends after this number of records …
    pub records: u64,
    /// … or after this time, if there were fewer.
    pub within: Duration,
    /// One record out of this number is sampled.
    pub every: u64,
    /// The candidate may fail on this share of the records more than the active version does.
    pub max_failures: Share,
    /// The candidate's median call may take this many times as long as the active version's.
    pub max_slowdown: u64,
}

/// The bake window after a take-over: a new version that fails or is slow is rolled back, or reported where a person decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Bake {
    /// Whether there is a bake window, and who decides.
    pub mode: Mode,
    /// How long it lasts after the take-over.
    pub window: Duration,
    /// The new version may fail on this share of the records more than the previous one did.
    pub max_failures: Share,
    /// Its median call may take this many times as long as the previous one's did.
    pub max_slowdown: u64,
}

/// Who decides about a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nobody: there is no trial, or no bake window.
    Off,
    /// The host decides by the bounds.
    Auto,
    /// The host reports what it found, and a person decides.
    Manual,
}

/// A part of all records, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

impl Word for Mode {
    const FIRST: (&'static str, Self) = ("off", Self::Off);
    const REST: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("manual", Self::Manual)];
}

impl Default for Trial {
    fn default() -> Self {
        defaults(trial)
    }
}

impl Default for Bake {
    fn default() -> Self {
        defaults(bake)
    }
}

pub(super) fn trial(reader: &mut KeyReader<'_>) -> Trial {
    Trial {
        mode: reader.choice("plugins.trial.mode"),
        records: reader.number("plugins.trial.records"),
        within: reader.duration("plugins.trial.within"),
        every: reader.number("plugins.trial.every"),
        max_failures: Share(reader.share("plugins.trial.max_failures")),
        max_slowdown: reader.number("plugins.trial.max_slowdown"),
    }
}

pub(super) fn bake(reader: &mut KeyReader<'_>) -> Bake {
    Bake {
        mode: reader.choice("plugins.bake.mode"),
        window: reader.duration("plugins.bake.window"),
        max_failures: Share(reader.share("plugins.bake.max_failures")),
        max_slowdown: reader.number("plugins.bake.max_slowdown"),
    }
}
