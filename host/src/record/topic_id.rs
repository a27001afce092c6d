//! The id that Kafka gives a topic when it is created. A topic that is deleted and created again under the same name
//! gets another id.
//!
//! Guarantees: an id is written as Kafka's own tools show it (22 characters of base64url), and the same text is read
//! back. Plain value, no I/O.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

/// A topic's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId([u8; 16]);

/// An error: the text isn't a topic id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} isn't a topic id: expected 22 characters of base64url")]
pub struct NoTopicId(String);

impl TopicId {
    /// Makes an id of the two halves that librdkafka gives. `None`: all bits are zero, because the broker is older than
    /// Kafka 2.8 and its topics have no ids.
    pub fn from_halves(most_significant: u64, least_significant: u64) -> Option<Self> {
        let number = (u128::from(most_significant) << 64) | u128::from(least_significant);
        (number != 0).then(|| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

impl FromStr for TopicId {
    type Err = NoTopicId;

    fn from_str(text: &str) -> Result<Self, NoTopicId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| NoTopicId(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shown_as_kafka_shows_it() {
        let id = TopicId::from_halves(0x0001_0203_0405_0607, 0xfbff_0a0b_0c0d_0e0f).unwrap();
        assert_eq!(id.to_string(), "AAECAwQFBgf7_woLDA0ODw");
        assert_eq!("AAECAwQFBgf7_woLDA0ODw".parse(), Ok(id));
        assert_eq!(TopicId::from_halves(0, 0), None);
        for wrong in ["", "AAECAwQFBgf7_woLDA0OD", "AAECAwQFBgf7/woLDA0ODw", "AAECAwQFBgf7_woLDA0ODw=="] {
            assert!(wrong.parse::<TopicId>().is_err(), "{wrong}");
        }
    }
}
