//! A record at the sink: as it is handed in ([`Item`]), and as a writer works on it ([`Prepared`]).
//!
//! Guarantees: what is prepared fits the server's limits for one record; what doesn't is given back with the reason.

use std::collections::HashMap;

use bytes::Bytes;

use super::store::Write;
use crate::dead_letters::format;
use crate::flow::AckHandle;
use crate::record::entry_name::EntryName;
use crate::record::labels;
use crate::record::{Identity, OutputRecord};

/// The longest header that the labels of one record may make, in bytes. Source: the server reads at most about 400 KB
/// of headers a request (hyper's default buffer), of which a batch uses [`super::BATCH_HEADER_BYTES`].
pub const MAX_LABEL_BYTES: usize = 64 * 1024;
/// The largest timestamp that is written, in microseconds since the Unix epoch: the server computes with signed ones, and
/// the end of a query has to be larger than it.
pub const MAX_TIMESTAMP_US: u64 = i64::MAX as u64 - 1;

/// An output record with the entry that it goes to and the duty to settle its input.
#[derive(Debug)]
pub struct Item {
    pub record: OutputRecord,
    pub entry: EntryName,
    pub ack: AckHandle,
}

#[derive(Debug)]
pub struct Prepared {
    pub identity: Identity,
    /// The timestamp that the record wants.
    pub base_us: u64,
    pub labels: HashMap<String, String>,
    pub payload: Bytes,
    pub ack: AckHandle,
    entry: EntryName,
    record: OutputRecord,
}

impl Prepared {
    pub fn new(item: Item, mark_plugins: bool) -> Result<Self, Box<(Item, String)>> {
        let mut labels = labels::all_labels(&item.record, mark_plugins);
        let mut payload = item.record.payload();
        let size = header_bytes(&labels);
        if size > MAX_LABEL_BYTES && item.record.rejection.is_some() {
            labels = labels::own_labels(&item.record);
            labels.insert(labels::HEADERS_AT.into(), payload.len().to_string());
            payload = format::body_with_headers(&item.record);
        } else if size > MAX_LABEL_BYTES {
            return Err(Box::new((item, format!("its labels make {size} bytes, {MAX_LABEL_BYTES} are allowed"))));
        }
        if let Some(content_type) = item.record.content_type.as_ref().filter(|text| !is_content_type(text)) {
            let reason =
                format!("its content type {content_type:?} is empty, or has characters that a header can't carry");
            return Err(Box::new((item, reason)));
        }
        let base_us = match item.record.timestamp_us {
            Some(time) => time,
            None => item.record.input.default_timestamp_us(),
        };
        // A dead letter always fits: one of an impossible time gets what a record without a time gets.
        let base_us = if base_us > MAX_TIMESTAMP_US && item.record.rejection.is_some() {
            item.record.input.offset
        } else {
            base_us
        };
        if base_us > MAX_TIMESTAMP_US {
            return Err(Box::new((item, format!("its timestamp {base_us} µs is beyond {MAX_TIMESTAMP_US} µs"))));
        }
        let Item { record, entry, ack } = item;
        Ok(Self { identity: record.identity(), base_us, labels, payload, ack, entry, record })
    }

    /// Whether it is a dead letter.
    pub fn is_dead_letter(&self) -> bool {
        self.record.rejection.is_some()
    }

    pub fn header_bytes(&self) -> usize {
        header_bytes(&self.labels) + self.record.content_type.as_ref().map_or(0, String::len)
    }

    /// What to send to this microsecond.
    pub fn to_write(&self, timestamp_us: u64) -> Write {
        Write {
            timestamp_us,
            labels: self.labels.clone(),
            content_type: self.record.content_type.clone(),
            payload: self.payload.clone(),
        }
    }

    pub fn into_item(self) -> Item {
        Item { record: self.record, entry: self.entry, ack: self.ack }
    }
}

/// What the labels take in the header of a batch: `name=value,` or `name="value",` each, and some 60 bytes around them.
fn header_bytes(labels: &HashMap<String, String>) -> usize {
    60 + labels.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
}

/// The server splits what describes a record at commas.
fn is_content_type(text: &str) -> bool {
    !text.trim().is_empty() && text.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b',')
}
