//! JSON payloads.
//!
//! Guarantees: a payload is copied from the host and parsed only as far as its last needed field; numbers keep their digits.

use reduct_sink_plugin::Record;
use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::value::RawValue;

use crate::extract::{self, Capture, Found, Tree};
use crate::value::Value;

/// What is read of a payload at first; each further attempt reads [`GROWTH`] times as much.
const FIRST_BYTES: u32 = 4096;
const GROWTH: u32 = 8;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The values at the tree's paths. The error says what is wrong with the payload.
pub fn read(record: &Record<'_>, prefix: u64, tree: &Tree, slots: usize) -> Result<Found, String> {
    let size = record.payload_size.saturating_sub(prefix);
    let mut length = FIRST_BYTES;
    loop {
        let is_whole = u64::from(length) >= size;
        let bytes = match (is_whole, prefix) {
            (true, 0) => record.payload(),
            (true, _) => record.read(prefix, u32::try_from(size).unwrap_or(u32::MAX)),
            (false, _) => record.read(prefix, length),
        };
        let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
        let mut found = Found::new(slots);
        match tree.read::<Json, _>(&mut serde_json::Deserializer::from_slice(text), &mut found) {
            Ok(()) => return Ok(found),
            Err(error) if error.is_data() && found.is_complete() => return Ok(found),
            // The part may end in the middle of a value. Not every such end is reported as one: a lone `-` is called an
            // invalid number.
            Err(_) if !is_whole => length = length.saturating_mul(GROWTH),
            Err(error) => return Err(format!("the payload isn't JSON: {error}")),
        }
    }
}

struct Json;

impl Capture for Json {
    fn capture<'de, D: Deserializer<'de>>(deserializer: D, is_stamp: bool) -> Result<Value, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        Ok(match raw.as_bytes().first() {
            Some(b'"') => match serde_json::from_str(raw) {
                Ok(text) => Value::Text(text),
                // Half of a surrogate pair, for example.
                Err(_) => Value::Other("a text with an escape that stands for no character"),
            },
            Some(b't') => Value::Boolean(true),
            Some(b'f') => Value::Boolean(false),
            Some(b'n') => Value::Null,
            Some(b'{') => {
                let stamp = is_stamp.then(|| extract::stamp(&mut serde_json::Deserializer::from_str(raw))).flatten();
                stamp.map_or(Value::Other("an object"), Value::Stamp)
            }
            Some(b'[') => Value::Other("a list"),
            _ => Value::Number(raw.into()),
        })
    }
}
