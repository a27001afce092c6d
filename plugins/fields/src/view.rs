//! A record together with the fields of its payload.
//!
//! Guarantees: the payload is read once, when one of its fields is first asked for.

use std::borrow::Cow;
use std::cell::OnceCell;

use reduct_sink_plugin::Record;
use reduct_sink_rules::{Facts, Field};

use crate::name::{Name, Path};
use crate::payload::{Content, Payload, Problem};
use crate::value::Value;

/// A record, and what is read of its payload.
pub struct View<'a> {
    record: &'a Record<'a>,
    payload: &'a Payload,
    content: OnceCell<Result<Content, Problem>>,
}

impl<'a> View<'a> {
    pub fn new(record: &'a Record<'a>, payload: &'a Payload) -> Self {
        Self { record, payload, content: OnceCell::new() }
    }

    /// The value at a path of the payload; `None`: there is none, or the payload can't be read.
    pub fn field(&self, path: &Path) -> Option<&Value> {
        self.content().ok()?.found.values.get(path.slot)?.as_ref()
    }

    /// The value of a field that every record has.
    pub fn record_value(&self, field: &'a Field) -> Option<Cow<'a, [u8]>> {
        self.record.value(field)
    }

    /// The id in the schema registry's prefix.
    pub fn schema_id(&self) -> Option<u32> {
        self.content().ok()?.schema_id
    }

    /// Why the payload couldn't be read; `None`: it could, or none of its fields was asked for.
    pub fn problem(&self) -> Option<&Problem> {
        self.content.get()?.as_ref().err()
    }

    fn content(&self) -> Result<&Content, &Problem> {
        self.content.get_or_init(|| self.payload.read(self.record)).as_ref()
    }
}

impl Facts<Name> for View<'_> {
    fn value<'f>(&'f self, field: &'f Name) -> Option<Cow<'f, [u8]>> {
        match field {
            Name::Record(field) => self.record.value(field),
            Name::Payload(path) => self.field(path)?.bytes(),
        }
    }

    fn exists(&self, field: &Name) -> bool {
        match field {
            Name::Record(field) => self.record.exists(field),
            Name::Payload(path) => self.field(path).is_some(),
        }
    }

    fn any(&self, field: &Name, test: &dyn Fn(&[u8]) -> bool) -> bool {
        match field {
            Name::Record(field) => self.record.any(field, test),
            Name::Payload(path) => self.field(path).and_then(Value::bytes).is_some_and(|value| test(&value)),
        }
    }

    fn number(&self, field: &Name) -> Option<u64> {
        match field {
            Name::Record(field) => Facts::<Field>::number(self.record, field),
            Name::Payload(_) => None,
        }
    }
}
