//! Dead letters: records that can't be handled, kept whole for a later look or a replay.
//!
//! A dead letter goes to an entry of its own in the same bucket and is acknowledged before its offset is settled, like
//! any other output. Its body is the original payload; key and headers are labels, encoded as on every record; the
//! reason, the plugin and its digest are labels too. Where key and headers are too large for labels, they follow the
//! payload as JSON, and the label `sink.headers-at` tells where they begin.
//!
//! Guarantees: a dead letter always fits the server's limits, whatever its record was.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use crate::labels;
use crate::record::{OutputRecord, Rejection};

/// The dead letter of a record, or of one part of a split: the record as it came, without what plugins made of it.
pub fn dead_letter(record: &OutputRecord, rejection: Rejection) -> OutputRecord {
    OutputRecord {
        index: record.index,
        rejection: Some(Arc::new(rejection)),
        ..OutputRecord::unchanged(Arc::clone(&record.input))
    }
}

/// The body of a dead letter whose key and headers don't fit into labels: payload, then JSON.
pub fn body_with_headers(record: &OutputRecord) -> Bytes {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| labels::encode_value(Some(bytes)).into_owned());
    let headers: Vec<_> = record
        .input
        .headers
        .iter()
        .map(|header| json!({ "key": text(Some(&header.key)), "value": text(header.value.as_deref()) }))
        .collect();
    let json = json!({ "key": text(record.input.key.as_deref()), "headers": headers }).to_string();
    let payload = record.payload();
    let mut body = Vec::with_capacity(payload.len() + json.len());
    body.extend_from_slice(&payload);
    body.extend_from_slice(json.as_bytes());
    body.into()
}
