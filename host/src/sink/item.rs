//! A record at the sink: as it is handed in ([`Item`]), and as a writer works on it ([`Prepared`]).
//!
//! Guarantees: what is prepared fits the server's limits for one record; what doesn't is given back with the reason.

use std::collections::HashMap;

use bytes::Bytes;

use super::store::Write;
use crate::dead_letters::format;
use crate::flow::partition_state::AckHandle;
use crate::record::entry_name::EntryName;
use crate::record::labels;
use crate::record::{Identity, OutputRecord};

/// The longest header that the labels of one record may make, in bytes. Source: the server reads at most about 400 KB
/// of headers a request (hyper's default buffer), of which a batch uses [`super::BATCH_HEADER_BYTES`].
pub const MAX_LABEL_BYTES: usize = 64 * 1024;
/// The largest timestamp that is written, in microseconds since the Unix epoch: the server computes with signed ones.
pub const MAX_TIMESTAMP_US: u64 = i64::MAX as u64;

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
    /// The one that it was given.
    pub time_us: Option<u64>,
    pub labels: HashMap<String, String>,
    pub payload: Bytes,
    pub ack: AckHandle,
    /// It may be in the entry already.
    pub look_up: bool,
    /// A request for it may have been cut off: being acknowledged isn't enough, a query has to show it.
    pub read_back: bool,
    /// It was acknowledged, and is waiting to be read back.
    pub written: bool,
    /// The place that the store said was taken at the last attempt.
    pub conflict_us: Option<u64>,
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
            None => item.record.input.default_timestamp_us().saturating_add(item.record.index.unwrap_or(0).into()),
        };
        if base_us > MAX_TIMESTAMP_US {
            return Err(Box::new((item, format!("its timestamp {base_us} µs is beyond {MAX_TIMESTAMP_US} µs"))));
        }
        let Item { record, entry, ack } = item;
        Ok(Self {
            identity: record.identity(),
            base_us,
            time_us: None,
            labels,
            payload,
            ack,
            look_up: false,
            read_back: false,
            written: false,
            conflict_us: None,
            entry,
            record,
        })
    }

    /// Whether nothing is to be written for it now.
    pub fn is_stale(&self) -> bool {
        self.ack.assignment().is_stale()
    }

    pub fn header_bytes(&self) -> usize {
        header_bytes(&self.labels) + self.record.content_type.as_ref().map_or(0, String::len)
    }

    /// What to send; `None` while it has no place.
    pub fn to_write(&self) -> Option<(u64, Write)> {
        let time = self.time_us?;
        let write = Write {
            timestamp_us: time,
            labels: self.labels.clone(),
            content_type: self.record.content_type.clone(),
            payload: self.payload.clone(),
        };
        Some((time, write))
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
