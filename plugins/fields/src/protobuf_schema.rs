//! Protobuf's message types, and the plan for reading one: which fields are needed, worked out once for each schema.
//!
//! Guarantees: if a message type lacks a path that the configuration names, that is known before the first payload is
//! read.

use prost_reflect::prost::Message;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};
use prost_reflect::{DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::Value as Json;

use crate::extract::Tree;
use crate::value::Value;

/// A descriptor set.
pub struct ProtobufSchema {
    pool: DescriptorPool,
    /// The file whose messages the numbers in a schema registry's prefix count: the last one of the set.
    main: Option<FileDescriptor>,
}

impl ProtobufSchema {
    /// Reads what `protoc --include_imports --descriptor_set_out` writes, or what a schema registry answers to
    /// `?format=serialized`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set = match bytes.first() {
            Some(b'{') => FileDescriptorSet { file: vec![of_registry(bytes)?] },
            _ => FileDescriptorSet::decode(bytes).map_err(|error| {
                format!("the schema is no descriptor set, as `protoc --descriptor_set_out` writes it: {error}")
            })?,
        };
        let name = set.file.last().map(|file| file.name().to_owned());
        // The global pool has Protobuf's own types, which a schema registry's answer leaves out.
        let mut pool = DescriptorPool::global();
        pool.add_file_descriptor_protos(set.file).map_err(|error| {
            format!("the descriptor set isn't complete or contradicts itself (was it written with --include_imports?): {error}")
        })?;
        let main = name.and_then(|name| pool.get_file_by_name(&name));
        Ok(Self { pool, main })
    }

    /// The message type with this full name.
    pub fn message(&self, name: &str) -> Result<MessageDescriptor, String> {
        let of_file = self.main.iter().flat_map(FileDescriptor::messages);
        let known = || of_file.map(|message| message.full_name().to_owned()).collect::<Vec<_>>().join(", ");
        let found = self.pool.get_message_by_name(name);
        found.ok_or_else(|| format!("message: the descriptor set has no message {name:?}; it has {}", known()))
    }

    /// The message type that a schema registry's prefix names by numbers: its place among the messages of the file, or
    /// the place of the message that contains it, followed by its place in that one, and so on.
    pub fn message_at(&self, numbers: &[usize]) -> Option<MessageDescriptor> {
        let (first, inner) = numbers.split_first()?;
        let outer = self.main.as_ref()?.messages().nth(*first)?;
        inner.iter().try_fold(outer, |message, number| message.child_messages().nth(*number))
    }
}

fn of_registry(bytes: &[u8]) -> Result<FileDescriptorProto, String> {
    let json: Json = serde_json::from_slice(bytes).map_err(|error| format!("the schema isn't JSON: {error}"))?;
    match json.get("schemaType").and_then(Json::as_str) {
        Some("PROTOBUF") => {}
        kind => return Err(format!("the schema is of the type {}, not PROTOBUF", kind.unwrap_or("AVRO"))),
    }
    let text = json.get("schema").and_then(Json::as_str).unwrap_or_default();
    let bytes = from_base64(text.trim());
    let file = bytes.and_then(|bytes| FileDescriptorProto::decode(&bytes[..]).ok());
    file.ok_or_else(|| "the schema isn't serialized: the address has to end with ?format=serialized".into())
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::from(digit(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// What is needed of a message.
#[derive(Debug)]
pub struct MessagePlan {
    pub name: String,
    pub fields: Vec<FieldPlan>,
}

/// What is needed of a field.
#[derive(Debug)]
pub struct FieldPlan {
    pub number: u32,
    pub kind: Kind,
    pub shape: Shape,
}

#[derive(Debug)]
pub enum Shape {
    /// A single value, with the default that holds if the field isn't written; `None`: the field may be absent.
    Single(ElementPlan, Option<Value>),
    List {
        slot: Option<usize>,
        items: Vec<(usize, ElementPlan)>,
    },
    Map {
        slot: Option<usize>,
        key: Kind,
        value: Kind,
        /// The needed entries, by their key as text.
        entries: Vec<(String, ElementPlan)>,
    },
}

/// What is needed of one value.
#[derive(Debug)]
pub struct ElementPlan {
    pub slot: Option<usize>,
    /// If the value is a time: the field numbers of its seconds and its nanoseconds.
    pub stamp: Option<(u32, u32)>,
    /// If the value is a message: what is needed of it.
    pub message: Option<Box<MessagePlan>>,
}

/// The plan for reading a message type, and the paths that the type doesn't have.
pub fn plan(message: &MessageDescriptor, tree: &Tree) -> (MessagePlan, Vec<String>) {
    let mut unknown = Vec::new();
    let plan = of_message(message, tree, &mut unknown);
    (plan, unknown)
}

fn of_message(message: &MessageDescriptor, tree: &Tree, unknown: &mut Vec<String>) -> MessagePlan {
    let mut fields: Vec<FieldPlan> = Vec::new();
    for (name, child) in &tree.keys {
        let field = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
        match field {
            Some(field) => fields.push(of_field(&field, child, unknown)),
            None => {
                let known: Vec<String> = message.fields().map(|field| field.name().to_owned()).collect();
                let known = if known.is_empty() { "no fields".into() } else { known.join(", ") };
                unknown.push(format!("{} has no field {name:?}; it has {known}", message.full_name()));
            }
        }
    }
    MessagePlan { name: message.full_name().into(), fields }
}

fn of_field(field: &FieldDescriptor, tree: &Tree, unknown: &mut Vec<String>) -> FieldPlan {
    let kind = field.kind();
    let shape = if field.is_map() {
        let entry = kind.as_message().cloned();
        let (key, value) = entry.map_or((Kind::String, Kind::String), |entry| {
            (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind())
        });
        let entries = tree.keys.iter().map(|(key, child)| (key.clone(), of_element(&value, child, unknown))).collect();
        Shape::Map { slot: tree.slot, key, value, entries }
    } else if field.is_list() {
        let items = tree.items.iter().map(|(item, child)| (*item, of_element(&kind, child, unknown))).collect();
        Shape::List { slot: tree.slot, items }
    } else {
        let default = if field.supports_presence() { None } else { default_of(&kind) };
        Shape::Single(of_element(&kind, tree, unknown), default)
    };
    FieldPlan { number: field.number(), kind, shape }
}

fn of_element(kind: &Kind, tree: &Tree, unknown: &mut Vec<String>) -> ElementPlan {
    let Kind::Message(message) = kind else {
        return ElementPlan { slot: tree.slot, stamp: None, message: None };
    };
    let number = |names: &[&str]| names.iter().find_map(|name| message.get_field_by_name(name)).map(|f| f.number());
    let stamp = if tree.is_stamp { number(&["sec", "secs", "seconds"]) } else { None };
    let stamp = stamp.zip(number(&["nanosec", "nsecs", "nsec", "nanos"]));
    let is_needed = !tree.keys.is_empty();
    let inner = is_needed.then(|| Box::new(of_message(message, tree, unknown)));
    ElementPlan { slot: tree.slot, stamp, message: inner }
}

/// The default of a field that can't be absent.
pub fn default_of(kind: &Kind) -> Option<Value> {
    Some(match kind {
        Kind::Bool => Value::Boolean(false),
        Kind::String => Value::Text(String::new()),
        Kind::Bytes => Value::Bytes(Vec::new()),
        Kind::Enum(symbols) => Value::Text(symbols.default_value().name().into()),
        Kind::Message(_) => return None,
        _ => Value::Number("0".into()),
    })
}
