//! Labels: how Kafka headers become ReductStore labels, and which labels the host itself sets.
//!
//! | header | label |
//! |---|---|
//! | key and value are plain text, as in most topics | the same name, the same value |
//! | key has capitals | the same in lower case (`labels.lowercase`) |
//! | key has other characters than `a-z 0-9 _ . -` | `_` for each of them; for an empty key `_` |
//! | key begins with `kafka.` or `sink.`, which are the host's | `_` for that dot |
//! | several headers of one name | the last one's value |
//! | value is not text that ReductStore accepts | percent-encoded |
//! | value is null or empty | no label |
//!
//! These labels lose some properties of the original headers and key: letter case, repetition, order, null and empty
//! values, bytes that aren't text. Where something is lost, one more label, [`HEADERS`], holds it; [`exact`] describes
//! its text.
//!
//! Guarantees: the server accepts every label, and its clients show it alike; no header and no plugin can set or remove
//! one of the host's own labels; if no plugin changed the labels, [`read_original`] returns the record's key and
//! headers byte for byte and in their order.

mod decode;
mod encode;
mod exact;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use regex::Regex;
use smallvec::SmallVec;
use thiserror::Error;

use self::exact::ExactValue;
use super::{Header, InputRecord, OutputRecord, TopicId, TopicPartition};

pub use self::decode::{Malformed, Original, read_identity, read_original, read_text};
pub use self::encode::{LabelValue, label_name, label_value};

/// On every record: `topic/partition`, followed by `@` and the topic's id where Kafka has ids. The id distinguishes a
/// topic from one that was deleted and created again under the same name. Together with [`OFFSET`] and [`INDEX`] it is the
/// record's identity. Both are in one label, because each label of a record costs the store about a tenth of what the
/// record costs it otherwise.
pub const SOURCE: &str = "kafka.source";
/// On every record: its offset in the partition.
pub const OFFSET: &str = "kafka.offset";
/// On the parts of a split record: the part's number, counted from 0.
pub const INDEX: &str = "kafka.index";
/// On records whose key is neither null nor empty: the key, percent-encoded if it isn't text that ReductStore accepts.
pub const KEY: &str = "kafka.key";
/// On records whose headers or key the other labels don't express completely: see [`exact`].
pub const HEADERS: &str = "kafka.headers";
/// On records whose Kafka value was null: `true`.
pub const TOMBSTONE: &str = "kafka.tombstone";
/// The plugins that handled the record: `name@digest:config` of each, joined by `+`, without `:config` for a plugin
/// that has no configuration. The built-in passthrough is left out, because it decides nothing and each label costs the
/// store time.
pub const PLUGINS: &str = "sink.plugins";
/// On dead letters: the record's timestamp in milliseconds since the Unix epoch, or [`NO_TIMESTAMP`]. A replay computes
/// the timestamps of its outputs from it, because the dead letter's own timestamp may have been moved to a free
/// microsecond.
pub const TIMESTAMP: &str = "kafka.timestamp";
/// The value of [`TIMESTAMP`] if the record has no timestamp.
pub const NO_TIMESTAMP: &str = "none";
/// On dead letters: why the record became one.
pub const REASON: &str = "sink.reason";
/// On dead letters, if a plugin failed: its name.
pub const PLUGIN: &str = "sink.plugin";
/// On dead letters, if a plugin failed: its digest, followed by `:` and what identifies its configuration if it has
/// one.
pub const DIGEST: &str = "sink.digest";
/// On dead letters whose key and headers are too large for labels: at which byte of the body the key and headers begin.
pub const HEADERS_AT: &str = "sink.headers-at";

/// What stands before the topic's id in [`SOURCE`]. No topic's name has it.
const BEFORE_ID: char = '@';
/// The most characters of a reason; the rest is cut off.
const MAX_REASON: usize = 1000;
/// How many labels most records have beside those of their headers, at most.
const OWN_AND_MORE: usize = 5;
/// How many bytes a label takes in an answer's header line besides its name and value: `=`, `,` and perhaps two
/// quotation marks.
const AROUND: usize = 4;

/// Which labels a record gets, as configured under `labels`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRules {
    /// Whether records get the label [`PLUGINS`].
    pub plugins: bool,
    /// Whether capitals in headers' keys become lower case in the labels' names.
    pub lowercase: bool,
    /// Only headers whose label's name matches one of these become labels. If there are none, all headers do.
    pub include: Vec<LabelPattern>,
    /// Headers whose label's name matches one of these don't become labels.
    pub exclude: Vec<LabelPattern>,
    /// The most bytes that one record's labels may take, as [`size`] counts them.
    pub max_bytes: usize,
    /// The most labels that one record may have.
    pub max_count: usize,
}

impl Default for LabelRules {
    fn default() -> Self {
        Self {
            plugins: true,
            lowercase: true,
            include: Vec::new(),
            exclude: Vec::new(),
            max_bytes: DEFAULT_MAX_BYTES,
            max_count: DEFAULT_MAX_COUNT,
        }
    }
}

/// The default of `labels.max_bytes`. A record's line in an answer must fit into the 8,190 bytes that the HTTP library
/// of ReductStore's Python client reads. Besides the labels the line holds the length, a content type, and up to seven
/// bytes for each label that the preceding record has and this record lacks.
pub const DEFAULT_MAX_BYTES: usize = 7_000;
/// The default of `labels.max_count`. An answer with a single record has an HTTP header for each label, and the HTTP
/// library of ReductStore's Rust client reads at most 100 headers.
pub const DEFAULT_MAX_COUNT: usize = 85;

/// A pattern for names of labels: `*` stands for any run of characters, and letter case is ignored.
#[derive(Debug, Clone)]
pub struct LabelPattern {
    text: String,
    regex: Regex,
}

/// An error: the text isn't a pattern for names of labels.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} can match no label's name: write it with a-z 0-9 _ . - and with `*` for any run of characters")]
pub struct NoPattern(String);

impl LabelPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, NoPattern> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'*');
        let wrong = || NoPattern(text.into());
        if text.is_empty() || !text.bytes().all(legal) {
            return Err(wrong());
        }
        let parts: Vec<String> = text.to_ascii_lowercase().split('*').map(regex::escape).collect();
        let regex = Regex::new(&format!("^{}$", parts.join(".*"))).map_err(|_| wrong())?;
        Ok(Self { text: text.into(), regex })
    }

    fn matches(&self, name: &str) -> bool {
        match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => self.regex.is_match(&name.to_ascii_lowercase()),
            false => self.regex.is_match(name),
        }
    }
}

impl PartialEq for LabelPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for LabelPattern {}

/// Headers, each with the name of its label; `None`: the header becomes no label.
type NamedHeaders<'a> = SmallVec<[(&'a Header, Option<Cow<'a, str>>); 8]>;

impl LabelRules {
    /// The labels that are made of the headers, with the plugins' changes applied. A plugin sees these labels, and the
    /// sink writes them together with the host's own.
    pub fn record_labels(&self, output: &OutputRecord) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        self.set_record_labels(output, |name, value| match value {
            Some(value) => drop(labels.insert(name.into_owned(), value)),
            None => drop(labels.remove(&*name)),
        });
        labels
    }

    /// Sets each label that is made of a header or that a plugin sets, one after the other; without a value it is removed.
    fn set_record_labels<'a>(&self, output: &'a OutputRecord, mut set: impl FnMut(Cow<'a, str>, Option<String>)) {
        let value = |value: Option<&[u8]>| value.and_then(label_value).map(String::from);
        for header in &output.input.headers {
            if let Some(name) = self.header_label(&header.key) {
                set(name, value(header.value.as_deref()));
            }
        }
        for change in output.labels.iter() {
            let name = label_name(change.name.as_bytes(), self.lowercase);
            set(name, value(change.value.as_deref().map(str::as_bytes)));
        }
    }

    /// All labels that are written with the record: its own and the host's.
    pub fn all_labels(&self, output: &OutputRecord) -> HashMap<String, String> {
        let mut labels = HashMap::with_capacity(OWN_AND_MORE + output.input.headers.len());
        put_own_labels(&mut labels, output);
        // Their names are none of the host's, so that they replace and remove none of its labels.
        self.set_record_labels(output, |name, value| match value {
            Some(value) => drop(labels.insert(name.into_owned(), value)),
            None => drop(labels.remove(&*name)),
        });
        if let Some(key) = output.input.key.as_deref().and_then(label_value) {
            labels.insert(KEY.into(), key.into());
        }
        if let Some(exact) = self.exact(output) {
            labels.insert(HEADERS.into(), exact);
        }
        if let (true, Some(plugins)) = (self.plugins, &output.handled_by) {
            labels.insert(PLUGINS.into(), plugins.to_string());
        }
        labels
    }

    /// Why these labels are too many or too large for one record; `None`: they are allowed.
    pub fn excess(&self, labels: &HashMap<String, String>) -> Option<String> {
        let (count, bytes) = (labels.len(), size(labels));
        if bytes > self.max_bytes {
            return Some(format!("its labels take {bytes} bytes, and labels.max_bytes allows {}", self.max_bytes));
        }
        (count > self.max_count)
            .then(|| format!("it has {count} labels, and labels.max_count allows {}", self.max_count))
    }

    /// The name of the label that a header with this key becomes; `None`: `include` or `exclude` leaves it out.
    fn header_label<'a>(&self, key: &'a [u8]) -> Option<Cow<'a, str>> {
        let name = label_name(key, self.lowercase);
        let included = self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(&name));
        (included && !self.exclude.iter().any(|pattern| pattern.matches(&name))).then_some(name)
    }

    /// The text of [`HEADERS`]; `None`: the other labels express the headers and the key completely.
    ///
    /// Headers whose labels a plugin set or removed are left out, and so are headers that the configuration leaves out,
    /// so that a removed value isn't stored here after all. A dead letter has all headers.
    fn exact(&self, output: &OutputRecord) -> Option<String> {
        let InputRecord { headers, key, .. } = &*output.input;
        let changed: SmallVec<[Cow<'_, str>; 8]> =
            output.labels.iter().map(|change| label_name(change.name.as_bytes(), self.lowercase)).collect();
        let is_whole = output.rejection.is_some();
        let headers: NamedHeaders<'_> = headers
            .iter()
            .map(|header| (header, self.header_label(&header.key)))
            .filter(|(_, name)| name.as_ref().map_or(is_whole, |name| !changed.contains(name)))
            .collect();
        let key = match key.as_deref().map(label_value) {
            None | Some(Some(LabelValue::Plain(_))) => None,
            Some(Some(LabelValue::Encoded(_))) => Some(ExactValue::EncodedLabel),
            Some(None) => Some(ExactValue::Bytes(&b""[..])),
        };
        let are_plain = are_plain(&headers);
        if key.is_none() && are_plain {
            return None;
        }
        let mut text = String::new();
        if let Some(key) = key {
            exact::push(&mut text, None, &key);
        }
        if !are_plain {
            push_all(&mut text, &headers);
        }
        Some(text)
    }
}

/// Whether the labels of these headers express the headers completely. Labels are read back in the order of their
/// names, so the headers must be in that order, too.
fn are_plain(headers: &NamedHeaders<'_>) -> bool {
    let is_plain = |(header, name): &(&Header, Option<Cow<'_, str>>)| {
        name.as_ref().is_some_and(|name| name.as_bytes() == &header.key[..])
            && matches!(header.value.as_deref().and_then(label_value), Some(LabelValue::Plain(_)))
    };
    headers.iter().all(is_plain)
        && headers.iter().zip(headers.iter().skip(1)).all(|((one, _), (next, _))| one.key < next.key)
}

fn push_all(text: &mut String, headers: &NamedHeaders<'_>) {
    let names = || headers.iter().enumerate().filter_map(|(at, (_, name))| Some((name.as_deref()?, at)));
    // Of several headers of one name the last one has the label.
    let holders: HashMap<&str, usize> = names().collect();
    for (at, (Header { key, value }, name)) in headers.iter().enumerate() {
        let has_label = name.as_deref().is_some_and(|name| holders.get(name) == Some(&at));
        let exact = match value.as_deref() {
            None => ExactValue::Null,
            Some(value) => match label_value(value) {
                // The part of an empty key whose value is in its label would be an empty text.
                Some(LabelValue::Plain(_)) if has_label && !key.is_empty() => ExactValue::Label,
                Some(LabelValue::Encoded(_)) if has_label => ExactValue::EncodedLabel,
                _ => ExactValue::Bytes(value),
            },
        };
        exact::push(text, Some(key), &exact);
    }
}

/// The host's own labels that don't depend on the record's headers and key: its identity, and why it is a dead letter.
pub fn own_labels(output: &OutputRecord) -> HashMap<String, String> {
    let mut labels = HashMap::new();
    put_own_labels(&mut labels, output);
    labels
}

/// The value of [`SOURCE`].
pub fn source_text(source: &TopicPartition, topic_id: Option<TopicId>) -> String {
    topic_id.map_or_else(|| source.to_string(), |id| format!("{source}{BEFORE_ID}{id}"))
}

fn put_own_labels(labels: &mut HashMap<String, String>, output: &OutputRecord) {
    labels.insert(SOURCE.into(), source_text(&output.input.source, output.input.topic_id));
    labels.insert(OFFSET.into(), output.input.offset.to_string());
    if let Some(index) = output.index {
        labels.insert(INDEX.into(), index.to_string());
    }
    if output.input.payload.is_none() {
        labels.insert(TOMBSTONE.into(), "true".into());
    }
    if let Some(rejection) = &output.rejection {
        labels.insert(REASON.into(), reason(&rejection.reason));
        if let Some((plugin, digest)) = &rejection.plugin {
            labels.insert(PLUGIN.into(), plugin.to_string());
            labels.insert(DIGEST.into(), digest.clone());
        }
        labels.insert(
            TIMESTAMP.into(),
            output.input.timestamp_ms.map_or_else(|| NO_TIMESTAMP.into(), |ms| ms.to_string()),
        );
    }
}

/// A reason as the value of a label. People read it, so characters that ReductStore doesn't accept are replaced rather
/// than encoded.
fn reason(text: &str) -> String {
    let replaced = text.trim().chars().take(MAX_REASON).map(|c| match c {
        '"' => '\'',
        ' '..='~' => c,
        _ if c.is_whitespace() || c.is_control() => ' ',
        _ => '?',
    });
    let text: String = replaced.collect();
    match text.trim() {
        "" => "unknown".into(),
        text => text.into(),
    }
}

/// How many bytes these labels take in the header line of an answer or of a request.
pub fn size(labels: &HashMap<String, String>) -> usize {
    labels.iter().map(|(name, value)| name.len() + value.len() + AROUND).sum()
}

/// The key and headers as one text in the form of [`exact`], for a record where they are too large for labels. Every
/// part holds its value itself.
pub fn whole_text(input: &InputRecord) -> String {
    let mut text = String::new();
    if let Some(key) = &input.key {
        exact::push(&mut text, None, &ExactValue::Bytes(key));
    }
    for Header { key, value } in &input.headers {
        exact::push(&mut text, Some(key), &value.as_deref().map_or(ExactValue::Null, ExactValue::Bytes));
    }
    text
}

/// A header's key as text for plugins, in which `%xx` stands for each byte that isn't part of valid UTF-8.
pub fn header_key_text(key: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(key) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::with_capacity(key.len() + 8);
            for chunk in key.utf8_chunks() {
                text.push_str(chunk.valid());
                chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02x}")));
            }
            Cow::Owned(text)
        }
    }
}
