//! `[plugins.trial]` and `[plugins.watch]`: how a new version of a plugin, or a new configuration of it, comes to work.

use std::time::Duration;

use super::key_table::Word;
use super::reader::{Reader, defaults};

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

impl Word for Mode {
    const FIRST: (&'static str, Self) = ("off", Self::Off);
    const REST: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("manual", Self::Manual)];
}

impl Default for Trial {
    fn default() -> Self {
        defaults(trial)
    }
}

impl Default for Watch {
    fn default() -> Self {
        defaults(watch)
    }
}

pub(super) fn trial(reader: &mut Reader<'_>) -> Trial {
    Trial {
        mode: reader.choice("plugins.trial.mode"),
        records: reader.number("plugins.trial.records"),
        within: reader.duration("plugins.trial.within"),
        every: reader.number("plugins.trial.every"),
        max_failures: Share(reader.share("plugins.trial.max_failures")),
        max_slowdown: reader.number("plugins.trial.max_slowdown"),
    }
}

pub(super) fn watch(reader: &mut Reader<'_>) -> Watch {
    Watch {
        mode: reader.choice("plugins.watch.mode"),
        window: reader.duration("plugins.watch.window"),
        max_failures: Share(reader.share("plugins.watch.max_failures")),
        max_slowdown: reader.number("plugins.watch.max_slowdown"),
    }
}
