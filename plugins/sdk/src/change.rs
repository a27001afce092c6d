//! Builds a [`Change`] by chained calls, and makes a [`Verdict`] or a [`Failure`] of simpler values.

use crate::{Change, Failure, LabelChange, Verdict};

impl Change {
    /// A change that changes nothing yet.
    pub fn new() -> Self {
        Self { entry: None, timestamp: None, labels: Vec::new(), content_type: None, payload: None }
    }

    /// Sets the entry's name: `A-Z a-z 0-9 _ -` in segments divided by `/`.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>) -> Self {
        self.entry = Some(name.into());
        self
    }

    /// Sets the timestamp, in microseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp(mut self, microseconds: u64) -> Self {
        self.timestamp = Some(microseconds);
        self
    }

    /// Sets a label; an empty value removes it. Pass bytes that may not be text through [`crate::stored::encode`]
    /// first.
    #[must_use]
    pub fn set_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(LabelChange { name: name.into(), value: Some(value.into()) });
        self
    }

    /// Removes a label, if the record has it.
    #[must_use]
    pub fn remove_label(mut self, name: impl Into<String>) -> Self {
        self.labels.push(LabelChange { name: name.into(), value: None });
        self
    }

    /// Sets the content type: printable ASCII without a comma.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Replaces the payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Whether the change changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::new()
    }
}

impl Default for Change {
    fn default() -> Self {
        Self::new()
    }
}

/// A change that changes nothing becomes [`Verdict::Keep`].
impl From<Change> for Verdict {
    fn from(change: Change) -> Self {
        if change.is_empty() { Verdict::Keep } else { Verdict::Change(change) }
    }
}

/// Lets `?` on an error's text reject the record with that text as the reason.
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
