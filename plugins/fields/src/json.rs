//! Reads JSON payloads.
//!
//! Guarantees: a text is read only as far as its last needed field; values that aren't needed are skipped (see
//! [`crate::scan`]); numbers keep their digits.

use serde::de::IgnoredAny;

use crate::extract::{Found, Tree};
use crate::payload::Problem;
use crate::scan::end_of_value;
use crate::value::Value;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The values at the tree's paths.
pub fn read(text: &[u8], tree: &Tree, slots: usize) -> Result<Found, Problem> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut found = Found::new(slots);
    match (Walk { bytes: text, at: 0 }).root(tree, &mut found) {
        Ok(()) | Err(Stop::Enough) => Ok(found),
        Err(Stop::Broken) => Err(Problem::Json),
    }
}

/// What is wrong with a text that couldn't be read, with the line and the column.
pub fn problem(text: &[u8]) -> String {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) => "the payload isn't JSON".into(),
        Err(error) => format!("the payload isn't JSON: {error}"),
    }
}

/// Why a walk through a text ended before its end.
enum Stop {
    /// Every needed value was found.
    Enough,
    /// The text ends too early, or isn't JSON.
    Broken,
}

/// A walk through a text.
struct Walk<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Walk<'b> {
    fn root(mut self, tree: &Tree, found: &mut Found) -> Result<(), Stop> {
        match self.next()? {
            b'{' | b'[' => self.value(tree, found),
            // A payload that isn't an object or a list, such as a number, has no fields.
            _ => serde_json::from_slice::<IgnoredAny>(self.bytes).map(|_| ()).map_err(|_| Stop::Broken),
        }
    }

    /// Reads the value that begins here and keeps what the tree needs of it.
    fn value(&mut self, tree: &Tree, found: &mut Found) -> Result<(), Stop> {
        match (self.next()?, tree.slot) {
            (b'{', slot) if !tree.keys.is_empty() => {
                if let Some(slot) = slot {
                    found.set(slot, Value::Other("an object"));
                }
                self.object(tree, found)?;
            }
            (b'[', slot) if !tree.items.is_empty() => {
                if let Some(slot) = slot {
                    found.set(slot, Value::Other("a list"));
                }
                self.list(tree, found)?;
            }
            (_, None) => _ = self.skip()?,
            (_, Some(slot)) => {
                let value = value(self.skip()?, tree.is_stamp)?;
                found.set(slot, value);
            }
        }
        if found.is_complete() { Err(Stop::Enough) } else { Ok(()) }
    }

    fn object(&mut self, tree: &Tree, found: &mut Found) -> Result<(), Stop> {
        self.at += 1;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.next()? != b'"' {
                return Err(Stop::Broken);
            }
            let key = self.skip()?;
            if self.next()? != b':' {
                return Err(Stop::Broken);
            }
            self.at += 1;
            self.next()?;
            match child(tree, key) {
                Some(tree) => self.value(tree, found)?,
                None => _ = self.skip()?,
            }
            if self.is_last(b'}')? {
                return Ok(());
            }
        }
    }

    fn list(&mut self, tree: &Tree, found: &mut Found) -> Result<(), Stop> {
        self.at += 1;
        if self.next()? == b']' {
            self.at += 1;
            return Ok(());
        }
        for at in 0.. {
            self.next()?;
            match tree.items.iter().find(|(item, _)| *item == at) {
                Some((_, tree)) => self.value(tree, found)?,
                None => _ = self.skip()?,
            }
            if self.is_last(b']')? {
                break;
            }
        }
        Ok(())
    }

    /// Steps over the byte after a value. Returns `true` if it is `end`, and `false` if it is a comma.
    fn is_last(&mut self, end: u8) -> Result<bool, Stop> {
        let next = self.next()?;
        self.at += 1;
        match next {
            b',' => Ok(false),
            _ if next == end => Ok(true),
            _ => Err(Stop::Broken),
        }
    }

    /// The next byte that isn't white space.
    fn next(&mut self) -> Result<u8, Stop> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return Err(Stop::Broken),
            }
        }
    }

    /// Steps over the value that begins here and returns its text.
    fn skip(&mut self) -> Result<&'b [u8], Stop> {
        let end = end_of_value(self.bytes, self.at).ok_or(Stop::Broken)?;
        let text = self.bytes.get(self.at..end).ok_or(Stop::Broken)?;
        self.at = end;
        match text {
            [b't' | b'f' | b'n', ..] if !matches!(text, b"true" | b"false" | b"null") => Err(Stop::Broken),
            text => Ok(text),
        }
    }
}

/// The node of the tree under a key, which is given as JSON text with its quotes.
fn child<'t>(tree: &'t Tree, key: &[u8]) -> Option<&'t Tree> {
    let inner = key.get(1..key.len().saturating_sub(1))?;
    let find = |key: &[u8]| tree.keys.iter().find(|(known, _)| known.as_bytes() == key).map(|(_, tree)| tree);
    if inner.contains(&b'\\') {
        return find(serde_json::from_slice::<String>(key).ok()?.as_bytes());
    }
    find(inner)
}

fn value(text: &[u8], is_stamp: bool) -> Result<Value, Stop> {
    Ok(match text {
        [b'"', ..] => match serde_json::from_slice(text) {
            Ok(text) => Value::Text(text),
            Err(_) => Value::Other("a text that isn't Unicode"),
        },
        b"true" => Value::Boolean(true),
        b"false" => Value::Boolean(false),
        b"null" => Value::Null,
        [b'{', ..] => {
            let stamp = if is_stamp { serde_json::from_slice(text).ok() } else { None };
            stamp.map_or(Value::Other("an object"), Value::Stamp)
        }
        [b'[', ..] => Value::Other("a list"),
        digits => match (serde_json::from_slice::<IgnoredAny>(digits), std::str::from_utf8(digits)) {
            (Ok(_), Ok(digits)) => Value::Number(digits.into()),
            _ => return Err(Stop::Broken),
        },
    })
}
