//! The text of the label `sink.plugins`: `name@digest:config` of each plugin that handled a record, joined by `+`. Each text
//! is made once and shared by all records that the same plugins handled.

use std::collections::HashMap;
use std::sync::Arc;

use super::stage::Stage;

/// How many combinations of plugins have their text kept. A chain of many conditional plugins has more combinations;
/// the texts of further ones are made again for each record.
const KEPT: usize = 256;

pub(super) struct Marks {
    /// The text of a record that every plugin handled. `None`: the chain has no plugin but the builtin one.
    all: Option<Arc<str>>,
    /// The texts of records that some plugins did not handle, by the places of those plugins in the chain.
    without: HashMap<Box<[usize]>, Option<Arc<str>>>,
}

impl Marks {
    pub fn of(stages: &[Stage]) -> Self {
        Self { all: mark(stages, &[]), without: HashMap::new() }
    }

    /// The text for a record that the plugins at these places of the chain didn't handle.
    pub fn without(&mut self, places: &[usize], stages: &[Stage]) -> Option<Arc<str>> {
        if places.is_empty() {
            return self.all.clone();
        }
        if let Some(known) = self.without.get(places) {
            return known.clone();
        }
        let mark = mark(stages, places);
        if self.without.len() < KEPT {
            self.without.insert(places.into(), mark.clone());
        }
        mark
    }
}

fn mark(stages: &[Stage], without: &[usize]) -> Option<Arc<str>> {
    let handled = stages.iter().enumerate().filter(|(at, _)| !without.contains(at));
    let marks: Vec<String> = handled.filter_map(|(_, stage)| stage.mark()).collect();
    if marks.is_empty() { None } else { Some(marks.join("+").into()) }
}
