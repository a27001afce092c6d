//! Entry names from a template.
//!
//! Guarantees: a rendered name is legal (`A-Z a-z 0-9 _ -` in segments divided by `/`, none empty or over 255 bytes),
//! and the escaping can be undone, so that two values never share a name:
//!
//! - A byte that isn't legal becomes `_XX`, its value in upper-case hexadecimal (`.` is `_2E`); so does a `/` that begins
//!   or ends the value or follows another one.
//! - A `_` that two upper-case hexadecimal digits follow becomes `_5F`, so that it can't be taken for an escape.
//! - `{topic}` is written as the host writes it: only `_2E` and `_5F` can occur there, so only before those is `_`
//!   escaped. `{entry}` is legal as it is.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Deserialize;

use crate::{Facts, Field, FieldName, Part, Template};

/// The store's limit on one segment, in bytes.
const MAX_SEGMENT: usize = 255;

/// What to do with a value that can't stand in an entry's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Illegal {
    /// Escape it by the rules at the head of this module.
    #[default]
    Escape,
    /// The rule doesn't apply, and the next one is tried.
    Next,
}

/// A template that makes an entry's name.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String", bound(deserialize = "F: FieldName"))]
pub struct EntryTemplate<F = Field>(Template<F>);

impl<F> EntryTemplate<F> {
    /// The template's fields, for a plugin that changes its own fields after the configuration was read.
    pub fn fields_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.0.fields_mut()
    }
}

impl<F: FieldName> EntryTemplate<F> {
    /// The entry's name for a record. `Ok(None)`: the rule doesn't apply, because a field is absent, null or empty, or
    /// because a value isn't allowed in a name and `illegal` is [`Illegal::Next`]. `Err`: there is a name, and escaping
    /// can't make it valid.
    pub fn render(&self, facts: &impl Facts<F>, illegal: Illegal) -> Result<Option<String>, String> {
        let mut entry = String::new();
        for part in self.0.parts() {
            match part {
                Part::Text(text) => entry.push_str(text),
                Part::Field(field) => {
                    let Some(value) = facts.value(field).filter(|value| !value.is_empty()) else { return Ok(None) };
                    let field = field.as_record_field();
                    match (legal(field, &value), illegal) {
                        (Cow::Owned(_), Illegal::Next) if field != Some(&Field::Topic) => return Ok(None),
                        (text, _) => entry.push_str(&text),
                    }
                }
            }
        }
        match (entry.split('/').any(|segment| segment.len() > MAX_SEGMENT), illegal) {
            (false, _) => Ok(Some(entry)),
            (true, Illegal::Next) => Ok(None),
            (true, Illegal::Escape) => Err(format!("entry {entry:?} has a segment of more than {MAX_SEGMENT} bytes")),
        }
    }
}

impl<F: FieldName> TryFrom<String> for EntryTemplate<F> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let template = Template::<F>::try_from(text.clone())?;
        // Each value of a field is valid by itself, so that rendering one example checks the template for all.
        let trial: String = template
            .parts()
            .iter()
            .map(|part| match part {
                Part::Text(text) => text,
                Part::Field(_) => "x",
            })
            .collect();
        if let Some(found) = trial.chars().find(|c| !matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-' | '/')) {
            return Err(format!("{text:?} can't be an entry: {found:?} isn't one of A-Z a-z 0-9 _ - /"));
        }
        if trial.split('/').any(str::is_empty) {
            return Err(format!("{text:?} can't be an entry: it has an empty segment"));
        }
        Ok(Self(template))
    }
}

/// The value, escaped for an entry's name; borrowed if no byte had to be escaped.
fn legal<'a>(field: Option<&Field>, value: &'a [u8]) -> Cow<'a, str> {
    let escape_like = |at: usize| match (field, value.get(at + 1..at + 3)) {
        (Some(Field::Topic), Some(two)) => two == b"2E" || two == b"5F",
        (_, Some(two)) => two.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F')),
        (_, None) => false,
    };
    let keep = |at: usize, byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' => true,
        b'_' => !escape_like(at),
        b'/' => at > 0 && at + 1 < value.len() && value.get(at - 1) != Some(&b'/'),
        _ => false,
    };
    match std::str::from_utf8(value) {
        Ok(text) if field == Some(&Field::Entry) || value.iter().enumerate().all(|(at, byte)| keep(at, *byte)) => {
            Cow::Borrowed(text)
        }
        _ => {
            let mut text = String::with_capacity(value.len() + 16);
            for (at, &byte) in value.iter().enumerate() {
                if keep(at, byte) {
                    text.push(char::from(byte));
                } else {
                    // Writing to a String can't fail.
                    let _ = write!(text, "_{byte:02X}");
                }
            }
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn values_are_escaped_as_documented() {
        for (value, expected) in [
            ("plain-Name_1", "plain-Name_1"),
            ("a/b", "a/b"),
            ("/a//b/", "_2Fa/_2Fb_2F"),
            ("/", "_2F"),
            ("a.b", "a_2Eb"),
            ("a_2Eb", "a_5F2Eb"),
            ("a_2eb", "a_2eb"),
            ("_5F", "_5F5F"),
            ("ä", "_C3_A4"),
            ("a_", "a_"),
        ] {
            assert_eq!(legal(Some(&Field::Key), value.as_bytes()), expected, "{value}");
        }
        assert_eq!(legal(Some(&Field::Key), b"\xff"), "_FF");
        assert_eq!(legal(Some(&Field::Topic), b"a_AB.c_2E"), "a_AB_2Ec_5F2E");
    }

    #[test]
    fn two_values_never_share_a_name() {
        let alphabet = b"_25EF/.a";
        let mut names: HashMap<String, Vec<u8>> = HashMap::new();
        let mut values: Vec<Vec<u8>> = vec![Vec::new()];
        for _ in 0..5 {
            values =
                values.iter().flat_map(|value| alphabet.map(|byte| [value.as_slice(), &[byte]].concat())).collect();
            for value in &values {
                let name = legal(Some(&Field::Key), value).into_owned();
                assert!(!name.is_empty() && name.split('/').all(|segment| !segment.is_empty()), "{name}");
                let other = names.insert(name.clone(), value.clone());
                assert!(other.is_none(), "{name}: {value:?} {other:?}");
            }
        }
    }
}
