//! Records for unit tests that run on the developer's machine, without WebAssembly.
//!
//! ```
//! # use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict};
//! use reduct_sink_plugin::testing::{Sample, configure};
//! # struct Small;
//! # impl Transform for Small {
//! #     type Config = std::collections::BTreeMap<String, u64>;
//! #     fn configure(_: Self::Config) -> Result<Self, String> { Ok(Self) }
//! #     fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
//! #         Ok(if record.payload_size < 100 { Verdict::Drop } else { Verdict::Keep })
//! #     }
//! # }
//!
//! let mut plugin: Small = configure(r#"{"min": 100}"#)?;
//! assert_eq!(Sample::new().payload("tiny").transform(&mut plugin), Ok(Verdict::Drop));
//! # Ok::<(), String>(())
//! ```

use std::cell::Cell;

use crate::{Failure, Header, Host, Label, Message, Record, Transform, Verdict, config, stored};

/// Makes a plugin of its configuration as JSON text, as the host does.
pub fn configure<T: Transform>(config: &str) -> Result<T, String> {
    T::configure(config::parse(config)?)
}

/// A record with what the host would answer about it. Its headers become labels by the host's rules.
#[derive(Debug, Clone)]
pub struct Sample {
    message: Message,
    payload: Vec<u8>,
    entry: String,
    labels: Vec<Label>,
    content_type: String,
    payload_reads: Cell<u32>,
}

impl Sample {
    /// A record at offset 7 of partition 0 of the topic `topic`, without key, headers and payload.
    pub fn new() -> Self {
        Self {
            message: Message {
                topic: "topic".into(),
                partition: 0,
                offset: 7,
                timestamp: 1_700_000_000_000_007,
                key: None,
                headers: Vec::new(),
                payload_size: 0,
            },
            payload: Vec::new(),
            entry: "topic".into(),
            labels: Vec::new(),
            content_type: String::new(),
            payload_reads: Cell::new(0),
        }
    }

    /// Sets the topic, and the entry that the host names after it.
    #[must_use]
    pub fn topic(mut self, topic: &str) -> Self {
        self.message.topic = topic.into();
        self.entry = topic.replace('.', "_2E");
        self
    }

    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.message.partition = partition;
        self
    }

    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.message.offset = offset;
        self
    }

    /// Sets the timestamp, in microseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp(mut self, microseconds: u64) -> Self {
        self.message.timestamp = microseconds;
        self
    }

    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.message.key = Some(key.as_ref().into());
        self
    }

    #[must_use]
    pub fn header(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.any_header(key, Some(value.as_ref()))
    }

    #[must_use]
    pub fn null_header(self, key: &str) -> Self {
        self.any_header(key, None)
    }

    /// Sets a label, as if an earlier plugin of the chain had set it.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.retain(|label| label.name != name);
        self.labels.push(Label { name: name.into(), value: value.into() });
        self.labels.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = payload.as_ref().into();
        self.message.payload_size = self.payload.len() as u64;
        self
    }

    /// Sets the entry, as if an earlier plugin of the chain had chosen it.
    #[must_use]
    pub fn entry(mut self, entry: &str) -> Self {
        self.entry = entry.into();
        self
    }

    /// Sets the content type, as if an earlier plugin of the chain had set it.
    #[must_use]
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// The record as a plugin gets it.
    pub fn record(&self) -> Record<'_> {
        Record::new(&self.message, self)
    }

    /// Asks the plugin about this record and returns its answer.
    pub fn transform<T: Transform>(&self, plugin: &mut T) -> Result<Verdict, Failure> {
        plugin.transform(&self.record())
    }

    /// How many times the plugin asked for the payload, whole or in part.
    pub fn payload_reads(&self) -> u32 {
        self.payload_reads.get()
    }

    fn any_header(mut self, key: &str, value: Option<&[u8]>) -> Self {
        self.message.headers.push(Header { key: key.into(), value: value.map(<[u8]>::to_vec) });
        let name = stored::encode_name(key.as_bytes());
        match value.map(stored::encode).filter(|value| !value.is_empty()) {
            Some(value) => self.label(&name, &value),
            None => {
                self.labels.retain(|label| label.name != name);
                self
            }
        }
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::new()
    }
}

impl Host for Sample {
    fn payload(&self) -> Vec<u8> {
        self.payload_reads.set(self.payload_reads.get() + 1);
        self.payload.clone()
    }

    fn read(&self, offset: u64, length: u32) -> Vec<u8> {
        self.payload_reads.set(self.payload_reads.get() + 1);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.payload.len());
        self.payload.iter().skip(start).take(length as usize).copied().collect()
    }

    fn entry(&self) -> String {
        self.entry.clone()
    }

    fn labels(&self) -> Vec<Label> {
        self.labels.clone()
    }

    fn content_type(&self) -> String {
        self.content_type.clone()
    }
}
