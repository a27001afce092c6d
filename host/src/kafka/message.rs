//! From librdkafka's message to an input record.
//!
//! Guarantees: every byte of key, headers and payload is kept; null and empty stay apart; header keys that aren't UTF-8
//! come through (the safe wrapper of `rdkafka` 0.39 panics on them); headers that can't be parsed are told, never just
//! missing.

use std::ffi::CStr;
use std::ptr;
use std::slice;

use bytes::{Bytes, BytesMut};
use rdkafka::bindings as ffi;
use rdkafka::message::{BorrowedMessage, Message};
use smallvec::SmallVec;

use crate::record::{Header, InputRecord, TopicPartition};

/// Copies a message out of librdkafka's buffer, with a single allocation for all of its bytes: a record kept in place
/// would keep its whole fetch response in memory.
///
/// With the record comes what couldn't be read of it, if anything.
pub fn input_record(message: &BorrowedMessage<'_>, source: &TopicPartition) -> (InputRecord, Option<String>) {
    let (headers, problem) = match raw_headers(message) {
        Ok(headers) => (headers, None),
        Err(problem) => (RawHeaders::new(), Some(problem)),
    };
    let (key, payload) = (message.key(), message.payload());
    let header_bytes: usize = headers.iter().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum();
    let mut bytes = BytesMut::with_capacity(header_bytes + key.map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len));
    let mut keep = |part: &[u8]| {
        bytes.extend_from_slice(part);
        bytes.split().freeze()
    };
    let headers =
        headers.into_iter().map(|(key, value)| Header { key: keep(key), value: value.map(&mut keep) }).collect();
    // Kafka numbers records from 0 on; librdkafka's negative offsets are names for places, which no record has.
    let offset = u64::try_from(message.offset()).unwrap_or_default();
    let timestamp_ms = message.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok());
    let key: Option<Bytes> = key.map(&mut keep);
    let payload: Option<Bytes> = payload.map(&mut keep);
    let source = source.clone();
    (InputRecord { source, topic_id: None, offset, timestamp_ms, key, headers, payload }, problem)
}

/// The leader epoch under which a message was written; `None`: the broker doesn't tell.
#[expect(unsafe_code, reason = "the safe wrapper doesn't tell it")]
pub fn leader_epoch(message: &BorrowedMessage<'_>) -> Option<u32> {
    // SAFETY: the message is alive for as long as it is borrowed.
    let epoch = unsafe { ffi::rd_kafka_message_leader_epoch(message.ptr()) };
    u32::try_from(epoch).ok()
}

/// Most records have few headers; these need no allocation of their own.
pub type RawHeaders<'a> = SmallVec<[(&'a [u8], Option<&'a [u8]>); 8]>;

/// The headers of a message, with keys that need not be UTF-8 and values that may be null.
#[expect(unsafe_code, reason = "the safe wrapper panics on keys that aren't UTF-8 and hides headers it can't parse")]
pub fn raw_headers<'a>(message: &'a BorrowedMessage<'_>) -> Result<RawHeaders<'a>, String> {
    let mut list: *mut ffi::rd_kafka_headers_t = ptr::null_mut();
    // SAFETY: the message is alive for as long as it is borrowed; the list belongs to it and isn't freed here.
    let answer = unsafe { ffi::rd_kafka_message_headers(message.ptr(), &mut list) };
    match answer {
        ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {}
        ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NOENT => return Ok(RawHeaders::new()),
        error => return Err(format!("its headers can't be parsed: {error:?}")),
    }
    // SAFETY: the call above succeeded, so `list` is valid for as long as the message.
    let count = unsafe { ffi::rd_kafka_header_cnt(list) };
    let mut headers = RawHeaders::with_capacity(count);
    for index in 0..count {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `list` is valid, `index` is within it, and the three out-parameters are valid for writing.
        let answer = unsafe { ffi::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size) };
        if answer != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return Err(format!("header {index} can't be read: {answer:?}"));
        }
        // SAFETY: librdkafka ends a name with NUL; it lives as long as the message.
        let key = unsafe { CStr::from_ptr(name) }.to_bytes();
        // SAFETY: a value that isn't null has `size` bytes and lives as long as the message.
        let value = (!value.is_null()).then(|| unsafe { slice::from_raw_parts(value.cast::<u8>(), size) });
        headers.push((key, value));
    }
    Ok(headers)
}
