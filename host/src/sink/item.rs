//! A record at the sink: as it is handed in ([`Item`]), and as a writer works on it ([`Prepared`]).
//!
//! Guarantees: what is prepared fits the server's limits and the configured ones for one record; what doesn't is given
//! back with the reason; a dead letter always fits.

use std::collections::HashMap;

use bytes::Bytes;

use super::batch_trace::TracedMessage;
use super::store::Write;
use crate::flow::AckHandle;
use crate::record::content_type::ContentTypes;
use crate::record::entry_name::EntryName;
use crate::record::labels::{self, LabelRules};
use crate::record::{Identity, OutputRecord};

/// The largest timestamp that is written, in microseconds since the Unix epoch: the server computes with signed ones, and
/// the end of a query has to be larger than it.
pub const MAX_TIMESTAMP_US: u64 = i64::MAX as u64 - 1;
/// What describes one record in a batch's header beside its labels and content type, about.
const RECORD_HEADER: usize = 60;

/// What describes a record in the header of a batch, in bytes, about.
pub(super) fn header_bytes(labels: &HashMap<String, String>, content_type: Option<&str>) -> usize {
    RECORD_HEADER + labels::size(labels) + content_type.map_or(0, str::len)
}

/// An output record with the entry that it goes to and the duty to acknowledge its input.
#[derive(Debug)]
pub struct Item {
    /// The record.
    pub record: OutputRecord,
    /// Where it is to be written.
    pub entry: EntryName,
    /// Acknowledges the input when the record is safe.
    pub ack: AckHandle,
}

/// How records are mapped to what ReductStore holds.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// Which labels records get.
    pub labels: LabelRules,
    /// The content types of topics whose records say nothing themselves.
    pub content_types: ContentTypes,
}

/// A record with everything that is written of it.
#[derive(Debug)]
pub struct Prepared {
    /// Which Kafka record it was made from.
    pub identity: Identity,
    /// The timestamp that the record wants.
    pub base_us: u64,
    /// Its labels and the host's own; none after they were sent, until they are restored.
    pub labels: HashMap<String, String>,
    /// `None`: ReductStore's default.
    pub content_type: Option<String>,
    /// The body.
    pub payload: Bytes,
    /// Acknowledges the input when the record is safe.
    pub ack: AckHandle,
    header_bytes: usize,
    entry: EntryName,
    record: OutputRecord,
}

/// The labels of the record; a reason: they are too large. With `true`, the labels of a dead letter were too large, and its key and headers
/// are to be put at the end of its body, behind the `bytes` bytes of the payload.
fn fitting_labels(
    record: &OutputRecord,
    mapping: &Mapping,
    bytes: usize,
) -> Result<(HashMap<String, String>, bool), String> {
    let labels = mapping.labels.all_labels(record);
    let Some(excess) = mapping.labels.excess(&labels) else { return Ok((labels, false)) };
    if record.rejection.is_none() {
        return Err(excess);
    }
    let mut labels = labels::own_labels(record);
    labels.insert(labels::HEADERS_AT.into(), bytes.to_string());
    Ok((labels, true))
}

impl Prepared {
    /// Makes of the record what is to be written; gives it back with the reason where ReductStore wouldn't take that. It is on the heap,
    /// because a writer moves it from queue to queue.
    pub fn new(item: Item, mapping: &Mapping) -> Result<Box<Self>, Box<(Item, String)>> {
        let is_dead_letter = item.record.rejection.is_some();
        let mut payload = item.record.payload();
        let mut content_type = mapping.content_types.of(&item.record).map(str::to_owned);
        let labels = match fitting_labels(&item.record, mapping, payload.len()) {
            Ok((labels, false)) => labels,
            Ok((labels, true)) => {
                payload = [&payload, labels::whole_text(&item.record.input).as_bytes()].concat().into();
                content_type = None;
                labels
            }
            Err(excess) => return Err(Box::new((item, excess))),
        };
        let base_us = match item.record.timestamp_us {
            Some(time) => time,
            None => item.record.input.default_timestamp_us(),
        };
        // A dead letter of an impossible time gets what a record without a time gets.
        let base_us = if base_us > MAX_TIMESTAMP_US && is_dead_letter { item.record.input.offset } else { base_us };
        if base_us > MAX_TIMESTAMP_US {
            return Err(Box::new((item, format!("its timestamp {base_us} µs is beyond {MAX_TIMESTAMP_US} µs"))));
        }
        let header_bytes = header_bytes(&labels, content_type.as_deref());
        let Item { record, entry, ack } = item;
        let identity = record.identity();
        Ok(Box::new(Self { identity, base_us, labels, content_type, payload, ack, header_bytes, entry, record }))
    }

    /// Makes its labels again where a request took them.
    pub fn restore_labels(&mut self, mapping: &Mapping) {
        if self.labels.is_empty()
            && let Ok((labels, _)) = fitting_labels(&self.record, mapping, self.record.payload().len())
        {
            self.labels = labels;
        }
    }

    /// Whether it is a dead letter.
    pub fn is_dead_letter(&self) -> bool {
        self.record.rejection.is_some()
    }

    /// What it tells of itself to those who follow records.
    pub(super) fn traced(&self) -> TracedMessage {
        TracedMessage::of(&self.record.input)
    }

    /// What describes it in the header of a batch, in bytes.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// What to send to this microsecond. It takes the labels: few records are sent twice, and a copy costs as much as making them.
    pub fn take_write(&mut self, timestamp_us: u64) -> Write {
        Write {
            timestamp_us,
            labels: std::mem::take(&mut self.labels),
            content_type: self.content_type.clone(),
            payload: self.payload.clone(),
        }
    }

    /// The record as it was handed in.
    pub fn into_item(self) -> Item {
        Item { record: self.record, entry: self.entry, ack: self.ack }
    }
}
