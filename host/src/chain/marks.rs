//! `name@digest` of the plugins that handled a record, joined by `+`: made once and shared by all records.

use std::collections::HashMap;
use std::sync::Arc;

use super::stage::Stage;

/// Chains of many conditional plugins have many combinations; more of them are made again each time.
const KEPT: usize = 256;

pub(super) struct Marks {
    /// Of all plugins but the builtin one; `None` where there are none.
    all: Option<Arc<str>>,
    /// Without those at these places.
    without: HashMap<Box<[usize]>, Option<Arc<str>>>,
}

impl Marks {
    pub fn of(stages: &[Stage]) -> Self {
        Self { all: mark(stages, &[]), without: HashMap::new() }
    }

    /// The mark of a record that the plugins at these places didn't handle.
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
