//! The key table: one row describes one configuration key.
//!
//! Guarantees: the file, the environment and the flags are read by these rows; range and default of a value come from its
//! row; the reference page, the example file, the JSON Schema and the rules of a reload are generated from them.
//! `.github/CONTRIBUTING.md` says what a new key touches.

mod host;
mod kafka;
mod lookup;
mod plugins;
mod store;

use std::time::Duration;

pub use self::lookup::{PathKind, heading, is_list, kind, misspelt, nearest, suggest, variables, ways_to_set};
use super::Config;

/// What every variable of the environment begins with.
pub const PREFIX: &str = "REDUCT_SINK_";
/// `REDUCT_SINK_PROPERTY_SASL_PASSWORD` sets librdkafka's `sasl.password`.
pub const PROPERTY_PREFIX: &str = "REDUCT_SINK_PROPERTY_";
/// Variables that are no keys of the file: the command line reads them.
pub const COMMAND_LINE: [&str; 3] = ["REDUCT_SINK_CONFIG", "REDUCT_SINK_LOG_LEVEL", "REDUCT_SINK_LOG_FORMAT"];

/// The table of several pipelines in one file.
pub const PIPELINES: &str = "pipelines";
/// Tables and keys that hold for the whole process, however many pipelines it has.
const OF_PROCESS: [&str; 7] =
    ["trust", "registries", "status", "cache", "limits.shutdown", "limits.compile_memory", "limits.compile_time"];

pub const KB: u64 = 1_000;
pub const MB: u64 = 1_000_000;
pub const GB: u64 = 1_000_000_000;
pub const TB: u64 = 1_000_000_000_000;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// One configuration key.
#[derive(Debug)]
pub struct Key {
    /// Table and name, such as `store.tls.ca`.
    pub path: &'static str,
    /// Type and range.
    pub takes: Takes,
    /// The value if the configuration doesn't set the key.
    pub preset: Preset,
    /// The variable's name behind [`PREFIX`].
    pub env: Option<&'static str>,
    /// The flag that sets the key.
    pub flag: Option<KeyFlag>,
    /// Whether a change takes effect in a running host.
    pub change: Change,
    /// The key that must not be set beside this one.
    pub excludes: Option<&'static str>,
    /// A value as it would stand in a file, for a key without a default that could be shown.
    pub example: &'static str,
    /// What the key does. The first sentence also stands in the example file and in `--help`.
    pub doc: &'static str,
}

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub enum Takes {
    /// A text; the words say which.
    Text(&'static str),
    /// A path; one in a file is relative to the file's folder.
    Path(&'static str),
    Boolean,
    Number {
        min: u64,
        max: u64,
    },
    /// A number of bytes, or a text such as `"8MB"`.
    Size {
        min: u64,
        max: u64,
    },
    /// A text such as `"30s"`.
    Duration {
        min: Duration,
        max: Duration,
    },
    /// A text such as `"0.5%"`.
    Share,
    /// One of a few words.
    Choice(fn() -> Vec<&'static str>),
    /// A list of texts; the words say which.
    Texts(&'static str),
    /// A list of tables.
    Tables(&'static str),
    /// A table whose names are free.
    Table(&'static str),
    /// A table of texts, or a list of names.
    TableOrNames(&'static str),
    /// `[kafka.properties]`, whose names librdkafka knows.
    Properties,
    /// `[[plugins]]`.
    Plugins,
}

/// What counts where nothing is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preset {
    /// The key must be set.
    Required,
    /// Nothing.
    Absent,
    /// What the words say; it depends on the machine or on other keys.
    Derived(&'static str),
    Text(&'static str),
    Boolean(bool),
    Number(u64),
    Size(u64),
    Duration(Duration),
    /// In hundredths of a per cent.
    Share(u32),
}

/// What a change of the file does to a running host.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// It is taken over by a reload.
    Live,
    /// It needs a restart. The function tells whether the key means the same in both configurations.
    Restart(fn(&Config, &Config) -> bool),
}

/// A flag of the command line.
#[derive(Debug, Clone, Copy)]
pub struct KeyFlag {
    /// With its dashes.
    pub name: &'static str,
    /// What `--help` calls the value; empty for a flag without one, which sets the key to `true`.
    pub value: &'static str,
    /// Whether the flag may be given more than once.
    pub is_repeatable: bool,
}

/// A table of the file, in the order of the documents.
#[derive(Debug)]
pub struct Section {
    /// Such as `store.tls`.
    pub path: &'static str,
    pub doc: &'static str,
    /// The example file shows it behind `#`, because its keys do nothing by default.
    pub is_optional: bool,
    /// Lines for the example file, for a table whose names are free.
    pub example: &'static str,
}

/// A type whose values are words in the configuration.
pub trait Word: Copy + 'static {
    const FIRST: (&'static str, Self);
    const REST: &'static [(&'static str, Self)];

    fn from_word(word: &str) -> Option<Self> {
        let mut all = std::iter::once(Self::FIRST).chain(Self::REST.iter().copied());
        all.find(|(known, _)| *known == word).map(|(_, value)| value)
    }
}

/// The words of a type, in the order of the documents.
pub fn words<T: Word>() -> Vec<&'static str> {
    std::iter::once(T::FIRST).chain(T::REST.iter().copied()).map(|(word, _)| word).collect()
}

/// Every key, in the order of the documents.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    [kafka::KEYS, store::KEYS, host::KEYS, plugins::KEYS].into_iter().flatten()
}

/// Every table, in the order of the documents.
pub fn sections() -> impl Iterator<Item = &'static Section> {
    host::SECTIONS.iter().chain(plugins::SECTIONS)
}

pub fn row(path: &str) -> Option<&'static Key> {
    keys().find(|key| key.path == path)
}

/// Whether a key holds for the whole process, so that a single pipeline can't set it.
pub fn is_of_process(path: &str) -> bool {
    let lies_in = |table: &str| path.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    OF_PROCESS.iter().any(|table| lies_in(table))
}

/// The keys that differ and can't change without a restart.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = |key: &&Key| matches!(key.change, Change::Restart(same) if !same(old, new));
    keys().filter(differs).map(|key| key.path).collect()
}

/// Whether a field is the same in two configurations, for [`Change::Restart`].
macro_rules! same {
    ($($field:ident).+) => {
        |old, new| old.$($field).+ == new.$($field).+
    };
}
use same;

impl Key {
    const fn new(path: &'static str, takes: Takes, preset: Preset, doc: &'static str) -> Self {
        let (env, flag, excludes) = (None, None, None);
        Self { path, takes, preset, env, flag, change: Change::Live, excludes, example: "", doc }
    }

    const fn env(mut self, name: &'static str) -> Self {
        self.env = Some(name);
        self
    }

    /// `value` is what `--help` calls the value.
    const fn flag(mut self, name: &'static str, value: &'static str) -> Self {
        self.flag = Some(KeyFlag { name, value, is_repeatable: false });
        self
    }

    const fn repeatable_flag(mut self, name: &'static str, value: &'static str) -> Self {
        self.flag = Some(KeyFlag { name, value, is_repeatable: true });
        self
    }

    const fn restart(mut self, same: fn(&Config, &Config) -> bool) -> Self {
        self.change = Change::Restart(same);
        self
    }

    const fn excludes(mut self, other: &'static str) -> Self {
        self.excludes = Some(other);
        self
    }

    const fn example(mut self, value: &'static str) -> Self {
        self.example = value;
        self
    }

    /// The table that the key stands in; empty at the top of the file.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The key's name within its table.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The first sentence of the documentation.
    pub fn summary(&self) -> &'static str {
        self.doc.split_once(". ").map_or(self.doc.trim_end_matches('.'), |(first, _)| first)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Key {}

/// A size in the largest unit that expresses it exactly.
pub fn size_text(bytes: u64) -> String {
    let units = [(TB, "TB"), (GIB, "GiB"), (GB, "GB"), (MIB, "MiB"), (MB, "MB"), (1 << 10, "KiB"), (KB, "KB")];
    let unit = units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// A default as it would stand in a file; `None` for one that has no such form.
impl Preset {
    pub fn literal(self) -> Option<String> {
        Some(match self {
            Self::Required | Self::Absent | Self::Derived(_) => return None,
            Self::Text(text) => format!("{text:?}"),
            Self::Boolean(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Size(bytes) => format!("{:?}", size_text(bytes)),
            Self::Duration(duration) => format!("\"{}\"", humantime::format_duration(duration)),
            Self::Share(hundredths) => format!("\"{}%\"", f64::from(hundredths) / 100.0),
        })
    }
}
