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

const PREFIX_BYTES: u32 = 5;

impl Payload {
    /// The error says what is wrong with the payload.
    pub fn read(&self, record: &Record<'_>) -> Result<Content, String> {
        if record.payload_size == 0 {
            return Ok(Content { found: Found::new(self.slots), schema_id: None });
        }
        let schema_id = self.schema_id(record)?;
        let prefix = if schema_id.is_some() { u64::from(PREFIX_BYTES) } else { 0 };
        let found = match &self.format {
            Format::Json => json::read(record, prefix, &self.tree, self.slots)?,
            Format::Csv(options) => csv::read(record, prefix, options, self.slots)?,
        };
        Ok(Content { found, schema_id })
    }

    fn schema_id(&self, record: &Record<'_>) -> Result<Option<u32>, String> {
        if self.prefix == Prefix::Never {
            return Ok(None);
        }
        let prefix = record.read(0, PREFIX_BYTES);
        match (prefix.as_slice(), self.prefix) {
            ([0, id @ ..], _) if id.len() == 4 => Ok(Some(id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)))),
            (_, Prefix::Always) => Err("the payload has no schema registry's prefix: its first byte isn't zero".into()),
            _ => Ok(None),
        }
    }
}
