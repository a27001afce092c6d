//! Verdicts put together in a line.

use crate::{Change, Failure, LabelChange, Verdict};

impl Change {
    /// No change at all.
    pub fn new() -> Self {
        Self { entry: None, timestamp: None, labels: Vec::new(), content_type: None, payload: None }
    }

    /// The entry's name: `A-Z a-z 0-9 _ -` in segments divided by `/`.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>) -> Self {
        self.entry = Some(name.into());
        self
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp(mut self, microseconds: u64) -> Self {
        self.timestamp = Some(microseconds);
        self
    }

    /// Sets a label. Bytes that may be no text go through [`crate::stored::encode`]; an empty value removes the label.
    #[must_use]
    pub fn set_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(LabelChange { name: name.into(), value: Some(value.into()) });
        self
    }

    /// Removes a label, if it is there.
    #[must_use]
    pub fn remove_label(mut self, name: impl Into<String>) -> Self {
        self.labels.push(LabelChange { name: name.into(), value: None });
        self
    }

    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::new()
    }
}

impl Default for Change {
    fn default() -> Self {
        Self::new()
    }
}

/// A change without anything in it is `keep`.
impl From<Change> for Verdict {
    fn from(change: Change) -> Self {
        if change.is_empty() { Verdict::Keep } else { Verdict::Change(change) }
    }
}

/// So that `?` on an error's text rejects the record.
impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Failure::Reject(reason)
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Failure::Reject(reason.into())
    }
}
