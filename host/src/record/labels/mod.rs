//! Labels: how Kafka headers become ReductStore labels, and which labels the host itself sets.
//!
//! | header | label |
//! |---|---|
//! | key and value are plain text, as in most topics | the same name, the same value |
//! | key has capitals | the same in lower case (`labels.lowercase`) |
//! | key has other characters than `a-z 0-9 _ . -` | `_` for each of them; for an empty key `_` |
//! | key begins with `kafka.` or `sink.`, which are the host's | `_` for that dot |
//! | several headers of one name | the last one's value |
//! | value is no text that ReductStore takes | percent-encoded |
//! | value is null or empty | no label |
//!
//! What these labels don't tell of the original headers and key (letter case, repetition, order, null and empty values,
//! bytes) is in one further label, [`HEADERS`], which is there only where it is needed; [`exact`] is its text.
//!
//! Guarantees: every label is safe for the server and shown alike by its clients; no header and no plugin can set or
//! remove a label of the host's; [`read_original`] gives key and headers of a record that no plugin relabelled back byte
//! for byte, in their order.

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
use super::{Header, InputRecord, OutputRecord};

pub use self::decode::{Malformed, Original, read_identity, read_original, read_text};
pub use self::encode::{LabelValue, label_name, label_value};

/// `topic/partition`, on every record: with [`TOPIC_ID`], [`OFFSET`] and [`INDEX`] the record's identity.
pub const SOURCE: &str = "kafka.source";
/// The record's offset in its partition, on every record.
pub const OFFSET: &str = "kafka.offset";
/// The topic's id as Kafka shows it, where it is known: it tells a topic from one that was deleted and created again.
pub const TOPIC_ID: &str = "kafka.topic-id";
/// The place in a split; only on the parts of one.
pub const INDEX: &str = "kafka.index";
/// The record's key, percent-encoded where it is no text that ReductStore takes; absent where the key is null or empty.
pub const KEY: &str = "kafka.key";
/// What the other labels don't tell of the original headers and key: see [`exact`].
pub const HEADERS: &str = "kafka.headers";
/// `true` on a record whose Kafka value was null.
pub const TOMBSTONE: &str = "kafka.tombstone";
/// The plugins that handled the record, `name@digest:config` joined by `+`, without `:config` where there is none. The
/// built-in passthrough is left out: it decides nothing, and each label costs the store time.
pub const PLUGINS: &str = "sink.plugins";
/// On dead letters: the record's time in milliseconds, [`NO_TIMESTAMP`] where it has none. A replay computes its outputs'
/// timestamps from it; a dead letter's own timestamp may have been moved to a free microsecond.
pub const TIMESTAMP: &str = "kafka.timestamp";
/// [`TIMESTAMP`] of a record without one.
pub const NO_TIMESTAMP: &str = "none";
/// On dead letters: why the record is one.
pub const REASON: &str = "sink.reason";
/// On dead letters: the plugin that failed, where one did.
pub const PLUGIN: &str = "sink.plugin";
/// On dead letters: the digest of the plugin that failed, and what identifies its configuration behind a `:` if it has one.
pub const DIGEST: &str = "sink.digest";
/// On dead letters whose key and headers are too large for labels: where in the body they begin, in bytes.
pub const HEADERS_AT: &str = "sink.headers-at";

/// A reason is cut to this many characters.
const MAX_REASON: usize = 1000;
/// What a label takes in an answer's header line beside its name and value: `=`, `,` and perhaps two quotation marks.
const AROUND: usize = 4;

/// Which labels are made, as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRules {
    /// Marks records with the plugins that handled them.
    pub plugins: bool,
    /// Capitals in headers' keys become lower case.
    pub lowercase: bool,
    /// Headers become labels whose label's name matches one of these …
    pub include: Vec<LabelPattern>,
    /// … and none of these.
    pub exclude: Vec<LabelPattern>,
    /// The most bytes that one record's labels may take, by [`size`].
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

/// So that a record's line in an answer fits into the 8,190 bytes that the HTTP library of ReductStore's Python client
/// reads: besides the labels it holds the length, a content type, and up to seven bytes for each label of the record
/// before it that this one lacks.
pub const DEFAULT_MAX_BYTES: usize = 7_000;
/// An answer with a single record has a header for each label, and the HTTP library of ReductStore's Rust client reads at
/// most 100 of them.
pub const DEFAULT_MAX_COUNT: usize = 85;

/// A pattern for names of labels: `*` stands for any run of characters. Letter case is ignored.
#[derive(Debug, Clone)]
pub struct LabelPattern {
    text: String,
    regex: Regex,
}

/// A text is no pattern for names of labels.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} matches no label's name: those are of a-z 0-9 _ . -, and `*` stands for any run of characters")]
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

/// Headers and the label names that they get; `None`: the header becomes no label.
type NamedHeaders<'a> = SmallVec<[(&'a Header, Option<Cow<'a, str>>); 8]>;

impl LabelRules {
    /// The labels made from the headers, with the plugins' changes applied: what a plugin sees, and what is written beside
    /// the host's own labels.
    pub fn record_labels(&self, output: &OutputRecord) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut set = |name: Cow<'_, str>, value: Option<&[u8]>| match value.and_then(label_value) {
            Some(value) => drop(labels.insert(name.into_owned(), value.into())),
            None => drop(labels.remove(&*name)),
        };
        for header in &output.input.headers {
            if let Some(name) = self.header_label(&header.key) {
                set(name, header.value.as_deref());
            }
        }
        for change in output.labels.iter() {
            set(label_name(change.name.as_bytes(), self.lowercase), change.value.as_deref().map(str::as_bytes));
        }
        labels
    }

    /// Everything that is written with the record: its labels and the host's own.
    pub fn all_labels(&self, output: &OutputRecord) -> HashMap<String, String> {
        let mut labels = own_labels(output);
        labels.extend(self.record_labels(output));
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

    /// Why the labels are too many for one record; `None`: they aren't.
    pub fn excess(&self, labels: &HashMap<String, String>) -> Option<String> {
        let (count, bytes) = (labels.len(), size(labels));
        if bytes > self.max_bytes {
            return Some(format!("its labels make {bytes} bytes, and labels.max_bytes allows {}", self.max_bytes));
        }
        (count > self.max_count)
            .then(|| format!("it has {count} labels, and labels.max_count allows {}", self.max_count))
    }

    /// The label that a header of this key becomes, if it becomes one.
    fn header_label<'a>(&self, key: &'a [u8]) -> Option<Cow<'a, str>> {
        let name = label_name(key, self.lowercase);
        let included = self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(&name));
        (included && !self.exclude.iter().any(|pattern| pattern.matches(&name))).then_some(name)
    }

    /// The text of [`HEADERS`]; `None`: the other labels tell all.
    ///
    /// A header whose label a plugin set or removed is left out, and so is one that becomes no label by the configuration:
    /// what somebody removed isn't to be found here. A dead letter has all of them.
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

/// Whether the labels of these headers tell all of them, in their order: labels are read back in the order of their names.
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
        let told = match value.as_deref() {
            None => ExactValue::Null,
            Some(value) => match label_value(value) {
                // Without anything behind it, an empty key couldn't be seen.
                Some(LabelValue::Plain(_)) if has_label && !key.is_empty() => ExactValue::Label,
                Some(LabelValue::Encoded(_)) if has_label => ExactValue::EncodedLabel,
                _ => ExactValue::Bytes(value),
            },
        };
        exact::push(text, Some(key), &told);
    }
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
    labels
}

/// A reason as a label's value: it is for people, so what ReductStore doesn't take is replaced rather than encoded.
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

/// What labels take in the header line of an answer or of a request, in bytes.
pub fn size(labels: &HashMap<String, String>) -> usize {
    labels.iter().map(|(name, value)| name.len() + value.len() + AROUND).sum()
}

/// Key and headers as one text, where they are too large for labels: every part tells its value itself.
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

/// A header's key as text, for plugins: as it is where it is UTF-8, otherwise with the bytes that aren't as `%xx`.
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
