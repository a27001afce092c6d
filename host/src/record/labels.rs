//! Labels: how Kafka headers become ReductStore labels without loss, and which labels the sink itself sets.
//!
//! Guarantees: every label that leaves here is safe for the server and its clients (`facts`: a name is an HTTP token in
//! lower case, a value is printable ASCII, trimmed, not empty and without `"`), and the headers can be told from them:
//!
//! | header | label |
//! |---|---|
//! | key and value are plain text, as in most topics | the same name, the same value |
//! | key has bytes other than `a-z 0-9 _ . -`, begins with `@`, `kafka.` or `sink.` | those bytes as `%xx` (lower-case hex) |
//! | the second, third … header of one key | `name%n2`, `name%n3` … |
//! | value has control, non-ASCII or `"` bytes, or spaces at its ends | those bytes as `%xx` |
//! | value has a `%` that two hex digits follow | that `%` as `%25`; any other `%` stays |
//! | value is empty, null | `%empty`, `%null` |
//! | key is empty | `%empty` |
//!
//! So percent-decoding that leaves alone what isn't `%` and two hex digits (Python's `unquote_to_bytes`) gives the bytes
//! back. The order among headers of different keys isn't kept.
//!
//! What a plugin sets is taken to be in this stored form already: a `%` of its own stays as it is.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use bytes::Bytes;

use crate::record::{Header, Identity, InputRecord, OutputRecord, TopicPartition};

/// `topic/partition`, on every record: with [`OFFSET`] and [`INDEX`] the record's identity.
pub const SOURCE: &str = "kafka.source";
pub const OFFSET: &str = "kafka.offset";
/// The topic's id as Kafka shows it, where it is known: it tells a topic from one that was deleted and created again.
pub const TOPIC_ID: &str = "kafka.topic-id";
/// The place in a split; only on the parts of one.
pub const INDEX: &str = "kafka.index";
/// The record's key, encoded like a header's value; absent where the record has none.
pub const KEY: &str = "kafka.key";
/// `true` on a record whose Kafka value was null.
pub const TOMBSTONE: &str = "kafka.tombstone";
/// The plugins that handled the record, `name@digest` joined by `+`. The builtin passthrough isn't told: it decides
/// nothing, and each label costs the store time.
pub const PLUGINS: &str = "sink.plugins";
/// On dead letters: the record's time in milliseconds, `%null` where it has none. What a replay computes its outputs'
/// timestamps from; a dead letter's own timestamp may have been moved to a free microsecond.
pub const TIMESTAMP: &str = "kafka.timestamp";
/// On dead letters: why, and the plugin and its digest where one failed.
pub const REASON: &str = "sink.reason";
pub const PLUGIN: &str = "sink.plugin";
pub const DIGEST: &str = "sink.digest";
/// On dead letters whose key and headers are too large for labels: where in the body they begin, in bytes.
pub const HEADERS_AT: &str = "sink.headers-at";

/// Prefixes that belong to the sink; a header or a plugin that uses one gets its first letter encoded.
const RESERVED: [&str; 2] = ["kafka.", "sink."];

/// A reason is cut to so many characters.
const MAX_REASON: usize = 1000;

const EMPTY: &str = "%empty";
const NULL: &str = "%null";

/// The labels made from the headers, with the plugins' changes applied: what a plugin sees, and what is written beside
/// the sink's own labels.
pub fn stored_labels(output: &OutputRecord) -> BTreeMap<String, String> {
    let mut labels = header_labels(&output.input);
    for change in &output.labels {
        let name = encode_plugin_name(&change.name);
        match &change.value {
            Some(value) => labels.insert(name, encode_plugin_value(value)),
            None => labels.remove(&name),
        };
    }
    labels
}

/// Everything that is written with the record: its stored labels and the sink's own.
pub fn all_labels(output: &OutputRecord, mark_plugins: bool) -> HashMap<String, String> {
    let mut labels = own_labels(output);
    labels.extend(stored_labels(output));
    if let Some(key) = &output.input.key {
        labels.insert(KEY.into(), encode_value(Some(key)).into_owned());
    }
    if let (true, Some(plugins)) = (mark_plugins, &output.handled_by) {
        labels.insert(PLUGINS.into(), plugins.to_string());
    }
    labels
}

/// The labels that don't grow with what the record brings along: its identity, and why it is a dead letter.
pub fn own_labels(output: &OutputRecord) -> HashMap<String, String> {
    let mut labels = HashMap::new();
    labels.insert(SOURCE.into(), output.input.source.to_string());
    labels.insert(OFFSET.into(), output.input.offset.to_string());
    if let Some(id) = output.input.topic_id {
        labels.insert(TOPIC_ID.into(), id.to_string());
    }
    if let Some(index) = output.index {
        labels.insert(INDEX.into(), index.to_string());
    }
    if output.input.payload.is_none() {
        labels.insert(TOMBSTONE.into(), "true".into());
    }
    if let Some(rejection) = &output.rejection {
        let reason: String = rejection.reason.chars().take(MAX_REASON).collect();
        labels.insert(REASON.into(), encode_value(Some(reason.trim().as_bytes())).into_owned());
        if let Some((plugin, digest)) = &rejection.plugin {
            labels.insert(PLUGIN.into(), plugin.to_string());
            labels.insert(DIGEST.into(), digest.clone());
        }
        labels.insert(TIMESTAMP.into(), output.input.timestamp_ms.map_or_else(|| NULL.into(), |ms| ms.to_string()));
    }
    labels
}

/// The identity that [`own_labels`] wrote.
pub fn read_identity(found: &HashMap<String, String>) -> Option<Identity> {
    let (topic, partition) = found.get(SOURCE)?.rsplit_once('/')?;
    let index = match found.get(INDEX) {
        Some(index) => Some(index.parse().ok()?),
        None => None,
    };
    let topic_id = match found.get(TOPIC_ID) {
        Some(id) => Some(id.parse().ok()?),
        None => None,
    };
    Some(Identity {
        topic_id,
        source: TopicPartition { topic: topic.into(), partition: partition.parse().ok()? },
        offset: found.get(OFFSET)?.parse().ok()?,
        index,
    })
}

/// The headers that [`stored_labels`] made labels of, where no plugin changed them: in the order of their labels' names,
/// those of one key in their own order. The sink's labels are left out.
pub fn read_headers(found: &HashMap<String, String>) -> Vec<Header> {
    let mut headers: Vec<_> = found
        .iter()
        .filter(|(name, _)| !is_reserved(name.as_bytes()))
        .map(|(name, value)| {
            let (name, repeat) = split_repeat(name);
            (name, repeat, Header { key: decode_name(name), value: decode_value(value) })
        })
        .collect();
    headers.sort_by(|(name, repeat, _), (other, other_repeat, _)| (name, repeat).cmp(&(other, other_repeat)));
    headers.into_iter().map(|(_, _, header)| header).collect()
}

/// A label's name without the number behind that of a repeated header.
fn split_repeat(name: &str) -> (&str, u32) {
    let numbered = name.rsplit_once("%n").and_then(|(name, number)| Some((name, number.parse().ok()?)));
    numbered.unwrap_or((name, 1))
}

fn header_labels(input: &InputRecord) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut repeats: HashMap<String, u32> = HashMap::new();
    for header in &input.headers {
        let name = encode_name(&header.key);
        let value = encode_value(header.value.as_deref()).into_owned();
        if labels.contains_key(name.as_ref()) {
            // No encoded name has `%n` in it, so the numbered ones can't meet another header's.
            let count = repeats.entry(name.to_string()).or_insert(1);
            *count += 1;
            labels.insert(format!("{name}%n{count}"), value);
        } else {
            labels.insert(name.into_owned(), value);
        }
    }
    labels
}

/// A header's key as text, for plugins: as it is where it is UTF-8, otherwise with the bytes that aren't as `%xx`.
pub fn header_key_text(key: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(key) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::with_capacity(key.len() + 8);
            for chunk in key.utf8_chunks() {
                text.push_str(chunk.valid());
                chunk.invalid().iter().for_each(|byte| push_escaped(&mut text, *byte));
            }
            Cow::Owned(text)
        }
    }
}

/// A header's key as a label's name.
pub fn encode_name(key: &[u8]) -> Cow<'_, str> {
    let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    if key.is_empty() {
        return Cow::Borrowed(EMPTY);
    }
    let reserved = is_reserved(key);
    match std::str::from_utf8(key) {
        Ok(text) if !reserved && key.iter().all(plain) => Cow::Borrowed(text),
        _ => {
            let escape = |(at, byte): (usize, &u8)| !plain(byte) || (at == 0 && reserved);
            Cow::Owned(escape_bytes(key, escape))
        }
    }
}

/// A header's value (or a key) as a label's value.
pub fn encode_value(value: Option<&[u8]>) -> Cow<'_, str> {
    let Some(value) = value else { return Cow::Borrowed(NULL) };
    if value.is_empty() {
        return Cow::Borrowed(EMPTY);
    }
    let word = value == EMPTY.as_bytes() || value == NULL.as_bytes();
    let last = value.len() - 1;
    let escape = |(at, byte): (usize, &u8)| match byte {
        b' ' => at == 0 || at == last,
        b'%' => word || followed_by_hex(value, at),
        byte => !is_plain_value_byte(*byte),
    };
    match std::str::from_utf8(value) {
        Ok(text) if !value.iter().enumerate().any(escape) => Cow::Borrowed(text),
        _ => Cow::Owned(escape_bytes(value, escape)),
    }
}

/// The header's key of a label's name: the inverse of [`encode_name`].
pub fn decode_name(name: &str) -> Bytes {
    if name == EMPTY { Bytes::new() } else { unescape(name) }
}

/// The bytes of a label's value: the inverse of [`encode_value`].
pub fn decode_value(value: &str) -> Option<Bytes> {
    match value {
        NULL => None,
        EMPTY => Some(Bytes::new()),
        value => Some(unescape(value)),
    }
}

/// A label's name as a plugin gave it: `%` is taken for an escape that is there already.
fn encode_plugin_name(name: &str) -> String {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'%');
    if name.is_empty() {
        return EMPTY.into();
    }
    let reserved = is_reserved(name.as_bytes());
    escape_bytes(name.as_bytes(), |(at, byte)| !plain(*byte) || (at == 0 && reserved))
}

/// A label's value as a plugin gave it: `%` is taken for an escape that is there already.
fn encode_plugin_value(value: &str) -> String {
    if value.is_empty() {
        return EMPTY.into();
    }
    let last = value.len() - 1;
    escape_bytes(value.as_bytes(), |(at, byte)| match byte {
        b' ' => at == 0 || at == last,
        b'%' => false,
        byte => !is_plain_value_byte(*byte),
    })
}

fn is_plain_value_byte(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"'
}

fn is_reserved(name: &[u8]) -> bool {
    RESERVED.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

fn followed_by_hex(bytes: &[u8], at: usize) -> bool {
    bytes.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
}

fn escape_bytes(bytes: &[u8], escape: impl Fn((usize, &u8)) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len() + 16);
    for (at, byte) in bytes.iter().enumerate() {
        if escape((at, byte)) || !byte.is_ascii() {
            push_escaped(&mut text, *byte);
        } else {
            text.push(char::from(*byte));
        }
    }
    text
}

/// Decodes each `%` that two hex digits follow, and leaves everything else.
fn unescape(text: &str) -> Bytes {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = if *byte == b'%' {
            tail.split_first_chunk::<2>().and_then(|(two, tail)| Some((hex(two)?, tail)))
        } else {
            None
        };
        let (byte, tail) = escaped.unwrap_or((*byte, tail));
        bytes.push(byte);
        rest = tail;
    }
    bytes.into()
}

fn hex([high, low]: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn push_escaped(text: &mut String, byte: u8) {
    // Writing to a String can't fail.
    let _ = write!(text, "%{byte:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::LabelChange;
    use std::sync::Arc;

    fn output(headers: &[(&[u8], Option<&[u8]>)]) -> OutputRecord {
        let headers = headers
            .iter()
            .map(|(key, value)| Header { key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) })
            .collect();
        OutputRecord::unchanged(Arc::new(InputRecord {
            source: TopicPartition { topic: "t".into(), partition: 2 },
            topic_id: None,
            offset: 7,
            timestamp_ms: Some(1),
            key: Some(Bytes::from_static(b"k")),
            headers,
            payload: None,
        }))
    }

    #[test]
    fn plain_text_stays_as_in_the_tutorial() {
        let labels =
            stored_labels(&output(&[(b"size", Some(b"1024")), (b"type", Some(b"binary")), (b"load", Some(b"50 %"))]));
        let expected = [("size", "1024"), ("type", "binary"), ("load", "50 %")];
        assert_eq!(labels, expected.map(|(k, v)| (k.to_string(), v.to_string())).into());
    }

    #[test]
    fn every_value_comes_back() {
        let mut values: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        values.extend((0..=255).map(|byte| vec![b'a', byte, b'4', b'1']));
        for text in
            ["", " ", "  x ", "%", "%%", "%4", "%41", "%2541", "%null", "%empty", "a\"b,c", "Zürich", "{\"a\": 1}"]
        {
            values.push(text.into());
        }
        let mut seen = std::collections::HashMap::new();
        for value in &values {
            let label = encode_value(Some(value)).into_owned();
            assert_eq!(decode_value(&label).as_deref(), Some(&value[..]), "{label}");
            assert!(label.bytes().all(is_plain_value_byte) && label.trim() == label && !label.is_empty());
            assert_eq!(seen.insert(label, value.clone()).filter(|other| other != value), None);
        }
        assert_eq!(encode_value(None), NULL);
        assert_eq!(decode_value(NULL), None);
    }

    #[test]
    fn every_name_comes_back_and_none_is_reserved() {
        let names: [&[u8]; 9] =
            [b"Content-Type", b"@x", b"kafka.offset", b"sink.plugins", b"", b"%41", b"a b", b"\xff\x00", b"kafkas"];
        for name in names {
            let label = encode_name(name).into_owned();
            assert_eq!(decode_name(&label), name, "{label}");
            assert!(!is_reserved(label.as_bytes()) && !label.starts_with('@'));
            assert!(
                label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'%')),
                "{label}"
            );
        }
        assert_eq!(encode_name(b"Content-Type"), "%43ontent-%54ype");
    }

    #[test]
    fn repeated_headers_are_all_kept() {
        let labels =
            stored_labels(&output(&[(b"a", Some(b"1")), (b"a", Some(b"2")), (b"a", None), (b"a%n2", Some(b"x"))]));
        let expected = [("a", "1"), ("a%n2", "2"), ("a%n3", "%null"), ("a%25n2", "x")];
        assert_eq!(labels, expected.map(|(k, v)| (k.to_string(), v.to_string())).into());
    }

    #[test]
    fn plugin_changes_apply_in_order_in_stored_form() {
        let mut record = output(&[(b"city", Some("Zürich".as_bytes())), (b"gone", Some(b"1"))]);
        let seen = stored_labels(&record)["city"].clone();
        let change = |name: &str, value: Option<&str>| LabelChange { name: name.into(), value: value.map(Into::into) };
        record.labels = vec![
            change("town", Some(&seen)),
            change("gone", None),
            change("Name", Some("näh\n")),
            change("kafka.offset", Some("9")),
            change("e", Some("")),
        ];
        let labels = all_labels(&record, true);
        assert_eq!(labels["town"], "Z%c3%bcrich");
        assert_eq!(labels["%4eame"], "n%c3%a4h%0a");
        assert_eq!(labels["%6bafka.offset"], "9");
        assert_eq!(labels["e"], EMPTY);
        assert!(!labels.contains_key("gone"));
        assert_eq!((labels[SOURCE].as_str(), labels[OFFSET].as_str(), labels[KEY].as_str()), ("t/2", "7", "k"));
        assert_eq!(labels[TOMBSTONE], "true");
    }

    #[test]
    fn header_keys_reach_plugins_as_text() {
        assert_eq!(header_key_text("ä".as_bytes()), "ä");
        assert_eq!(header_key_text(b"a\xffb\xc3"), "a%ffb%c3");
    }
    #[test]
    fn an_identity_is_read_back() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let whole = labels(&[("kafka.source", "a.b/3"), ("kafka.offset", "9"), ("kafka.index", "1")]);
        let identity = read_identity(&whole).unwrap();
        assert_eq!(identity.to_string(), "a.b/3@9#1");
        assert_eq!(read_identity(&labels(&[("kafka.source", "a"), ("kafka.offset", "9")])), None);
        assert_eq!(read_identity(&labels(&[("size", "9")])), None);
    }

    /// Bytes in which what the encoding treats apart is frequent.
    fn any_bytes(random: &mut fastrand::Rng, longest: usize) -> Vec<u8> {
        const PIECES: [&[u8]; 20] = [
            b"%",
            b"%4",
            b"%41",
            b"%n2",
            b"%null",
            b"%empty",
            b"@",
            b"kafka.",
            b"sink.",
            b" ",
            b"\"",
            b"\r\n",
            b"\0",
            b"a",
            b"A",
            b"2f",
            b"\xff",
            "ä".as_bytes(),
            b",",
            b"=",
        ];
        (0..random.usize(0..=longest)).flat_map(|_| PIECES[random.usize(0..PIECES.len())].iter().copied()).collect()
    }

    #[test]
    fn headers_come_back_whatever_they_hold() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let headers: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0..random.usize(0..8))
                .map(|_| (any_bytes(&mut random, 2), random.bool().then(|| any_bytes(&mut random, 4))))
                .collect();
            let borrowed: Vec<_> = headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
            let record = output(&borrowed);
            let read = read_headers(&all_labels(&record, true));
            let mut expected = record.input.headers.clone();
            // Only the order among different keys is lost; sorting by key keeps that among equal ones.
            let mut found = read.clone();
            expected.sort_by(|a, b| a.key.cmp(&b.key));
            found.sort_by(|a, b| a.key.cmp(&b.key));
            assert_eq!(found, expected, "{read:?}");
        }
    }

    #[test]
    fn values_and_names_come_back_whatever_they_hold() {
        let mut random = fastrand::Rng::with_seed(8);
        for _ in 0..100_000 {
            let bytes = any_bytes(&mut random, 6);
            assert_eq!(decode_value(&encode_value(Some(&bytes))).as_deref(), Some(&bytes[..]));
            assert_eq!(decode_name(&encode_name(&bytes)), bytes);
        }
    }
}
