//! Takes the values at given paths out of any format that serde can read, in one pass.
//!
//! Guarantees: what no path leads to is skipped without being kept; the pass ends as soon as all values are there, provided
//! that something follows the last of them, so that a value which the end of the input cuts off is never taken for whole.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::name::{Path, Step};
use crate::value::{Stamp, Value};

/// The error that ends the pass; it is never shown.
const NOT_NEEDED: &str = "the rest isn't needed";

/// The paths, merged where they begin alike.
#[derive(Debug, Default)]
pub struct Tree {
    slot: Option<usize>,
    /// Whether an object here is a time.
    is_stamp: bool,
    keys: Vec<(String, Tree)>,
    items: Vec<(usize, Tree)>,
}

/// The values found so far, one a path.
#[derive(Debug)]
pub struct Found {
    pub values: Vec<Option<Value>>,
    missing: usize,
}

/// How a format takes one value that nothing leads into.
pub trait Capture {
    fn capture<'de, D: Deserializer<'de>>(deserializer: D, is_stamp: bool) -> Result<Value, D::Error>;
}

impl Tree {
    /// Adds a path, whose value goes to the path's slot.
    pub fn insert(&mut self, path: &Path, is_stamp: bool) {
        let mut at = self;
        for step in &path.steps {
            at = match step {
                Step::Key(key) => child(&mut at.keys, key),
                Step::Item(item) => child(&mut at.items, item),
            };
        }
        at.slot = Some(path.slot);
        at.is_stamp |= is_stamp;
    }

    /// Reads the value that the deserializer holds. `Err` also where everything was found and the rest isn't read: see
    /// [`Found::is_complete`].
    pub fn read<'de, C: Capture, D: Deserializer<'de>>(&self, input: D, found: &mut Found) -> Result<(), D::Error> {
        Seek { tree: self, found, capture: PhantomData::<C> }.deserialize(input)
    }
}

/// The child of this name, which is made if there is none.
fn child<'t, K: PartialEq + Clone>(children: &'t mut Vec<(K, Tree)>, name: &K) -> &'t mut Tree {
    let at = children.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        children.push((name.clone(), Tree::default()));
        children.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "it was found at this place, or has just been put there")]
    &mut children[at].1
}

impl Found {
    /// Nothing found yet of this many.
    pub fn new(slots: usize) -> Self {
        Self { values: vec![None; slots], missing: slots }
    }

    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Of a name that occurs twice the first value counts, because the second may not be read.
    pub fn set(&mut self, slot: usize, value: Value) {
        if let Some(place @ None) = self.values.get_mut(slot) {
            *place = Some(value);
            self.missing -= 1;
        }
    }
}

struct Seek<'t, C> {
    tree: &'t Tree,
    found: &'t mut Found,
    capture: PhantomData<C>,
}

impl<C> Seek<'_, C> {
    fn set(self, value: Value) {
        if let Some(slot) = self.tree.slot {
            self.found.set(slot, value);
        }
    }
}

impl<'de, C: Capture> DeserializeSeed<'de> for Seek<'_, C> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.tree.keys.is_empty() && self.tree.items.is_empty() {
            let value = C::capture(deserializer, self.tree.is_stamp)?;
            self.set(value);
            return Ok(());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de, C: Capture> Visitor<'de> for Seek<'_, C> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { tree, found, capture } = self;
        if let Some(slot) = tree.slot {
            found.set(slot, Value::Other("an object"));
        }
        while let Some(child) = map.next_key_seed(Key(&tree.keys))? {
            if found.is_complete() {
                return Err(A::Error::custom(NOT_NEEDED));
            }
            match child {
                Some(tree) => map.next_value_seed(Seek { tree, found, capture })?,
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { tree, found, capture } = self;
        if let Some(slot) = tree.slot {
            found.set(slot, Value::Other("a list"));
        }
        for at in 0.. {
            let more = match tree.items.iter().find(|(item, _)| *item == at) {
                Some((_, tree)) => items.next_element_seed(Seek { tree, found, capture })?.is_some(),
                None => items.next_element_seed(Skip(found))?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.set(Value::Null);
        Ok(())
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.set(Value::Boolean(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.set(Value::Number(value.to_string()));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.set(Value::Number(value.to_string()));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.set(Value::Number(value.to_string()));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.set(Value::Text(value.into()));
        Ok(())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<(), E> {
        self.set(Value::Bytes(value.into()));
        Ok(())
    }
}

/// Skips a value, or ends the pass before it if it isn't needed.
struct Skip<'f>(&'f Found);

impl<'de> DeserializeSeed<'de> for Skip<'_> {
    type Value = IgnoredAny;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<IgnoredAny, D::Error> {
        if self.0.is_complete() {
            return Err(D::Error::custom(NOT_NEEDED));
        }
        IgnoredAny::deserialize(deserializer)
    }
}

/// Looks a key up among those that paths lead through.
struct Key<'t>(&'t [(String, Tree)]);

impl<'de, 't> DeserializeSeed<'de> for Key<'t> {
    type Value = Option<&'t Tree>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for Key<'t> {
    type Value = Option<&'t Tree>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(known, _)| known == key).map(|(_, tree)| tree))
    }
}

/// A time of two numbers, where the value is one.
pub fn stamp<'de, D: Deserializer<'de>>(deserializer: D) -> Option<Stamp> {
    Stamp::deserialize(deserializer).ok()
}
