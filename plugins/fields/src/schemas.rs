//! The schemas by which payloads are read: one for all payloads, or one for each id of a schema registry.
//!
//! Guarantees: a schema is fetched once and kept, unless there are too many; if a schema's place can't be reached, the
//! next record asks again; if there is no such schema, the plugin asks again ever more rarely, see [`MissingSchemas`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::fetch::{FetchError, fetch};
use crate::payload::Problem;

/// The placeholder for the id in a path or an address.
const ID: &str = "{id}";
/// The most schemas that are kept; when there are more, all are discarded and read again as they are needed.
const MOST_KNOWN: usize = 1_000;
/// The most missing ids that are remembered; when there are more, all are forgotten.
const MOST_MISSING: usize = 1_000;
/// The most payloads with a missing schema that are answered in a row without asking for the schema again.
const MOST_UNASKED: u32 = 127;
/// The most bytes that are kept of the reason for which a schema is missing.
const MOST_SAID: usize = 500;

/// Makes a schema of its bytes.
type Parse<S> = Box<dyn Fn(&[u8]) -> Result<S, String>>;

/// The schemas that were read so far, and where to read more.
pub struct Schemas<S> {
    parse: Parse<S>,
    from: From<S>,
}

enum From<S> {
    One(Rc<S>),
    ById { place: String, known: RefCell<BTreeMap<u32, Rc<S>>>, missing: RefCell<MissingSchemas> },
}

/// The ids whose schema is missing or can't be read. They are remembered so that the plugin doesn't ask for the schema
/// with every such payload. A plugin has no clock unless it is granted one, so payloads are counted instead: after the
/// first question the next payload is answered without a question, after the second one the next three payloads, and so
/// on up to [`MOST_UNASKED`]. So when the schema appears, at most about as many payloads are still refused as were
/// refused before.
#[derive(Default)]
struct MissingSchemas(BTreeMap<u32, MissingSchema>);

struct MissingSchema {
    said: String,
    /// How many payloads were answered without a question since the last question.
    unasked: u32,
    /// How many payloads may be answered without a question.
    most: u32,
}

impl MissingSchemas {
    /// The reason for which the schema is missing, if the plugin shouldn't ask for it again now; `None`: it should.
    fn said(&mut self, id: u32) -> Option<String> {
        let missing = self.0.get_mut(&id)?;
        if missing.unasked >= missing.most {
            return None;
        }
        missing.unasked += 1;
        Some(missing.said.clone())
    }

    fn remember(&mut self, id: u32, said: &str) {
        let most = self.0.get(&id).map_or(1, |missing| (missing.most * 2 + 1).min(MOST_UNASKED));
        if self.0.len() >= MOST_MISSING && !self.0.contains_key(&id) {
            self.0.clear();
        }
        let end = said.floor_char_boundary(MOST_SAID);
        let said = said.get(..end).unwrap_or_default().to_owned();
        self.0.insert(id, MissingSchema { said, unasked: 0, most });
    }
}

/// Whether a schema is chosen by the payload's id.
pub fn is_by_id(place: &str) -> bool {
    place.contains(ID)
}

impl<S> Schemas<S> {
    /// Reads the schema, unless it depends on the payload's id.
    pub fn new(place: &str, parse: Parse<S>) -> Result<Self, String> {
        let from = if is_by_id(place) {
            From::ById { place: place.into(), known: RefCell::default(), missing: RefCell::default() }
        } else {
            let bytes = match place.trim_start().starts_with(['{', '[', '"']) {
                true => place.as_bytes().to_vec(),
                false => fetch(place).map_err(FetchError::into_text)?,
            };
            From::One(Rc::new(parse(&bytes).map_err(|problem| format!("{problem} ({})", shortened(place)))?))
        };
        Ok(Self { parse, from })
    }

    /// The schema for all payloads; `None`: the schema depends on the payload's id.
    pub fn only(&self) -> Option<&S> {
        match &self.from {
            From::One(schema) => Some(schema),
            From::ById { .. } => None,
        }
    }

    /// The schema of a payload with this id (`None`: it has no prefix), which is read if necessary.
    pub fn of(&self, id: Option<u32>) -> Result<Rc<S>, Problem> {
        let (place, known, missing) = match &self.from {
            From::One(schema) => return Ok(Rc::clone(schema)),
            From::ById { place, known, missing } => (place, known, missing),
        };
        let id = id.ok_or_else(|| Problem::Schema("the payload has no schema id".into()))?;
        if let Some(schema) = known.borrow().get(&id) {
            return Ok(Rc::clone(schema));
        }
        if let Some(said) = missing.borrow_mut().said(id) {
            return Err(Problem::Schema(said));
        }
        let place = place.replace(ID, &id.to_string());
        let is_missing = |said: String| {
            missing.borrow_mut().remember(id, &said);
            Problem::Schema(said)
        };
        let bytes = fetch(&place).map_err(|error| match error {
            FetchError::Missing(text) => is_missing(format!("schema {id}: {text}")),
            FetchError::Away(text) => Problem::Away(format!("schema {id}: {text}")),
        })?;
        let schema = (self.parse)(&bytes).map_err(|text| is_missing(format!("schema {id}: {text} ({place})")))?;
        missing.borrow_mut().0.remove(&id);
        let schema = Rc::new(schema);
        let mut known = known.borrow_mut();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(id, Rc::clone(&schema));
        Ok(schema)
    }
}

/// The schema's place for a message, cut off after a while, because it may be a long inline schema.
fn shortened(place: &str) -> String {
    place.chars().take(80).collect()
}

impl<S> std::fmt::Debug for Schemas<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schemas")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_missing_schema_is_asked_for_more_and_more_rarely_and_found_when_it_comes() {
        let folder = std::env::temp_dir().join(format!("fields-missing-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let parse = move |bytes: &[u8]| {
            count.set(count.get() + 1);
            if bytes == b"good" { Ok(()) } else { Err("no schema".to_owned()) }
        };
        let schemas = Schemas::new(&format!("{}/{{id}}", folder.display()), Box::new(parse)).unwrap();
        std::fs::write(folder.join("7"), "bad").unwrap();
        let refused = |id| match schemas.of(Some(id)) {
            Err(Problem::Schema(said)) => said,
            other => panic!("{other:?}"),
        };
        let first = refused(7);
        assert!((0..1_000).all(|_| refused(7) == first));
        assert!((7..=16).contains(&asked.get()), "{} questions", asked.get());
        std::fs::write(folder.join("7"), "good").unwrap();
        let still = (0..1_000).take_while(|_| schemas.of(Some(7)).is_err()).count();
        assert!(still <= MOST_UNASKED as usize, "{still}");
        // Another id isn't affected, and is asked for again soon after a short absence.
        refused(8);
        std::fs::write(folder.join("8"), "good").unwrap();
        refused(8);
        assert!(schemas.of(Some(8)).is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_remembered_of_missing_schemas_is_bounded() {
        let mut missing = MissingSchemas::default();
        for id in 0..5_000 {
            missing.remember(id, &"é".repeat(10_000));
        }
        assert!(missing.0.len() <= MOST_MISSING);
        assert!(missing.0.values().all(|missing| missing.said.len() <= MOST_SAID));
        for _ in 0..50 {
            missing.remember(1, "gone");
        }
        assert_eq!((0..1_000).take_while(|_| missing.said(1).is_some()).count(), MOST_UNASKED as usize);
    }
}
