//! Reads a payload: by its format, with or without the prefix of a schema registry, as far as its values are needed.
//!
//! Guarantees: an empty payload (a tombstone, too) has no fields and is no error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use reduct_sink_plugin::Record;
use serde::Deserialize;

use crate::avro_schema::AvroSchema;
use crate::extract::{Found, Tree};
use crate::protobuf_schema::{MessagePlan, ProtobufSchema, plan};
use crate::schemas::Schemas;
use crate::{avro, csv, json, protobuf};

/// The format of the payloads.
#[derive(Debug)]
pub enum Format {
    Json,
    Csv(csv::Options),
    Avro(Schemas<AvroSchema>),
    Protobuf(MessageTypes),
}

/// A schema's id and a message's numbers.
type MessageKey = (Option<u32>, Vec<usize>);

/// The message types of Protobuf payloads.
#[derive(Debug)]
pub struct MessageTypes {
    pub schemas: Schemas<ProtobufSchema>,
    /// The full name of the message type; `None`: the schema registry's prefix names it.
    pub message: Option<String>,
    /// What is needed of a message, by the schema's id and the message's numbers.
    plans: RefCell<HashMap<MessageKey, Rc<MessagePlan>>>,
}

impl MessageTypes {
    pub fn new(schemas: Schemas<ProtobufSchema>, message: Option<String>) -> Self {
        Self { schemas, message, plans: RefCell::default() }
    }

    fn plan(&self, id: Option<u32>, numbers: Vec<usize>, tree: &Tree) -> Result<Rc<MessagePlan>, Problem> {
        // The configuration names the message type, or else the numbers in the prefix do.
        let key = if self.message.is_some() { (id, Vec::new()) } else { (id, numbers) };
        if let Some(plan) = self.plans.borrow().get(&key) {
            return Ok(Rc::clone(plan));
        }
        let schema = self.schemas.of(id)?;
        let message = match &self.message {
            Some(name) => schema.message(name).map_err(Problem::Schema)?,
            None => schema.message_at(&key.1).ok_or_else(|| {
                Problem::Payload(format!("the payload's prefix names the message {:?}, which the schema hasn't", key.1))
            })?,
        };
        let (plan, _) = plan(&message, tree);
        let plan = Rc::new(plan);
        let mut plans = self.plans.borrow_mut();
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        plans.insert(key, Rc::clone(&plan));
        Ok(plan)
    }
}

/// The most plans that are kept; when there are more, all are discarded and made again as they are needed.
const MOST_PLANS: usize = 1_000;

/// Whether payloads begin with the five bytes that serializers of a schema registry write: a zero, and the schema's id
/// as a big-endian number of four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefix {
    /// A payload has the prefix if its first byte is zero, because no JSON, no CSV and no Protobuf message begins so.
    #[default]
    Auto,
    Always,
    Never,
}

/// What is read of each payload.
#[derive(Debug)]
pub struct Payload {
    pub format: Format,
    pub prefix: Prefix,
    pub tree: Tree,
    pub slots: usize,
}

/// What was read of one payload.
#[derive(Debug)]
pub struct Content {
    pub found: Found,
    pub schema_id: Option<u32>,
}

/// How many bytes of a payload are read at first; each further attempt reads [`GROWTH`] times as many.
const FIRST_BYTES: u32 = 4096;
const GROWTH: u32 = 8;
const PREFIX_BYTES: usize = 5;

impl Payload {
    /// Fails if the message type is known and lacks a field that the configuration names.
    pub fn check_paths(&self) -> Result<(), String> {
        let Format::Protobuf(MessageTypes { schemas, message: Some(name), .. }) = &self.format else { return Ok(()) };
        let Some(schema) = schemas.only() else { return Ok(()) };
        let (_, unknown) = plan(&schema.message(name)?, &self.tree);
        unknown.into_iter().next().map_or(Ok(()), |unknown| Err(format!("payload: the message {unknown}")))
    }

    /// Reads the needed values of a record's payload. The error says what is wrong with the payload or with its schema.
    pub fn read(&self, record: &Record<'_>) -> Result<Content, Problem> {
        if record.payload_size == 0 {
            return Ok(Content { found: Found::new(self.slots), schema_id: None });
        }
        let mut length = match &self.format {
            Format::Json | Format::Csv(_) => FIRST_BYTES,
            // Whether such a payload is complete is only known at its end, so all of it is read.
            Format::Avro(_) | Format::Protobuf(_) => u32::MAX,
        };
        loop {
            let is_whole = u64::from(length) >= record.payload_size;
            let bytes = if is_whole { record.payload() } else { record.read(0, length) };
            let (schema_id, body) = self.without_prefix(&bytes)?;
            let found = match &self.format {
                Format::Json => json::read(body, &self.tree, self.slots),
                Format::Csv(options) => csv::read(body, is_whole, options, self.slots),
                Format::Avro(schemas) => {
                    let schema = schemas.of(schema_id)?;
                    avro::read(body, &schema, &self.tree, self.slots).map_err(Problem::Payload)
                }
                Format::Protobuf(types) => {
                    // In the prefix of Protobuf, the numbers of the message type follow the id.
                    let (numbers, body) = match schema_id {
                        Some(_) => protobuf::message_numbers(body).ok_or_else(|| {
                            Problem::Payload("the payload's prefix names no message behind the schema's id".into())
                        })?,
                        None => (Vec::new(), body),
                    };
                    let plan = types.plan(schema_id, numbers, &self.tree)?;
                    protobuf::read(body, &plan, self.slots).map_err(Problem::Payload)
                }
            };
            match found {
                Ok(found) => return Ok(Content { found, schema_id }),
                // The part that was read may end inside a value.
                Err(_) if !is_whole => length = length.saturating_mul(GROWTH),
                Err(problem) => return Err(problem.told(body)),
            }
        }
    }

    /// The id in the schema registry's prefix (`None`: there is no prefix), and the bytes that follow.
    fn without_prefix<'b>(&self, bytes: &'b [u8]) -> Result<(Option<u32>, &'b [u8]), Problem> {
        match (bytes.split_at_checked(PREFIX_BYTES), self.prefix) {
            (Some(([0, id @ ..], body)), Prefix::Auto | Prefix::Always) => {
                Ok((Some(id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte))), body))
            }
            (_, Prefix::Always) => {
                let text = "the payload has no schema registry's prefix: its first byte isn't zero";
                Err(Problem::Payload(text.into()))
            }
            _ => Ok((None, bytes)),
        }
    }
}

/// Why the needed values couldn't be read.
#[derive(Debug)]
pub enum Problem {
    /// The bytes aren't JSON, or the part that was read ends too early.
    Json,
    /// The part that was read may end inside the row of CSV that is needed.
    ShortCsv,
    Csv(String),
    /// What is wrong with the payload.
    Payload(String),
    /// There is no schema for the payload.
    Schema(String),
    /// The schema's place can't be reached at present, so there may be a schema.
    Away(String),
}

impl Problem {
    /// The same problem, with a text that says what is wrong with `body`.
    fn told(self, body: &[u8]) -> Self {
        Problem::Payload(match self {
            Problem::Json => json::problem(body),
            Problem::ShortCsv => "the payload isn't CSV: its row doesn't end".into(),
            Problem::Csv(problem) => format!("the payload isn't CSV: {problem}"),
            told => return told,
        })
    }

    pub fn text(&self) -> &str {
        match self {
            Problem::Payload(text) | Problem::Schema(text) | Problem::Away(text) | Problem::Csv(text) => text,
            Problem::Json => "the payload isn't JSON",
            Problem::ShortCsv => "the payload isn't CSV: its row doesn't end",
        }
    }
}
