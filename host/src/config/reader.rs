//! Reads the raw values of one table as the types, ranges and defaults that the key table gives them.
//!
//! Guarantees: a wrong value becomes a problem and reads as the default, so that one pass finds everything; a key that is
//! read as another type than its row says is a problem too, which every test of a configuration would find.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use super::key_table::{self, Key, Preset, Takes, Word, size_text, words};
use super::layers::LayerValues;
use super::problem::{ConfigLocation, ConfigProblem};
use super::value::{ConfigValue, Value};

pub struct KeyReader<'a> {
    pub values: &'a LayerValues,
    /// What the relative paths of the file begin at.
    pub folder: &'a Path,
    pub misspelt: &'a [String],
    /// The name of the pipeline whose keys these are, where there are several.
    pub pipeline: Option<&'a str>,
    pub problems: &'a mut Vec<ConfigProblem>,
}

impl<'a> KeyReader<'a> {
    fn row(&self, key: &str) -> Option<&'static Key> {
        key_table::row(key)
    }

    /// Reports a key that is read otherwise than its row says.
    fn wrong_row<T: Default>(&mut self, key: &str) -> T {
        let text = "the key table has no row for this, or one of another type; this is a fault of reduct-sink";
        self.problems.push(ConfigProblem { location: None, key: key.into(), text: text.into() });
        T::default()
    }

    pub fn find(&self, key: &str) -> Option<&'a ConfigValue> {
        self.values.get(key)
    }

    pub fn reject(&mut self, key: &str, found: &ConfigValue, expected: &str) {
        if found.value.has_unknown() {
            return;
        }
        let what = if may_hold_secret(key, found) { found.value.type_name().into() } else { found.value.to_string() };
        self.problems.push(ConfigProblem::at(&found.location, key, format!("found {what}, expected {expected}")));
    }

    /// Reports a required key that isn't set, unless a misspelt one was reported in its place.
    pub fn missing(&mut self, key: &str) {
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        if !self.misspelt.iter().any(|path| path == key || path == table) {
            let text = format!("missing: {}", key_table::ways_to_set(key, self.pipeline));
            self.problems.push(ConfigProblem { location: None, key: key.into(), text });
        }
    }

    /// A value by a reader of its own: `None` where it isn't there or isn't right.
    pub fn parsed<T>(&mut self, key: &str, expected: &str, parse: impl FnOnce(&ConfigValue) -> Option<T>) -> Option<T> {
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

    pub fn boolean(&mut self, key: &str) -> bool {
        let parsed = self.parsed(key, "true or false", |found| match &found.value {
            Value::Boolean(truth) => Some(*truth),
            Value::Text(text) if found.location.is_text() => text.parse().ok(),
            _ => None,
        });
        let default = match self.row(key) {
            Some(Key { takes: Takes::Boolean, preset: Preset::Boolean(default), .. }) => *default,
            _ => self.wrong_row(key),
        };
        parsed.unwrap_or(default)
    }

    /// A whole number, if one is set.
    pub fn optional_number(&mut self, key: &str) -> Option<u64> {
        let Some(&Key { takes: Takes::Number { min, max }, .. }) = self.row(key) else { return self.wrong_row(key) };
        let expected = format!("a whole number from {min} to {max}");
        self.parsed(key, &expected, |found| {
            let number = match &found.value {
                Value::Integer(number) => u64::try_from(*number).ok()?,
                Value::Text(text) if found.location.is_text() => text.parse().ok()?,
                _ => return None,
            };
            (min..=max).contains(&number).then_some(number)
        })
    }

    /// A whole number in the type of its field, which holds the whole range of the row.
    pub fn number<T: TryFrom<u64> + Default>(&mut self, key: &str) -> T {
        let default = match self.row(key) {
            Some(Key { preset: Preset::Number(default), .. }) => *default,
            _ => self.wrong_row(key),
        };
        let number = self.optional_number(key).unwrap_or(default);
        T::try_from(number).unwrap_or_else(|_| self.wrong_row(key))
    }

    /// A size such as `"8MB"`, or a number of bytes, if one is set.
    pub fn optional_size(&mut self, key: &str) -> Option<u64> {
        let Some(&Key { takes: Takes::Size { min, max }, .. }) = self.row(key) else { return self.wrong_row(key) };
        let (least, most) = (size_text(min), size_text(max));
        let expected = format!("a size from {least} to {most}, such as \"100MB\" or \"64MiB\"");
        self.parsed(key, &expected, |found| {
            let bytes = match &found.value {
                Value::Integer(number) => u64::try_from(*number).ok()?,
                Value::Text(text) => text.parse::<ByteSize>().ok()?.as_u64(),
                _ => return None,
            };
            (min..=max).contains(&bytes).then_some(bytes)
        })
    }

    /// A size in the type of its field, which holds the whole range of the row.
    pub fn size<T: TryFrom<u64> + Default>(&mut self, key: &str) -> T {
        let default = match self.row(key) {
            Some(Key { preset: Preset::Size(default), .. }) => *default,
            _ => self.wrong_row(key),
        };
        let bytes = self.optional_size(key).unwrap_or(default);
        T::try_from(bytes).unwrap_or_else(|_| self.wrong_row(key))
    }

    /// A duration such as `"30s"`, if one is set. A bare number is refused, because its unit would have to be guessed.
    pub fn optional_duration(&mut self, key: &str) -> Option<Duration> {
        let Some(&Key { takes: Takes::Duration { min, max }, .. }) = self.row(key) else { return self.wrong_row(key) };
        let (least, most) = (humantime::format_duration(min), humantime::format_duration(max));
        let expected = format!("a duration from {least} to {most}, such as \"30s\" or \"500ms\"");
        self.parsed(key, &expected, |found| match &found.value {
            Value::Text(text) => humantime::parse_duration(text).ok().filter(|parsed| (min..=max).contains(parsed)),
            _ => None,
        })
    }

    /// A duration such as `"30s"`.
    pub fn duration(&mut self, key: &str) -> Duration {
        let default = match self.row(key) {
            Some(&Key { preset: Preset::Duration(default), .. }) => default,
            _ => return self.wrong_row(key),
        };
        self.optional_duration(key).unwrap_or(default)
    }

    /// A share such as `"0.5%"`, as a number from 0 to 1. A bare number is refused: it could be one of a hundred.
    pub fn share(&mut self, key: &str) -> f64 {
        let Some(&Key { takes: Takes::Share, preset: Preset::Share(default), .. }) = self.row(key) else {
            return self.wrong_row(key);
        };
        let parsed = self.parsed(key, "a share from 0% to 100%, such as \"0.5%\"", |found| {
            let Value::Text(text) = &found.value else { return None };
            let percent: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
            (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
        });
        parsed.unwrap_or(f64::from(default) / 10_000.0)
    }

    /// One of a few words, if one is set.
    pub fn optional_choice<T: Word>(&mut self, key: &str) -> Option<T> {
        let words: Vec<String> = words::<T>().iter().map(|word| format!("{word:?}")).collect();
        let expected = format!("one of {}", words.join(", "));
        self.parsed(key, &expected, |found| match &found.value {
            Value::Text(text) => T::from_word(text),
            _ => None,
        })
    }

    /// One of a few words, or else the default.
    pub fn choice<T: Word>(&mut self, key: &str) -> T {
        let default = match self.row(key) {
            Some(Key { preset: Preset::Text(default), .. }) => T::from_word(default),
            _ => None,
        };
        if default.is_none() {
            self.wrong_row::<()>(key);
        }
        self.optional_choice(key).or(default).unwrap_or(T::FIRST.1)
    }

    /// A path; one in the file begins at the file's folder.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        let in_file = matches!(self.find(key)?.location, ConfigLocation::File { .. });
        Some(if in_file { self.folder.join(text) } else { text.into() })
    }
}

/// A path as a message shows it: a relative one would leave open where it begins.
pub fn in_full(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Whether no message may show the value. An address may contain a password.
fn may_hold_secret(key: &str, found: &ConfigValue) -> bool {
    found.is_hidden()
        || key == "store.token"
        || (["store.url", "traces.endpoint", "kafka.brokers"].contains(&key)
            && matches!(&found.value, Value::Text(text) if text.contains('@')))
}

/// The text of a value that is one, isn't empty and has no control characters.
pub fn plain_text(found: &ConfigValue) -> Option<&str> {
    match &found.value {
        Value::Text(text) if !text.trim().is_empty() && !text.contains(char::is_control) => Some(text),
        _ => None,
    }
}

/// What a reader gets where nothing is set.
pub fn defaults<T>(read: impl FnOnce(&mut KeyReader<'_>) -> T) -> T {
    let (values, mut problems) = (LayerValues::new(), Vec::new());
    read(&mut KeyReader {
        values: &values,
        folder: Path::new(""),
        misspelt: &[],
        pipeline: None,
        problems: &mut problems,
    })
}
