//! Conditions on a record's fields.
//!
//! Guarantees: a condition has exactly one test; a field that is absent or null fulfils none but `exists`.

use serde::Deserialize;

use crate::{Facts, Field, Glob, Pattern};

/// One condition: a field, one test, and perhaps `not`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Condition {
    field: Field,
    test: Test,
    not: bool,
}

#[derive(Debug, Clone)]
enum Test {
    OneOf(Vec<String>),
    Glob(Glob),
    Regex(Pattern),
    Exists(bool),
    Between(f64, f64),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    field: Field,
    equals: Option<String>,
    one_of: Option<Vec<String>>,
    glob: Option<Glob>,
    regex: Option<Pattern>,
    exists: Option<bool>,
    min: Option<f64>,
    max: Option<f64>,
    #[serde(default)]
    not: bool,
}

impl Condition {
    pub fn holds(&self, facts: &impl Facts) -> bool {
        let any = |test: &dyn Fn(&[u8]) -> bool| facts.any(&self.field, test);
        let outcome = match &self.test {
            Test::OneOf(texts) => any(&|value| texts.iter().any(|text| text.as_bytes() == value)),
            Test::Glob(glob) => any(&|value| glob.matches(value)),
            Test::Regex(pattern) => any(&|value| pattern.matches(value)),
            Test::Exists(expected) => facts.exists(&self.field) == *expected,
            Test::Between(min, max) => {
                let between = |number: f64| (*min..=*max).contains(&number);
                match facts.number(&self.field) {
                    Some(number) => between(number as f64),
                    None => any(&|value| parse(value).is_some_and(between)),
                }
            }
        };
        outcome != self.not
    }
}

fn parse(value: &[u8]) -> Option<f64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

impl TryFrom<Raw> for Condition {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let between = (raw.min.is_some() || raw.max.is_some())
            .then(|| Test::Between(raw.min.unwrap_or(f64::NEG_INFINITY), raw.max.unwrap_or(f64::INFINITY)));
        let tests = [
            raw.equals.map(|text| Test::OneOf(vec![text])),
            raw.one_of.map(Test::OneOf),
            raw.glob.map(Test::Glob),
            raw.regex.map(Test::Regex),
            raw.exists.map(Test::Exists),
            between,
        ];
        let mut tests = tests.into_iter().flatten();
        match (tests.next(), tests.next()) {
            (Some(Test::OneOf(texts)), None) if texts.is_empty() => Err("one_of needs at least one text".into()),
            (Some(Test::Between(min, max)), None) if min > max => Err("min is greater than max".into()),
            (Some(test), None) => Ok(Self { field: raw.field, test, not: raw.not }),
            (None, _) => Err(format!("no test; {TESTS}")),
            (Some(_), Some(_)) => Err(format!("more than one test; {TESTS}")),
        }
    }
}

const TESTS: &str = "a condition has one of equals, one_of, glob, regex, exists, or min and max";

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
            (r#"{"field": "label:type", "equals": "Köln"}"#, false),
            (r#"{"field": "label:type", "equals": "heartbeat"}"#, true),
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
                "no test; a condition has one of equals, one_of, glob, regex, exists, or min and max",
            ),
            (r#"{"field": "key", "glob": "a", "equals": "a"}"#, "more than one test; a condition has one of"),
            (r#"{"field": "key", "one_of": []}"#, "one_of needs at least one text"),
            (r#"{"field": "size", "min": 2, "max": 1}"#, "min is greater than max"),
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
