//! Reads CSV payloads: the first line has the names of the columns, and the row after it has the values.
//!
//! Guarantees: a payload is read only as far as the end of that row.

use csv::{ByteRecord, ReaderBuilder};
use serde::Deserialize;

use crate::extract::Found;
use crate::payload::Problem;
use crate::value::Value;

/// How the payload is written, and what is needed of it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The character between two columns.
    #[serde(default)]
    delimiter: Delimiter,
    /// The needed columns, each with the slot of its value.
    #[serde(skip)]
    pub columns: Vec<(String, usize)>,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Delimiter(u8);

impl Default for Delimiter {
    fn default() -> Self {
        Self(b',')
    }
}

impl TryFrom<String> for Delimiter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(Self(*byte)),
            _ => Err(format!("{text:?} can't be a delimiter: that is one ASCII character, such as , ; or a tab")),
        }
    }
}

/// The values of the needed columns in the first row.
pub fn read(bytes: &[u8], is_whole: bool, options: &Options, slots: usize) -> Result<Found, Problem> {
    let problem = |error: csv::Error| Problem::Csv(error.to_string());
    let mut reader = ReaderBuilder::new().delimiter(options.delimiter.0).flexible(true).from_reader(bytes);
    let names = reader.byte_headers().map_err(problem)?.clone();
    let mut row = ByteRecord::new();
    let mut found = Found::new(slots);
    reader.read_byte_record(&mut row).map_err(problem)?;
    for (name, slot) in &options.columns {
        let at = names.iter().position(|known| known == name.as_bytes());
        if let Some(value) = at.and_then(|at| row.get(at)).filter(|value| !value.is_empty()) {
            found.set(
                *slot,
                match std::str::from_utf8(value) {
                    Ok(text) => Value::Untyped(text.into()),
                    Err(_) => Value::Bytes(value.into()),
                },
            );
        }
    }
    // If the row ends where the part that was read ends, the row may continue in the next part.
    if is_whole || reader.position().byte() < bytes.len() as u64 { Ok(found) } else { Err(Problem::ShortCsv) }
}
