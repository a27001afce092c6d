//! The fields of a record that a configuration can name.
//!
//! Guarantees: a header's value is the bytes that the producer sent; a label's is its text as ReductStore holds it.

use std::borrow::Cow;

use reduct_sink_plugin::{Record, stored};
use serde::Deserialize;

/// A field by the name that it has in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Field {
    /// `header:KEY`
    Header(String),
    /// `label:NAME`
    Label(String),
    Key,
    Topic,
    Partition,
    Offset,
    /// `timestamp`: the record's timestamp, in microseconds since the Unix epoch.
    Timestamp,
    /// `size`: the payload's length in bytes.
    Size,
    Entry,
    ContentType,
}

/// A plugin's set of fields. [`Field`] is the set that every plugin knows; a plugin that knows more has a type of its
/// own.
pub trait FieldName: TryFrom<String, Error = String> {
    /// The field as one that every plugin knows; `None`: it is one of the plugin's own fields.
    fn as_record_field(&self) -> Option<&Field>;
}

impl FieldName for Field {
    fn as_record_field(&self) -> Option<&Field> {
        Some(self)
    }
}

/// The values of a record's fields, with the changes that the plugin has made so far.
pub trait Facts<F = Field> {
    /// The field's value; `None`: the field is absent or null. Of several headers with one key the last one counts.
    fn value<'a>(&'a self, field: &'a F) -> Option<Cow<'a, [u8]>>;

    /// Whether the record has the field, even if its value is null.
    fn exists(&self, field: &F) -> bool;

    /// Whether the test holds for the field's value, or for any value of a repeated header.
    fn any(&self, field: &F, test: &dyn Fn(&[u8]) -> bool) -> bool;

    /// The value of a field that is always a number, such as the offset; `None` for any other field, even if it holds
    /// digits.
    fn number(&self, field: &F) -> Option<u64>;
}

impl Facts for Record<'_> {
    fn value<'a>(&'a self, field: &'a Field) -> Option<Cow<'a, [u8]>> {
        match field {
            Field::Header(key) => self.header(key).map(Cow::Borrowed),
            Field::Label(name) => self.label(name).map(|text| Cow::Borrowed(text.as_bytes())),
            Field::Key => self.key.as_deref().map(Cow::Borrowed),
            Field::Topic => Some(Cow::Borrowed(self.topic.as_bytes())),
            Field::Partition | Field::Offset | Field::Timestamp | Field::Size => {
                self.number(field).map(|number| Cow::Owned(number.to_string().into_bytes()))
            }
            Field::Entry => Some(Cow::Borrowed(self.entry().as_bytes())),
            Field::ContentType => {
                Some(self.content_type().as_bytes()).filter(|text| !text.is_empty()).map(Cow::Borrowed)
            }
        }
    }

    fn exists(&self, field: &Field) -> bool {
        match field {
            Field::Header(key) => self.headers.iter().any(|header| header.key == *key),
            Field::Label(name) => self.label(name).is_some(),
            field => self.value(field).is_some(),
        }
    }

    fn any(&self, field: &Field, test: &dyn Fn(&[u8]) -> bool) -> bool {
        match field {
            Field::Header(key) => {
                self.headers.iter().any(|header| header.key == *key && header.value.as_deref().is_some_and(test))
            }
            field => self.value(field).is_some_and(|value| test(&value)),
        }
    }

    fn number(&self, field: &Field) -> Option<u64> {
        match field {
            Field::Partition => Some(self.partition.into()),
            Field::Offset => Some(self.offset),
            Field::Timestamp => Some(self.timestamp),
            Field::Size => Some(self.payload_size),
            _ => None,
        }
    }
}

impl TryFrom<String> for Field {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(key) = text.strip_prefix("header:") {
            return Ok(Field::Header(key.into()));
        }
        if let Some(name) = text.strip_prefix("label:") {
            check_label_name(name)?;
            return Ok(Field::Label(name.into()));
        }
        match text.as_str() {
            "key" => Ok(Field::Key),
            "topic" => Ok(Field::Topic),
            "partition" => Ok(Field::Partition),
            "offset" => Ok(Field::Offset),
            "timestamp" => Ok(Field::Timestamp),
            "size" => Ok(Field::Size),
            "entry" => Ok(Field::Entry),
            "content_type" => Ok(Field::ContentType),
            other if other.starts_with("payload:") => {
                Err(format!("{other:?} is a field of the payload, which only the plugin `fields` reads"))
            }
            other => Err(format!(
                "unknown field {other:?}; a field is header:KEY, label:NAME, key, topic, partition, offset, timestamp, \
                 size, entry or content_type"
            )),
        }
    }
}

/// Checks a label's name. The error suggests the label of the header that the operator probably meant.
pub fn check_label_name(name: &str) -> Result<(), String> {
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    if !name.is_empty() && name.bytes().all(legal) && !stored::is_reserved(name.as_bytes()) {
        return Ok(());
    }
    Err(format!(
        "{name:?} can't be a label's name: those are of a-z 0-9 _ . - and don't begin with kafka. or sink.; a header of \
         this key is the label {:?}",
        stored::encode_name(name.as_bytes())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::testing::Sample;

    fn value(sample: &Sample, field: &str) -> Option<String> {
        let field = Field::try_from(field.to_string()).unwrap();
        sample.record().value(&field).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    #[test]
    fn every_field_is_found_by_its_name() {
        let sample = Sample::new()
            .topic("plant.images")
            .partition(3)
            .offset(12)
            .timestamp(99)
            .key("k")
            .header("Type", "jpeg")
            .header("Type", "png")
            .null_header("none")
            .label("city", "K%C3%B6ln")
            .payload("1234")
            .content_type("image/jpeg");
        for (field, expected) in [
            ("header:Type", "png"),
            ("label:type", "png"),
            ("label:city", "K%C3%B6ln"),
            ("key", "k"),
            ("topic", "plant.images"),
            ("partition", "3"),
            ("offset", "12"),
            ("timestamp", "99"),
            ("size", "4"),
            ("entry", "plant_2Eimages"),
            ("content_type", "image/jpeg"),
        ] {
            assert_eq!(value(&sample, field).as_deref(), Some(expected), "{field}");
        }
        for field in ["header:none", "header:type", "label:none", "label:x"] {
            assert_eq!(value(&sample, field), None, "{field}");
        }
        assert_eq!(value(&Sample::new(), "content_type"), None);
        assert_eq!(value(&Sample::new(), "key"), None);
        assert!(sample.record().exists(&Field::Header("none".into())));
        assert!(!sample.record().exists(&Field::Label("none".into())));
        assert!(!sample.record().exists(&Field::Header("type".into())));
        assert!(sample.record().any(&Field::Header("Type".into()), &|value| value == b"png"));
        assert_eq!(sample.payload_reads(), 0);
    }

    #[test]
    fn a_wrong_name_is_told_with_what_would_be_right() {
        let error = |text: &str| Field::try_from(text.to_string()).unwrap_err();
        assert!(error("hedaer:x").starts_with("unknown field \"hedaer:x\"; a field is header:KEY, label:NAME, key"));
        assert!(error("label:Camera").ends_with("a header of this key is the label \"camera\""));
        assert!(error("label:kafka.offset").contains("can't be a label's name"));
        assert!(error("label:").contains("can't be a label's name"));
        assert!(error("payload:type").contains("the plugin `fields`"));
    }
}
