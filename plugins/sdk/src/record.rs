//! The record at hand, as a plugin sees it.
//!
//! Guarantees: nothing is fetched from the host before it is asked for, and labels, entry and content type at most once.

use std::cell::OnceCell;
use std::ops::Deref;

use crate::{Label, Message};

/// What the host offers while it waits for the verdict; natively, what a test offers in its place.
pub trait Host {
    fn payload(&self) -> Vec<u8>;
    fn read(&self, offset: u64, length: u32) -> Vec<u8>;
    fn entry(&self) -> String;
    fn labels(&self) -> Vec<Label>;
    fn content_type(&self) -> String;
}

/// A record to decide on: the fields of [`Message`] (topic, partition, offset, timestamp, key, headers, payload size), and
/// behind methods what stays with the host until asked for. The methods tell what the plugins before this one made of
/// the record.
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

    /// The value of the last header of this key; `None` where there is no such header or its value is null.
    pub fn header(&self, key: &str) -> Option<&[u8]> {
        self.message.headers.iter().rfind(|header| header.key == key)?.value.as_deref()
    }

    /// The same as text; `None` also where it isn't UTF-8.
    pub fn header_text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.header(key)?).ok()
    }

    /// The labels as they stand, sorted by name.
    pub fn labels(&self) -> &[Label] {
        self.labels.get_or_init(|| self.host.labels())
    }

    /// One label's value as ReductStore holds it.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels().iter().find(|label| label.name == name).map(|label| label.value.as_str())
    }

    /// The entry's name as it stands.
    pub fn entry(&self) -> &str {
        self.entry.get_or_init(|| self.host.entry())
    }

    /// The content type as it stands; empty where nobody has set one.
    pub fn content_type(&self) -> &str {
        self.content_type.get_or_init(|| self.host.content_type())
    }

    /// The whole payload, copied from the host at each call.
    pub fn payload(&self) -> Vec<u8> {
        self.host.payload()
    }

    /// Up to `length` bytes of the payload from `offset` on; what lies past the end is left out.
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
