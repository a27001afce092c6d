//! The plugin's configuration: how it is read, and what is prepared from it once for all records.
//!
//! Guarantees: a mistake is found when the configuration is read, and the message names the key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use reduct_sink_plugin::stored;
use reduct_sink_rules::{EntryTemplate, Filter, Illegal, Template, check_label_name};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::avro_schema::AvroSchema;
use crate::csv;
use crate::extract::Tree;
use crate::name::{Name, Path};
use crate::payload::{Format, MessageTypes, Payload, Prefix};
use crate::protobuf_schema::ProtobufSchema;
use crate::schemas::{self, Schemas};
use crate::time::{self, Unit};
use crate::value::{Type, Value};
use crate::view::View;

/// `[plugins.config]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    format: FormatName,
    #[serde(default)]
    csv: csv::Options,
    #[serde(default)]
    prefix: Prefix,
    schema_id: Option<String>,
    /// The schema's file or address, or for Avro the schema itself.
    schema: Option<String>,
    /// The full name of the message type of Protobuf payloads.
    message: Option<String>,
    filter: Option<Filter<Name>>,
    #[serde(default)]
    labels: BTreeMap<String, Short<LabelSource>>,
    entry: Option<Short<EntrySource>>,
    content_type: Option<Short<TextSource>>,
    timestamp: Option<TimeSource>,
    /// What holds for each label, entry, content type and timestamp that has no `missing` of its own.
    #[serde(default)]
    missing: Missing,
    #[serde(default)]
    unreadable: Unreadable,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FormatName {
    Json,
    Csv,
    Avro,
    Protobuf,
}

/// What to do if a value is missing: the payload has no such field, or the field is null or of another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Missing {
    /// Set nothing.
    #[default]
    Skip,
    /// Reject the record: the plugin's failure policy decides about it.
    Reject,
}

/// What to do with a record whose payload isn't of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unreadable {
    #[default]
    Reject,
    Keep,
}

/// Where a label's value comes from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSource {
    field: Name,
    #[serde(default)]
    r#type: Type,
    missing: Option<Missing>,
    default: Option<String>,
}

/// Where the entry's name comes from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntrySource {
    value: EntryTemplate<Name>,
    #[serde(default)]
    illegal: Illegal,
    missing: Option<Missing>,
    default: Option<EntryTemplate<Name>>,
}

/// Where a text comes from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSource {
    value: Template<Name>,
    missing: Option<Missing>,
    default: Option<String>,
}

/// Where the timestamp comes from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeSource {
    field: Name,
    unit: Unit,
    missing: Option<Missing>,
}

/// The configuration, ready for use.
pub struct Settings {
    pub payload: Payload,
    pub schema_id: Option<String>,
    pub filter: Option<Filter<Name>>,
    pub labels: Vec<(String, LabelSource)>,
    pub entry: Option<EntrySource>,
    pub content_type: Option<TextSource>,
    pub timestamp: Option<TimeSource>,
    unreadable: Unreadable,
}

impl Config {
    pub fn prepare(self) -> Result<Settings, String> {
        let Self { labels, entry, content_type, timestamp, missing, .. } = self;
        for name in labels.keys() {
            check_label_name(name).map_err(|error| format!("labels: {error}"))?;
        }
        if let Some(name) = &self.schema_id {
            check_label_name(name).map_err(|error| format!("schema_id: {error}"))?;
        }
        let prefix = check_schema(self.format, self.schema.as_deref(), self.message.as_deref(), self.prefix)?;
        let place = self.schema.as_deref().unwrap_or_default();
        let of_schema = |error| format!("schema: {error}");
        let format = match self.format {
            FormatName::Json => Format::Json,
            FormatName::Csv => Format::Csv(self.csv),
            FormatName::Avro => Format::Avro(Schemas::new(place, Box::new(AvroSchema::parse)).map_err(of_schema)?),
            FormatName::Protobuf => {
                let schemas = Schemas::new(place, Box::new(ProtobufSchema::parse)).map_err(of_schema)?;
                Format::Protobuf(MessageTypes::new(schemas, self.message))
            }
        };
        let mut settings = Settings {
            payload: Payload { format, prefix, tree: Tree::default(), slots: 0 },
            schema_id: self.schema_id,
            filter: self.filter,
            labels: labels.into_iter().map(|(name, Short(source))| (name, source)).collect(),
            entry: entry.map(|Short(source)| source),
            content_type: content_type.map(|Short(source)| source),
            timestamp,
            unreadable: self.unreadable,
        };
        for place in settings.missing_mut() {
            place.get_or_insert(missing);
        }
        settings.assign_slots();
        settings.payload.check_paths()?;
        Ok(settings)
    }
}

/// Checks that the keys about schemas fit together. Returns the value of `prefix` that holds.
fn check_schema(
    format: FormatName,
    schema: Option<&str>,
    message: Option<&str>,
    prefix: Prefix,
) -> Result<Prefix, String> {
    let needs_schema = matches!(format, FormatName::Avro | FormatName::Protobuf);
    match schema {
        None if needs_schema => return Err("schema: missing; avro and protobuf can't be read without one".into()),
        Some(_) if !needs_schema => return Err("schema: json and csv have none; remove it".into()),
        _ => {}
    }
    let by_id = schema.is_some_and(schemas::is_by_id);
    let prefix = match (by_id, prefix) {
        (true, Prefix::Never) => {
            return Err("prefix: \"never\", but schema needs the {id} that stands in the prefix".into());
        }
        (true, _) => Prefix::Always,
        (false, prefix) => prefix,
    };
    match (format, message) {
        (FormatName::Avro, None) if prefix == Prefix::Auto => {
            Err("prefix: Avro payloads can begin with a zero, so it \
            must be said whether they begin with a schema registry's prefix: \"always\" or \"never\""
                .into())
        }
        (FormatName::Protobuf, None) if prefix != Prefix::Always => {
            Err("message: missing; it is the full name of the payloads' message type, such as \"acme.Frame\"".into())
        }
        (FormatName::Protobuf, _) | (_, None) => Ok(prefix),
        (_, Some(_)) => Err("message: only protobuf has one; remove it".into()),
    }
}

impl Settings {
    pub fn keeps_unreadable(&self) -> bool {
        self.unreadable == Unreadable::Keep
    }

    fn missing_mut(&mut self) -> impl Iterator<Item = &mut Option<Missing>> {
        let labels = self.labels.iter_mut().map(|(_, source)| &mut source.missing);
        let entry = self.entry.as_mut().map(|source| &mut source.missing);
        let content_type = self.content_type.as_mut().map(|source| &mut source.missing);
        let timestamp = self.timestamp.as_mut().map(|source| &mut source.missing);
        labels.chain(entry).chain(content_type).chain(timestamp)
    }

    /// Gives each path its slot among the values that are read from a payload; a path that is named twice has one slot.
    fn assign_slots(&mut self) {
        let mut known: Vec<Path> = Vec::new();
        let mut tree = Tree::default();
        let mut assign = |name: &mut Name, is_stamp: bool| {
            let Name::Payload(path) = name else { return };
            path.slot = known.iter().position(|other| other.steps == path.steps).unwrap_or(known.len());
            if path.slot == known.len() {
                known.push(path.clone());
            }
            tree.insert(path, is_stamp);
        };
        if let Some(TimeSource { field, unit, .. }) = &mut self.timestamp {
            assign(field, *unit == Unit::Ros);
        }
        let of_filter = self.filter.iter_mut().flat_map(Filter::fields_mut);
        let of_labels = self.labels.iter_mut().map(|(_, source)| &mut source.field);
        let templates =
            self.entry.iter_mut().flat_map(|source| std::iter::once(&mut source.value).chain(&mut source.default));
        let of_entry = templates.flat_map(EntryTemplate::fields_mut);
        let of_content_type = self.content_type.iter_mut().flat_map(|source| source.value.fields_mut());
        of_filter.chain(of_labels).chain(of_entry).chain(of_content_type).for_each(|name| assign(name, false));
        self.payload.slots = known.len();
        self.payload.tree = tree;
        if let Format::Csv(options) = &mut self.payload.format {
            options.columns = known.into_iter().map(|path| (path.text, path.slot)).collect();
        }
    }
}

impl LabelSource {
    /// The label's value as ReductStore holds it; `None`: the label isn't set.
    pub fn label(&self, view: &View<'_>) -> Result<Option<String>, String> {
        let problem = match &self.field {
            Name::Record(field) => match view.record_value(field) {
                Some(value) => return Ok(Some(stored::encode(&value).into_owned())),
                None => "a field of the record has no value".into(),
            },
            Name::Payload(path) => match view.field(path) {
                Some(value) if value.is(self.r#type) => {
                    return Ok(value.bytes().map(|value| stored::encode(&value).into_owned()));
                }
                value => unusable(path, value, self.r#type.description()),
            },
        };
        match (&self.default, self.missing) {
            (Some(default), _) => Ok(Some(stored::encode(default.as_bytes()).into_owned())),
            (None, Some(Missing::Reject)) => Err(problem),
            (None, _) => Ok(None),
        }
    }
}

/// The error about a field whose value is missing or of the wrong type.
fn unusable(path: &Path, value: Option<&Value>, expected: &str) -> String {
    match value {
        None => format!("{path}: the payload has no such field"),
        Some(value) => format!("{path}: found {}, expected {expected}", value.description()),
    }
}

impl EntrySource {
    /// The entry's name for a record; `None`: the entry stays as it is.
    pub fn render(&self, view: &View<'_>) -> Result<Option<String>, String> {
        for template in std::iter::once(&self.value).chain(&self.default) {
            if let Some(entry) = template.render(view, self.illegal)? {
                return Ok(Some(entry));
            }
        }
        match self.missing {
            Some(Missing::Reject) => Err("entry: a field of the template has no value".into()),
            _ => Ok(None),
        }
    }
}

impl TextSource {
    /// The content type for a record; `None`: the content type stays as it is.
    pub fn render(&self, view: &View<'_>) -> Result<Option<String>, String> {
        let text = match (self.value.render(view), &self.default, self.missing) {
            (Some(value), _, _) => value,
            (None, Some(default), _) => Cow::Borrowed(default.as_bytes()),
            (None, None, Some(Missing::Reject)) => {
                return Err("content_type: a field of the template has no value".into());
            }
            (None, None, _) => return Ok(None),
        };
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }
}

impl TimeSource {
    /// The timestamp for a record, in microseconds since the Unix epoch; `None`: the timestamp stays as it is.
    pub fn microseconds(&self, view: &View<'_>) -> Result<Option<u64>, String> {
        let (time, problem) = match &self.field {
            Name::Record(field) => {
                let value =
                    view.record_value(field).map(|value| Value::Untyped(String::from_utf8_lossy(&value).into_owned()));
                (
                    value.as_ref().and_then(|value| time::microseconds(value, self.unit)),
                    String::from("timestamp: a field of the record has no time"),
                )
            }
            Name::Payload(path) => {
                let value = view.field(path);
                (
                    value.and_then(|value| time::microseconds(value, self.unit)),
                    unusable(path, value, self.unit.description()),
                )
            }
        };
        match (time, self.missing) {
            (Some(time), _) => Ok(Some(time)),
            (None, Some(Missing::Reject)) => Err(problem),
            (None, _) => Ok(None),
        }
    }
}

/// A table of the configuration, or the text alone that would stand under the table's main key.
#[derive(Debug)]
struct Short<T>(T);

/// Names the main key of a table, which a text alone stands for.
trait MainKey {
    const KEY: &'static str;
}

impl MainKey for LabelSource {
    const KEY: &'static str = "field";
}

impl MainKey for EntrySource {
    const KEY: &'static str = "value";
}

impl MainKey for TextSource {
    const KEY: &'static str = "value";
}

impl<'de, T: Deserialize<'de> + MainKey> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable(PhantomData)).map(Self)
    }
}

struct TextOrTable<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + MainKey> Visitor<'de> for TextOrTable<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a table")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        let entry = std::iter::once((T::KEY, StrDeserializer::new(text)));
        T::deserialize(serde::de::value::MapDeserializer::new(entry))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}
