//! What the fuzz targets share: reading a record out of the fuzzer's bytes, and guests made from text.

use bytes::Bytes;
use reduct_sink::record::{Header, InputRecord, TopicPartition};

/// Plugins made from text, as in the host's own tests.
#[path = "../../../host/tests/plugins/guest.rs"]
#[allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the host's own tests use the rest"
)]
pub mod guest;

/// Takes parts off the fuzzer's bytes; what is missing at the end is zero or empty.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// As many bytes as the next one says.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    pub fn optional(&mut self) -> Option<&'a [u8]> {
        (self.byte() & 1 == 1).then(|| self.bytes())
    }

    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// A record with such headers and such a key.
pub fn record(input: &mut Input<'_>) -> InputRecord {
    let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let mut headers = Vec::new();
    for _ in 0..input.byte() % 16 {
        headers.push(Header { key: own(input.bytes()), value: input.optional().map(own) });
    }
    InputRecord {
        source: TopicPartition { topic: "line.7".into(), partition: 2 },
        topic_id: None,
        offset: 7,
        timestamp_ms: Some(1_700_000_000_000),
        key: input.optional().map(own),
        headers,
        payload: input.optional().map(own),
    }
}

/// Whether the server and its clients can carry it.
pub fn is_safe_label(name: &str, value: &str) -> bool {
    let in_name = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    let in_value = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"';
    !name.is_empty()
        && name.bytes().all(in_name)
        && !value.is_empty()
        && value.trim() == value
        && value.bytes().all(in_value)
}
