//! The schemas that payloads are read by: one for all, or one for each id of a schema registry.
//!
//! Guarantees: a schema is fetched once and kept, as long as there aren't too many; one that couldn't be had is asked for
//! again by the next record.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::fetch::{FetchError, fetch};
use crate::payload::Problem;

/// What stands for the id in a path or an address.
const ID: &str = "{id}";
/// With more schemas than these all are forgotten.
const MOST_KNOWN: usize = 1_000;

/// How the bytes of a schema become one.
type Parse<S> = Box<dyn Fn(&[u8]) -> Result<S, String>>;

/// See the module.
pub struct Schemas<S> {
    parse: Parse<S>,
    from: From<S>,
}

enum From<S> {
    One(Rc<S>),
    ById { place: String, known: RefCell<BTreeMap<u32, Rc<S>>> },
}

/// Whether a schema is chosen by the payload's id.
pub fn is_by_id(place: &str) -> bool {
    place.contains(ID)
}

impl<S> Schemas<S> {
    /// Reads the schema, unless it depends on the payload's id.
    pub fn new(place: &str, parse: Parse<S>) -> Result<Self, String> {
        let from = if is_by_id(place) {
            From::ById { place: place.into(), known: RefCell::default() }
        } else {
            let bytes = match place.trim_start().starts_with(['{', '[', '"']) {
                true => place.as_bytes().to_vec(),
                false => fetch(place).map_err(FetchError::into_text)?,
            };
            From::One(Rc::new(parse(&bytes).map_err(|problem| format!("{problem} ({})", shortened(place)))?))
        };
        Ok(Self { parse, from })
    }

    /// The schema, where there is but one.
    pub fn only(&self) -> Option<&S> {
        match &self.from {
            From::One(schema) => Some(schema),
            From::ById { .. } => None,
        }
    }

    /// The schema of a payload with this id.
    pub fn of(&self, id: Option<u32>) -> Result<Rc<S>, Problem> {
        let (place, known) = match &self.from {
            From::One(schema) => return Ok(Rc::clone(schema)),
            From::ById { place, known } => (place, known),
        };
        let id = id.ok_or_else(|| Problem::Schema("the payload has no schema id".into()))?;
        if let Some(schema) = known.borrow().get(&id) {
            return Ok(Rc::clone(schema));
        }
        let place = place.replace(ID, &id.to_string());
        let bytes = fetch(&place).map_err(|error| match error {
            FetchError::Missing(text) => Problem::Schema(format!("schema {id}: {text}")),
            FetchError::Away(text) => Problem::Away(format!("schema {id}: {text}")),
        })?;
        let schema = (self.parse)(&bytes).map_err(|text| Problem::Schema(format!("schema {id}: {text} ({place})")))?;
        let schema = Rc::new(schema);
        let mut known = known.borrow_mut();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(id, Rc::clone(&schema));
        Ok(schema)
    }
}

/// An inline schema may be long.
fn shortened(place: &str) -> String {
    place.chars().take(80).collect()
}

impl<S> std::fmt::Debug for Schemas<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schemas")
    }
}
