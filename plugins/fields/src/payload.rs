//! How a payload is read: its format, the schema registry's prefix before it, and which values are needed.
//!
//! Guarantees: an empty payload (a tombstone, too) has no fields and is no error.

use reduct_sink_plugin::Record;
use serde::Deserialize;

use crate::extract::{Found, Tree};
use crate::{csv, json};

/// The format of the payloads.
#[derive(Debug)]
pub enum Format {
    Json,
    Csv(csv::Options),
}

/// Whether payloads begin with the five bytes that serializers of a schema registry write: a zero, and the schema's id as
/// a big-endian number of four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefix {
    /// Where the first byte is zero, which no text and no Protobuf message begins with.
    #[default]
    Auto,
    Always,
    Never,
}

/// What is read of each payload.
#[derive(Debug)]
pub struct Payload {
    pub format: Format,
    pub prefix: Prefix,
    pub tree: Tree,
    pub slots: usize,
}

/// What was read of one payload.
#[derive(Debug)]
pub struct Content {
    pub found: Found,
    pub schema_id: Option<u32>,
}

/// What is read of a payload at first; each further attempt reads [`GROWTH`] times as much.
const FIRST_BYTES: u32 = 4096;
const GROWTH: u32 = 8;
const PREFIX_BYTES: usize = 5;

impl Payload {
    /// The error says what is wrong with the payload.
    pub fn read(&self, record: &Record<'_>) -> Result<Content, String> {
        if record.payload_size == 0 {
            return Ok(Content { found: Found::new(self.slots), schema_id: None });
        }
        let mut length = FIRST_BYTES;
        loop {
            let is_whole = u64::from(length) >= record.payload_size;
            let bytes = if is_whole { record.payload() } else { record.read(0, length) };
            let (schema_id, body) = self.without_prefix(&bytes)?;
            let found = match &self.format {
                Format::Json => json::read(body, &self.tree, self.slots),
                Format::Csv(options) => csv::read(body, is_whole, options, self.slots),
            };
            match found {
                Ok(found) => return Ok(Content { found, schema_id }),
                // The part may end in the middle of a value.
                Err(_) if !is_whole => length = length.saturating_mul(GROWTH),
                Err(problem) => return Err(problem.text(body)),
            }
        }
    }

    /// The id in the schema registry's prefix, where there is one, and what follows it.
    fn without_prefix<'b>(&self, bytes: &'b [u8]) -> Result<(Option<u32>, &'b [u8]), String> {
        match (bytes.split_at_checked(PREFIX_BYTES), self.prefix) {
            (Some(([0, id @ ..], body)), Prefix::Auto | Prefix::Always) => {
                Ok((Some(id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte))), body))
            }
            (_, Prefix::Always) => Err("the payload has no schema registry's prefix: its first byte isn't zero".into()),
            _ => Ok((None, bytes)),
        }
    }
}

/// Why the needed values couldn't be read.
pub enum Problem {
    /// These bytes aren't JSON, or not all of it.
    Json,
    /// The bytes end in the needed row, perhaps.
    ShortCsv,
    Csv(String),
}

impl Problem {
    fn text(self, body: &[u8]) -> String {
        match self {
            Problem::Json => json::problem(body),
            Problem::ShortCsv => "the payload isn't CSV: its row doesn't end".into(),
            Problem::Csv(problem) => format!("the payload isn't CSV: {problem}"),
        }
    }
}
