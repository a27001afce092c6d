//! Conditions on a record's fields.
//!
//! Guarantees: a condition has exactly one test; a field that is absent or null fulfils none but `exists`.

use std::ops::{Bound, RangeBounds};

use serde::Deserialize;

use crate::{Facts, Field, Glob, Pattern};

/// One condition: a field, one test, and perhaps `not`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Raw<F>", bound(deserialize = "F: Deserialize<'de>"))]
pub struct Condition<F = Field> {
    field: F,
    test: Test,
    not: bool,
}

#[derive(Debug, Clone)]
enum Test {
    OneOf(Vec<String>),
    Glob(Glob),
    Regex(Pattern),
    Exists(bool),
    Range(Bound<f64>, Bound<f64>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<F> {
    field: F,
    equals: Option<String>,
    one_of: Option<Vec<String>>,
    glob: Option<Glob>,
    regex: Option<Pattern>,
    exists: Option<bool>,
    min: Option<f64>,
    max: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
    #[serde(default)]
    not: bool,
}

impl<F> Condition<F> {
    /// The condition's field, for a plugin that changes its own fields after the configuration was read.
    pub fn field_mut(&mut self) -> &mut F {
        &mut self.field
    }

    /// Whether the field's value passes the test.
    pub fn holds(&self, facts: &impl Facts<F>) -> bool {
        let any = |test: &dyn Fn(&[u8]) -> bool| facts.any(&self.field, test);
        let outcome = match &self.test {
            Test::OneOf(texts) => any(&|value| texts.iter().any(|text| text.as_bytes() == value)),
            Test::Glob(glob) => any(&|value| glob.matches(value)),
            Test::Regex(pattern) => any(&|value| pattern.matches(value)),
            Test::Exists(expected) => facts.exists(&self.field) == *expected,
            Test::Range(low, high) => {
                let in_range = |number: f64| (*low, *high).contains(&number);
                match facts.number(&self.field) {
                    Some(number) => in_range(number as f64),
                    None => any(&|value| parse(value).is_some_and(in_range)),
                }
            }
        };
        outcome != self.not
    }
}

fn parse(value: &[u8]) -> Option<f64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// One end of a range, given either as `inclusive` or as `exclusive`; `names` are the two keys, for the error.
fn bound(inclusive: Option<f64>, exclusive: Option<f64>, names: &str) -> Result<Bound<f64>, String> {
    match (inclusive, exclusive) {
        (Some(_), Some(_)) => Err(format!("{names}: give one of the two")),
        (Some(limit), None) => Ok(Bound::Included(limit)),
        (None, Some(limit)) => Ok(Bound::Excluded(limit)),
        (None, None) => Ok(Bound::Unbounded),
    }
}

impl<F> TryFrom<Raw<F>> for Condition<F> {
    type Error = String;

    fn try_from(raw: Raw<F>) -> Result<Self, String> {
        let range = match (bound(raw.min, raw.above, "min and above")?, bound(raw.max, raw.below, "max and below")?) {
            (Bound::Unbounded, Bound::Unbounded) => None,
            (low, high) => Some(Test::Range(low, high)),
        };
        let tests = [
            raw.equals.map(|text| Test::OneOf(vec![text])),
            raw.one_of.map(Test::OneOf),
            raw.glob.map(Test::Glob),
            raw.regex.map(Test::Regex),
            raw.exists.map(Test::Exists),
            range,
        ];
        let mut tests = tests.into_iter().flatten();
        match (tests.next(), tests.next()) {
            (Some(Test::OneOf(texts)), None) if texts.is_empty() => Err("one_of needs at least one text".into()),
            (Some(Test::Range(low, high)), None) if is_empty(low, high) => {
                Err("no number is in this range: its lower end is above its upper end".into())
            }
            (Some(test), None) => Ok(Self { field: raw.field, test, not: raw.not }),
            (None, _) => Err(format!("no test; {TESTS}")),
            (Some(_), Some(_)) => Err(format!("more than one test; {TESTS}")),
        }
    }
}

const TESTS: &str =
    "a condition has one of equals, one_of, glob, regex, exists, or a range of min or above and max or below";

fn is_empty(low: Bound<f64>, high: Bound<f64>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::{config, testing::Sample};

    fn holds(condition: &str) -> bool {
        let sample = Sample::new()
            .key("cam-1")
            .header("type", "heartbeat")
            .header("type", "Köln")
            .header("raw", b"\xff\x00")
            .header("confidence", " 0.25")
            .header("empty", "")
            .null_header("null")
            .payload([0; 100]);
        let condition: Condition = config::parse(condition).unwrap();
        let outcome = condition.holds(&sample.record());
        assert_eq!(sample.payload_reads(), 0);
        outcome
    }

    #[test]
    fn tests_of_values() {
        for (condition, expected) in [
            (r#"{"field": "header:type", "equals": "heartbeat"}"#, true),
            (r#"{"field": "header:type", "equals": "Köln"}"#, true),
            (r#"{"field": "label:type", "equals": "K%C3%B6ln"}"#, true),
            (r#"{"field": "label:type", "equals": "heartbeat"}"#, false),
            (r#"{"field": "header:type", "equals": "heart"}"#, false),
            (r#"{"field": "header:type", "equals": "heart", "not": true}"#, true),
            (r#"{"field": "header:x", "equals": "heart", "not": true}"#, true),
            (r#"{"field": "header:type", "one_of": ["a", "heartbeat"]}"#, true),
            (r#"{"field": "header:type", "glob": "heart*"}"#, true),
            (r#"{"field": "header:type", "regex": "^K.ln$"}"#, true),
            (r#"{"field": "header:raw", "regex": ".*"}"#, false),
            (r#"{"field": "header:raw", "glob": "*"}"#, true),
            (r#"{"field": "key", "glob": "cam-?"}"#, true),
            (r#"{"field": "header:empty", "equals": ""}"#, true),
            (r#"{"field": "header:null", "equals": ""}"#, false),
            (r#"{"field": "header:null", "exists": true}"#, true),
            (r#"{"field": "header:x", "exists": true}"#, false),
            (r#"{"field": "header:x", "exists": false}"#, true),
            (r#"{"field": "size", "min": 100, "max": 100}"#, true),
            (r#"{"field": "size", "min": 101}"#, false),
            (r#"{"field": "partition", "min": 0, "max": 0}"#, true),
            (r#"{"field": "size", "above": 99, "below": 101}"#, true),
            (r#"{"field": "size", "above": 100}"#, false),
            (r#"{"field": "size", "below": 100}"#, false),
            (r#"{"field": "header:confidence", "min": 0.25, "below": 1}"#, true),
            (r#"{"field": "size", "max": 99}"#, false),
            (r#"{"field": "header:confidence", "max": 0.5}"#, true),
            (r#"{"field": "header:type", "min": 0}"#, false),
            (r#"{"field": "header:x", "min": 0}"#, false),
        ] {
            assert_eq!(holds(condition), expected, "{condition}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (condition, message) in [
            (
                r#"{"field": "key"}"#,
                "no test; a condition has one of equals, one_of, glob, regex, exists, or a range of min or above and max or \
                 below",
            ),
            (r#"{"field": "key", "glob": "a", "equals": "a"}"#, "more than one test; a condition has one of"),
            (r#"{"field": "key", "one_of": []}"#, "one_of needs at least one text"),
            (r#"{"field": "size", "min": 2, "max": 1}"#, "no number is in this range"),
            (r#"{"field": "size", "min": 1, "below": 1}"#, "no number is in this range"),
            (r#"{"field": "size", "min": 1, "above": 1}"#, "min and above: give one of the two"),
            (r#"{"field": "size", "min": "2"}"#, "min: invalid type: string \"2\", expected a number"),
            (r#"{"field": "key", "equals": 2}"#, "equals: invalid type: integer `2`, expected a string"),
            (r#"{"field": "kay", "equals": "2"}"#, "field: unknown field \"kay\"; a field is header:KEY"),
            (r#"{"field": "key", "regex": "("}"#, "regex: \"(\" is not a regular expression"),
            (r#"{"field": "key", "equal": "2"}"#, "equal: unknown field `equal`, expected one of `field`, `equals`"),
            (r#"{"equals": "2"}"#, "missing field `field`"),
        ] {
            let error = config::parse::<Condition>(condition).unwrap_err();
            assert!(error.starts_with(message), "{condition}: {error}");
        }
    }
}
