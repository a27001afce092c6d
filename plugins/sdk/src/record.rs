//! The record that a plugin is asked about.
//!
//! Guarantees: labels, entry, content type and payload are fetched from the host only when the plugin asks for them;
//! labels, entry and content type at most once for each record.

use std::cell::OnceCell;
use std::ops::Deref;

use crate::{Label, Message};

/// What the host answers about the record while a plugin decides about it. In a unit test, [`crate::testing`] answers.
pub trait Host {
    fn payload(&self) -> Vec<u8>;
    fn read(&self, offset: u64, length: u32) -> Vec<u8>;
    fn entry(&self) -> String;
    fn labels(&self) -> Vec<Label>;
    fn content_type(&self) -> String;
}

/// The record to decide about: the fields of [`Message`] (topic, partition, offset, timestamp, key, headers, payload
/// size), and methods for the rest, which stays with the host until it is asked for. The labels, the entry and the
/// content type are those that the earlier plugins of the chain left.
pub struct Record<'a> {
    message: &'a Message,
    host: &'a dyn Host,
    labels: OnceCell<Vec<Label>>,
    entry: OnceCell<String>,
    content_type: OnceCell<String>,
}

impl<'a> Record<'a> {
    pub fn new(message: &'a Message, host: &'a dyn Host) -> Self {
        Self { message, host, labels: OnceCell::new(), entry: OnceCell::new(), content_type: OnceCell::new() }
    }

    /// The value of the last header with this key; `None`: there is no such header, or its value is null.
    pub fn header(&self, key: &str) -> Option<&[u8]> {
        self.message.headers.iter().rfind(|header| header.key == key)?.value.as_deref()
    }

    /// The value of the last header with this key as text; `None`: there is no such header, or its value is null or not
    /// UTF-8.
    pub fn header_text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.header(key)?).ok()
    }

    /// The record's labels, sorted by name.
    pub fn labels(&self) -> &[Label] {
        self.labels.get_or_init(|| self.host.labels())
    }

    /// The value of one label as ReductStore holds it, percent-encoded where it isn't plain text; `None`: there is no
    /// such label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels().iter().find(|label| label.name == name).map(|label| label.value.as_str())
    }

    /// The entry's name, to which the operator's template is not applied yet.
    pub fn entry(&self) -> &str {
        self.entry.get_or_init(|| self.host.entry())
    }

    /// The content type; empty if neither a header nor an earlier plugin set one.
    pub fn content_type(&self) -> &str {
        self.content_type.get_or_init(|| self.host.content_type())
    }

    /// The whole payload. Each call copies it from the host.
    pub fn payload(&self) -> Vec<u8> {
        self.host.payload()
    }

    /// Up to `length` bytes of the payload from `offset` on: fewer if the payload ends before.
    pub fn read(&self, offset: u64, length: u32) -> Vec<u8> {
        self.host.read(offset, length)
    }
}

impl Deref for Record<'_> {
    type Target = Message;

    fn deref(&self) -> &Message {
        self.message
    }
}
