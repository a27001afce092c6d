//! What is needed of a payload, and what was found of it.

use crate::name::{Path, Step};
use crate::value::Value;

/// The paths, merged where they begin alike.
#[derive(Debug, Default)]
pub struct Tree {
    /// Where the value here goes to, if it is needed.
    pub slot: Option<usize>,
    /// Whether an object here is a time.
    pub is_stamp: bool,
    pub keys: Vec<(String, Tree)>,
    pub items: Vec<(usize, Tree)>,
}

/// The values found so far, one a path.
#[derive(Debug)]
pub struct Found {
    pub values: Vec<Option<Value>>,
    missing: usize,
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

    /// Of a name that occurs twice the last value counts.
    pub fn put(&mut self, slot: usize, value: Value) {
        if let Some(place) = self.values.get_mut(slot)
            && place.replace(value).is_none()
        {
            self.missing -= 1;
        }
    }

    /// Of a name that occurs twice the first value counts, because the second may not be read.
    pub fn set(&mut self, slot: usize, value: Value) {
        if let Some(place @ None) = self.values.get_mut(slot) {
            *place = Some(value);
            self.missing -= 1;
        }
    }
}
