//! A chain's answer about a record, in a form that fixtures, diffs and reports can show.
//!
//! Guarantees: every outcome of a chain has an answer; two answers are equal if and only if ReductStore would hold the
//! same records, or the host would report the same failure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::content::FixtureContent;
use crate::chain::{Outcome, PluginFailure};
use crate::record::OutputRecord;
use crate::record::entry_name::topic_segment;
use crate::record::labels::LabelRules;

/// What the host would do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerVerdict {
    /// The host would write the record, changed or not, as one record or several.
    Write,
    /// The host would write nothing.
    Drop,
    /// The plugin failed (a `reject`, a trap, an exceeded limit or an invalid answer): its failure policy would decide
    /// about the record.
    Fail,
    /// The host would try the record again.
    Retry,
}

/// An answer as fixtures expect it and reports show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginAnswer {
    /// What the host would do with the record.
    pub verdict: AnswerVerdict,
    /// Why the plugin failed, or asked for another attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only in an expectation, in place of `reason`: a text that the reason must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_contains: Option<String>,
    /// The records that the host would write, in order.
    #[serde(default, rename = "output", skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
}

/// A record that would be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The entry's name, to which the operator's template is not applied yet.
    pub entry: String,
    /// The timestamp in microseconds since the Unix epoch.
    pub timestamp: Whole,
    /// The content type that a plugin chose, or that a header gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The payload, only if a plugin replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<FixtureContent>,
    /// The labels, without those that the host adds when it writes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl PluginAnswer {
    /// The answer that this outcome stands for.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Outputs(outputs) => {
                Self { outputs: outputs.iter().map(Output::of).collect(), ..Self::plain(AnswerVerdict::Write) }
            }
            Outcome::Dropped => Self::plain(AnswerVerdict::Drop),
            Outcome::Retry(failure) | Outcome::Wait(failure, _) => Self::failed(AnswerVerdict::Retry, failure),
            Outcome::DeadLetter(failure) | Outcome::Skipped(failure) | Outcome::Stop(failure) => {
                Self::failed(AnswerVerdict::Fail, failure)
            }
        }
    }

    /// Whether `answer` is what this expectation asks for. Files that the expectation names are in `folder`.
    pub fn is_met_by(&self, answer: &Self, folder: &Path) -> bool {
        let reason = match &self.reason_contains {
            Some(part) => answer.reason.as_deref().unwrap_or_default().contains(part.as_str()),
            None => self.reason == answer.reason,
        };
        let same = |(expected, found): (&Output, &Output)| expected.is_met_by(found, folder);
        self.verdict == answer.verdict
            && reason
            && self.outputs.len() == answer.outputs.len()
            && self.outputs.iter().zip(&answer.outputs).all(same)
    }

    /// The answer about a record that the host can't handle, for this reason.
    pub fn failure(reason: String) -> Self {
        Self { reason: Some(reason), ..Self::plain(AnswerVerdict::Fail) }
    }

    fn plain(verdict: AnswerVerdict) -> Self {
        Self { verdict, reason: None, reason_contains: None, outputs: Vec::new() }
    }

    fn failed(verdict: AnswerVerdict, failure: &PluginFailure) -> Self {
        Self { reason: Some(failure.reason.clone()), ..Self::plain(verdict) }
    }
}

impl Output {
    fn of(output: &OutputRecord) -> Self {
        let base = || output.input.default_timestamp_us();
        Self {
            entry: output.entry.clone().unwrap_or_else(|| topic_segment(&output.input.source.topic)),
            timestamp: Whole(output.timestamp_us.unwrap_or_else(base)),
            content_type: output.content_type().map(str::to_owned),
            payload: output.payload.as_deref().map(FixtureContent::shown),
            labels: LabelRules::default().record_labels(output),
        }
    }

    fn is_met_by(&self, found: &Self, folder: &Path) -> bool {
        let payload = match (&self.payload, &found.payload) {
            (Some(expected), Some(found)) => expected.is(found, folder),
            (expected, found) => expected == found,
        };
        let rest = |output: &Self| Self { payload: None, ..output.clone() };
        payload && rest(self) == rest(found)
    }
}

/// A whole number from 0 on. TOML's integers have 63 bits, so a larger number is written as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whole(pub u64);

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(self.0) {
            Ok(number) => serializer.serialize_i64(number),
            Err(_) => serializer.collect_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyWhole)
    }
}

struct AnyWhole;

impl Visitor<'_> for AnyWhole {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0 on")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Whole, E> {
        let whole = u64::try_from(number).map(Whole);
        whole.map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Whole, E> {
        Ok(Whole(number))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Whole, E> {
        let whole = text.parse().map(Whole);
        whole.map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_toml_come_back() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Time {
            at: Whole,
        }
        for number in [0, 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
            let time = Time { at: Whole(number) };
            assert_eq!(toml::from_str::<Time>(&toml::to_string(&time).unwrap()).unwrap(), time);
            assert_eq!(serde_json::from_str::<Time>(&serde_json::to_string(&time).unwrap()).unwrap(), time);
        }
        assert!(toml::from_str::<Time>("at = -1").unwrap_err().to_string().contains("from 0 on"));
    }

    #[test]
    fn a_reason_may_be_expected_in_part() {
        let answer = PluginAnswer { reason: Some("no camera: x".into()), ..PluginAnswer::plain(AnswerVerdict::Fail) };
        let here = Path::new(".");
        let expected = |text: &str| toml::from_str::<PluginAnswer>(text).unwrap();
        assert!(expected("verdict = 'fail'\nreason = 'no camera: x'").is_met_by(&answer, here));
        assert!(expected("verdict = 'fail'\nreason_contains = 'camera'").is_met_by(&answer, here));
        assert!(!expected("verdict = 'fail'\nreason_contains = 'lidar'").is_met_by(&answer, here));
        assert!(!expected("verdict = 'fail'").is_met_by(&answer, here));
        assert!(!expected("verdict = 'retry'\nreason = 'no camera: x'").is_met_by(&answer, here));
    }
}
