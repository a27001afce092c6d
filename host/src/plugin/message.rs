//! An input record as a plugin sees it, borrowed from the record itself.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::bindings::reduct_sink::transform::types::{Header, Message};
use crate::record::labels::header_key_text;
use crate::record::{InputRecord, OutputRecord};

/// As many headers as most records have lie on the stack.
pub(crate) type HeaderKeys<'a> = SmallVec<[Cow<'a, str>; 8]>;

/// The headers' keys as text: borrowed where they are UTF-8, percent-encoded where not.
pub(crate) fn header_keys(input: &InputRecord) -> HeaderKeys<'_> {
    input.headers.iter().map(|header| header_key_text(&header.key)).collect()
}

/// An input record in the contract's form, made once for all plugins of a chain.
pub(crate) struct RecordView<'a> {
    input: &'a InputRecord,
    headers: SmallVec<[Header<'a>; 8]>,
}

impl<'a> RecordView<'a> {
    pub fn new<'k: 'a>(input: &'a InputRecord, keys: &'a HeaderKeys<'k>) -> Self {
        let headers = input.headers.iter().zip(keys);
        let headers = headers.map(|(header, key)| Header { key, value: header.value.as_deref() }).collect();
        Self { input, headers }
    }

    /// The message for one output: what Kafka said, with the time and the payload's size as they stand now.
    pub(super) fn message(&self, output: &OutputRecord) -> Message<'_> {
        let input = self.input;
        let payload = output.payload.as_ref().or(input.payload.as_ref());
        Message {
            topic: &input.source.topic,
            partition: input.source.partition,
            offset: input.offset,
            timestamp: output.timestamp_us.unwrap_or_else(|| input.default_timestamp_us()),
            key: input.key.as_deref(),
            headers: &self.headers,
            payload_size: payload.map_or(0, |payload| payload.len() as u64),
        }
    }
}
