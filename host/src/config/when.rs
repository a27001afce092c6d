//! `[plugins.when]`: which records a plugin handles. What counts is the record in Kafka, whatever earlier plugins made of
//! it.

use regex::Regex;

use super::checks;
use super::reader::{KeyReader, plain_text};
use super::value::{ConfigValue, Value};
use crate::record::InputRecord;

/// The conditions of one plugin; all must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct When {
    /// One of these; empty: any topic.
    pub topics: Vec<TopicIs>,
    /// Each of these.
    pub headers: Vec<(String, HeaderIs)>,
    /// Of the payload, in bytes.
    pub min_size: Option<u64>,
    /// Of the payload, in bytes.
    pub max_size: Option<u64>,
}

/// A condition on the topic.
#[derive(Debug, Clone)]
pub enum TopicIs {
    /// It has this name.
    Named(String),
    /// Its name matches this pattern.
    Like(Regex),
}

/// A condition on the headers of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderIs {
    /// There is one.
    Present,
    /// There is none.
    Absent,
    /// One of the headers of that key has this value.
    Equal(String),
}

impl When {
    /// Whether headers and size meet the conditions. The topic is checked apart, because it seldom changes.
    pub fn takes(&self, record: &InputRecord) -> bool {
        let size = record.payload.as_ref().map_or(0, |payload| payload.len() as u64);
        self.min_size.is_none_or(|least| size >= least)
            && self.max_size.is_none_or(|most| size <= most)
            && self.headers.iter().all(|(key, is)| {
                let mut found = record.headers.iter().filter(|header| header.key == key.as_bytes());
                match is {
                    HeaderIs::Present => found.next().is_some(),
                    HeaderIs::Absent => found.next().is_none(),
                    HeaderIs::Equal(value) => {
                        found.any(|header| header.value.as_ref().is_some_and(|found| found == value.as_bytes()))
                    }
                }
            })
    }

    /// Whether records of this topic go to the plugin.
    pub fn takes_topic(&self, topic: &str) -> bool {
        self.topics.is_empty()
            || self.topics.iter().any(|is| match is {
                TopicIs::Named(name) => name == topic,
                TopicIs::Like(pattern) => pattern.is_match(topic),
            })
    }
}

impl PartialEq for TopicIs {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(one), Self::Named(other)) => one == other,
            (Self::Like(one), Self::Like(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

/// `None` where nothing is said.
pub(super) fn when(reader: &mut KeyReader<'_>) -> Option<When> {
    const MAX: &str = "plugins.when.max_size";
    let when = When {
        topics: topics(reader),
        headers: headers(reader),
        min_size: reader.optional_size("plugins.when.min_size"),
        max_size: reader.optional_size(MAX),
    };
    if let (Some(least), Some(most), Some(found)) = (when.min_size, when.max_size, reader.find(MAX))
        && least > most
    {
        reader.reject(MAX, found, &format!("at least min_size, which is {least} bytes"));
    }
    (when != When::default()).then_some(when)
}

fn topics(reader: &mut KeyReader<'_>) -> Vec<TopicIs> {
    const KEY: &str = "plugins.when.topics";
    let Some(found) = reader.find(KEY) else { return Vec::new() };
    let Value::List(items) = &found.value else {
        reader.reject(KEY, found, "a list of topics, such as [\"camera\", \"^sensor-.*\"]");
        return Vec::new();
    };
    if items.is_empty() {
        reader.reject(KEY, found, "at least one topic");
    }
    let mut topics = Vec::new();
    for item in items {
        let checked = match plain_text(item) {
            Some(text) => checks::topic(text).map(|()| text),
            None => Err("the name of a topic, or a pattern that begins with ^".into()),
        };
        match checked.map(|text| (text, text.starts_with('^').then(|| Regex::new(text)))) {
            Ok((_, Some(Ok(pattern)))) => topics.push(TopicIs::Like(pattern)),
            Ok((text, None)) => topics.push(TopicIs::Named(text.into())),
            Ok((_, Some(Err(error)))) => reader.reject(KEY, item, &format!("a regular expression: {error}")),
            Err(expected) => reader.reject(KEY, item, &expected),
        }
    }
    topics
}

fn headers(reader: &mut KeyReader<'_>) -> Vec<(String, HeaderIs)> {
    let expected =
        "a table of headers, each a text (equal), true (present) or false (absent), such as { kind = \"image\" }";
    let header = |(key, found): &(String, ConfigValue)| {
        let is = match &found.value {
            Value::Text(text) => HeaderIs::Equal(text.clone()),
            Value::Boolean(true) => HeaderIs::Present,
            Value::Boolean(false) => HeaderIs::Absent,
            _ => return None,
        };
        Some((key.clone(), is))
    };
    let parsed = reader.parsed("plugins.when.headers", expected, |found| match &found.value {
        Value::Table(entries) => entries.iter().map(header).collect::<Option<Vec<_>>>(),
        _ => None,
    });
    parsed.unwrap_or_default()
}
