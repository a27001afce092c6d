//! The values that are needed of a payload, and those that were found in it.

use crate::name::{Path, Step};
use crate::value::Value;

/// The needed paths as a tree: paths with the same beginning share its nodes.
#[derive(Debug, Default)]
pub struct Tree {
    /// The slot of the value at this node; `None`: the value itself isn't needed.
    pub slot: Option<usize>,
    /// Whether an object at this node is a time.
    pub is_stamp: bool,
    pub keys: Vec<(String, Tree)>,
    pub items: Vec<(usize, Tree)>,
}

/// The values that were found so far, by their slots.
#[derive(Debug)]
pub struct Found {
    pub values: Vec<Option<Value>>,
    missing: usize,
}

impl Tree {
    /// Adds a path to the tree.
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
}

/// The child with this name, which is added if there is none.
fn child<'t, K: PartialEq + Clone>(children: &'t mut Vec<(K, Tree)>, name: &K) -> &'t mut Tree {
    let at = children.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        children.push((name.clone(), Tree::default()));
        children.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "it was found at this place, or has just been put there")]
    &mut children[at].1
}

impl Found {
    /// No values yet, for this many slots.
    pub fn new(slots: usize) -> Self {
        Self { values: vec![None; slots], missing: slots }
    }

    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Sets the value of a slot. If the payload has a name twice, the last value counts.
    pub fn put(&mut self, slot: usize, value: Value) {
        if let Some(place) = self.values.get_mut(slot)
            && place.replace(value).is_none()
        {
            self.missing -= 1;
        }
    }

    /// Sets the value of a slot that has none. If the payload has a name twice, the first value counts, because the
    /// payload may not be read as far as the second.
    pub fn set(&mut self, slot: usize, value: Value) {
        if let Some(place @ None) = self.values.get_mut(slot) {
            *place = Some(value);
            self.missing -= 1;
        }
    }
}
