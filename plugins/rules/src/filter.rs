//! A filter: conditions that say which records are dropped and which are kept.
//!
//! Guarantees: it has at least one condition.

use serde::Deserialize;

use crate::{Condition, Facts, Field};

/// A filter as a configuration has it.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw<F>", bound(deserialize = "F: Deserialize<'de>"))]
pub struct Filter<F = Field> {
    on_match: Action,
    r#match: Match,
    rules: Vec<Condition<F>>,
}

/// What happens to the records that match; the other records get the opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Drop,
    Keep,
}

/// How many of the conditions must hold for a record to match.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Match {
    #[default]
    Any,
    All,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<F> {
    on_match: Action,
    #[serde(default)]
    r#match: Match,
    rules: Vec<Condition<F>>,
}

impl<F> Filter<F> {
    /// Whether the record is kept.
    pub fn keeps(&self, facts: &impl Facts<F>) -> bool {
        let mut rules = self.rules.iter();
        let matches = match self.r#match {
            Match::Any => rules.any(|rule| rule.holds(facts)),
            Match::All => rules.all(|rule| rule.holds(facts)),
        };
        matches == (self.on_match == Action::Keep)
    }

    /// The conditions' fields, for a plugin that changes its own fields after the configuration was read.
    pub fn fields_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.rules.iter_mut().map(Condition::field_mut)
    }
}

impl<F> TryFrom<Raw<F>> for Filter<F> {
    type Error = String;

    fn try_from(raw: Raw<F>) -> Result<Self, String> {
        if raw.rules.is_empty() {
            return Err("rules: at least one is needed".into());
        }
        Ok(Self { on_match: raw.on_match, r#match: raw.r#match, rules: raw.rules })
    }
}
