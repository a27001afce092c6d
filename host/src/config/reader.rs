//! Reads the raw values of one table as the types that they should have. A value that isn't right becomes a problem and
//! reads as its default, so that one pass finds everything.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use super::keys;
use super::layers::Values;
use super::problem::{Place, Problem};
use super::value::{Found, Value};

pub const KB: u64 = 1_000;
pub const MB: u64 = 1_000_000;
pub const GB: u64 = 1_000_000_000;
pub const TB: u64 = 1_000_000_000_000;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

pub struct Reader<'a> {
    pub values: &'a Values,
    /// What the relative paths of the file begin at.
    pub folder: &'a Path,
    pub misspelt: &'a [String],
    pub problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub fn find(&self, key: &str) -> Option<&'a Found> {
        self.values.get(key)
    }

    pub fn reject(&mut self, key: &str, found: &Found, expected: &str) {
        let what = if may_hold_secret(key, found) { found.value.type_name().into() } else { found.value.to_string() };
        self.problems.push(Problem::at(&found.place, key, format!("found {what}, expected {expected}")));
    }

    /// Says that a key which must be there isn't, unless it, or its table, was meant and is told of already.
    pub fn missing(&mut self, key: &str, example: &str) {
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        if !self.misspelt.iter().any(|path| path == key || path == table) {
            let text = format!("missing: {}", keys::ways_to_set(key, example));
            self.problems.push(Problem { place: None, key: key.into(), text });
        }
    }

    /// A value by a reader of its own: `None` where it isn't there or isn't right.
    pub fn parsed<T>(&mut self, key: &str, expected: &str, parse: impl FnOnce(&Found) -> Option<T>) -> Option<T> {
        let found = self.find(key)?;
        let parsed = parse(found);
        if parsed.is_none() {
            self.reject(key, found, expected);
        }
        parsed
    }

    /// A text that is neither empty nor has control characters in it.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.parsed(key, "a text in quotes, not empty, without control characters", |found| {
            plain_text(found).map(String::from)
        })
    }

    pub fn boolean(&mut self, key: &str, default: bool) -> bool {
        let parsed = self.parsed(key, "true or false", |found| match &found.value {
            Value::Boolean(truth) => Some(*truth),
            Value::Text(text) if found.place.is_text() => text.parse().ok(),
            _ => None,
        });
        parsed.unwrap_or(default)
    }

    pub fn number(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let parsed = self.parsed(key, &expected, |found| {
            let number = match &found.value {
                Value::Integer(number) => u64::try_from(*number).ok()?,
                Value::Text(text) if found.place.is_text() => text.parse().ok()?,
                _ => return None,
            };
            range.contains(&number).then_some(number)
        });
        parsed.unwrap_or(default)
    }

    /// A size such as `"8MB"`, or a number of bytes.
    pub fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let (least, most) = (size_text(*range.start()), size_text(*range.end()));
        let expected = format!("a size from {least} to {most}, such as \"100MB\" or \"64MiB\"");
        self.parsed(key, &expected, |found| {
            let bytes = match &found.value {
                Value::Integer(number) => u64::try_from(*number).ok()?,
                Value::Text(text) => text.parse::<ByteSize>().ok()?.as_u64(),
                _ => return None,
            };
            range.contains(&bytes).then_some(bytes)
        })
    }

    /// A duration such as `"30s"`; a bare number would leave its unit to guessing.
    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>, default: Duration) -> Duration {
        let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        let expected = format!("a duration from {least} to {most}, such as \"30s\" or \"500ms\"");
        let parsed = self.parsed(key, &expected, |found| match &found.value {
            Value::Text(text) => humantime::parse_duration(text).ok().filter(|duration| range.contains(duration)),
            _ => None,
        });
        parsed.unwrap_or(default)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let expected = format!("one of {}", words.join(", "));
        self.parsed(key, &expected, |found| match &found.value {
            Value::Text(text) => choices.iter().find(|(word, _)| word == text).map(|(_, choice)| *choice),
            _ => None,
        })
    }

    /// A path; one in the file begins at the file's folder.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        let in_file = matches!(self.find(key)?.place, Place::File { .. });
        Some(if in_file { self.folder.join(text) } else { text.into() })
    }
}

/// Whether no message may show the value. An address may have a password in it.
fn may_hold_secret(key: &str, found: &Found) -> bool {
    key == "store.token" || (key == "store.url" && matches!(&found.value, Value::Text(text) if text.contains('@')))
}

/// The text of a value that is one, isn't empty and has no control characters.
pub fn plain_text(found: &Found) -> Option<&str> {
    match &found.value {
        Value::Text(text) if !text.trim().is_empty() && !text.contains(char::is_control) => Some(text),
        _ => None,
    }
}

/// A size in the largest unit that expresses it exactly.
fn size_text(bytes: u64) -> String {
    let units = [(TB, "TB"), (GIB, "GiB"), (GB, "GB"), (MIB, "MiB"), (MB, "MB"), (1 << 10, "KiB"), (KB, "KB")];
    let unit = units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}
