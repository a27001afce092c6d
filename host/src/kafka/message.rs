//! From librdkafka's message to an input record.
//!
//! Guarantees: every byte of key, headers and payload is kept; null and empty stay apart; header keys that aren't UTF-8
//! come through (the safe wrapper of `rdkafka` 0.39 panics on them), and so do keys that contain a NUL; headers that can't be
//! parsed are reported.

use std::ffi::{CStr, c_char};
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
        // SAFETY: librdkafka made the name, and it lives as long as the message.
        let key = unsafe { whole_key(name) };
        // SAFETY: a value that isn't null has `size` bytes and lives as long as the message.
        let value = (!value.is_null()).then(|| unsafe { slice::from_raw_parts(value.cast::<u8>(), size) });
        headers.push((key, value));
    }
    Ok(headers)
}

/// A header's key, also behind a NUL in it. librdkafka's interface ends a key at its first NUL, so that two keys could become
/// one. The length is in librdkafka's own structure `rd_kafka_header_s`, before the value's address and the key. Its source is
/// compiled into this program in one version; a test below fails when another version keeps the length elsewhere.
///
/// # Safety
///
/// `name` must be a key that [`ffi::rd_kafka_header_get_all`] returned, and the headers must live for `'a`.
#[expect(unsafe_code, reason = "librdkafka's interface tells no length")]
unsafe fn whole_key<'a>(name: *const c_char) -> &'a [u8] {
    // SAFETY: librdkafka ends a key with NUL.
    let until_nul = unsafe { CStr::from_ptr(name) }.to_bytes();
    // SAFETY: the length and the value's address lie before the key in the same allocation.
    let length = unsafe { name.cast::<usize>().sub(2).read_unaligned() };
    if length <= until_nul.len() {
        return until_nul;
    }
    // SAFETY: the key has this many bytes.
    unsafe { slice::from_raw_parts(name.cast(), length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "it makes headers as librdkafka does when it receives them")]
    fn a_key_with_a_nul_is_whole() {
        let keys: [&[u8]; 5] = [b"kind", b"kind\0x", b"\0", b"", b"a\0\0b\0"];
        for value in [None, Some(&b""[..]), Some(&b"value"[..])] {
            for key in keys {
                // SAFETY: the pointers outlive the calls, which copy what they point to; the list is freed once.
                unsafe {
                    let list = ffi::rd_kafka_headers_new(1);
                    let (at, length) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
                    ffi::rd_kafka_header_add(list, key.as_ptr().cast(), key.len() as isize, at.cast(), length as isize);
                    let (mut name, mut found, mut size) = (ptr::null(), ptr::null(), 0);
                    ffi::rd_kafka_header_get_all(list, 0, &mut name, &mut found, &mut size);
                    assert_eq!(whole_key(name), key, "{value:?}");
                    assert_eq!((found.is_null(), size), (value.is_none(), length));
                    ffi::rd_kafka_headers_destroy(list);
                }
            }
        }
    }
}
