//! Where a batch of records ends that can't be read.
//!
//! librdkafka doesn't tell the last offset of a batch whose checksum is wrong, or that it can't decompress; its reason names
//! the first one. A fetch at an offset within such a batch brings the same batch, and the same reason: so the end is
//! looked for with one fetch after the other.
//!
//! Guarantees: no offset before the answer can be read, and the answer itself can, or belongs to another batch, or is the
//! partition's end; where the reason names no batch there is no answer. Nothing is committed, and no group is joined.

use super::client::is_unreadable;
use super::scan::{ScanError, ScanReader};
use crate::config;
use crate::record::TopicPartition;

/// What librdkafka says where a checksum is wrong, and where it can't decompress; the batch's first offset follows.
const NAMES: [&str; 3] = ["MessageSet at offset ", "Message at offset ", " of message at "];
/// A batch that is too large to be fetched isn't damaged, and its end can't be found this way.
const TOO_LARGE: &str = "too large";

/// The first offset behind the batch that has this offset and can't be read; `from` itself where it can be read now.
pub fn end_of_batch(config: &config::Kafka, source: &TopicPartition, from: u64) -> Result<u64, String> {
    let mut reader = ScanReader::new(config).map_err(|error| error.to_string())?;
    let end = reader.bounds(source).map_err(|error| error.to_string())?.end;
    let Some(batch) = first_offset(&mut reader, source, from, end)? else { return Ok(from) };
    search(from, end, |at| Ok(first_offset(&mut reader, source, at, end)? != Some(batch)))
}

/// The first offset behind `from` and up to `end` at which the batch has ended.
fn search(from: u64, end: u64, mut has_ended: impl FnMut(u64) -> Result<bool, String>) -> Result<u64, String> {
    let (mut within, mut step) = (from, 1);
    let mut behind = loop {
        let at = within.saturating_add(step);
        if at >= end {
            break end;
        }
        if has_ended(at)? {
            break at;
        }
        (within, step) = (at, step.saturating_mul(2));
    };
    while behind.saturating_sub(within) > 1 {
        let middle = within + (behind - within) / 2;
        if has_ended(middle)? { behind = middle } else { within = middle }
    }
    Ok(behind)
}

/// The first offset of the batch that has this offset, if it can't be read; `None`: a record can be read there or behind
/// it, or there is none.
fn first_offset(reader: &mut ScanReader, source: &TopicPartition, at: u64, end: u64) -> Result<Option<u64>, String> {
    let begun = reader.assign([(source.clone(), at..end)]);
    match begun.and_then(|()| reader.read_next()) {
        Ok(_) => Ok(None),
        Err(ScanError { code: Some(code), reason, .. }) if is_unreadable(code) => {
            let reason = reader.last_reason().unwrap_or(reason);
            match named(&reason) {
                Some(first) => Ok(Some(first)),
                None => Err(format!("where the batch ends can't be found out: {reason}")),
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The offset that librdkafka's reason names.
fn named(reason: &str) -> Option<u64> {
    if reason.contains(TOO_LARGE) {
        return None;
    }
    let (_, rest) = NAMES.iter().find_map(|name| reason.split_once(name))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_batch_is_found_wherever_it_is() {
        for last in [10, 11, 12, 15, 16, 17, 100, 998, 999] {
            let mut asked = 0;
            let end = search(10, 1000, |at| {
                asked += 1;
                assert!((11..1000).contains(&at));
                Ok(at > last)
            });
            assert_eq!(end, Ok(last + 1));
            assert!(asked < 24, "{asked} fetches for {last}");
        }
    }

    #[test]
    fn the_batch_is_named_by_its_first_offset() {
        for (reason, first) in [
            ("MessageSet at offset 71 (82 bytes) failed CRC32C check (original 0x1 != calculated 0x2)", Some(71)),
            ("Message at offset 5 (12 bytes) failed CRC32 check (original 0x1 != calculated 0x2)", Some(5)),
            ("Decompression (codec 0x2) of message at 9 of 77 bytes failed: Local: Invalid", Some(9)),
            ("Message at offset 5 might be too large to fetch, try increasing receive.message.max.bytes", None),
            ("Local: Bad message format", None),
        ] {
            assert_eq!(named(reason), first, "{reason}");
        }
    }
}
