//! relabel: sets, renames, copies and removes labels, and sets the content type, by steps in order.
//!
//! Guarantees: a step sees the changes of the earlier steps; a step whose template has no value changes nothing; a
//! label holds all bytes of its value, percent-encoded if necessary; a payload is never read, and the labels are
//! fetched only for steps that need them.

mod labels;
mod step;

use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict, plugin};
use serde::Deserialize;

use labels::Labels;
use step::Step;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    steps: Vec<Step>,
}

pub struct Relabel(Vec<Step>);

impl Transform for Relabel {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.steps.is_empty() {
            return Err("steps: at least one is needed".into());
        }
        Ok(Self(config.steps))
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        let mut labels = Labels::new(record);
        for step in &self.0 {
            step.apply(&mut labels)?;
        }
        let (labels, content_type) = labels.into_changes();
        Ok(Change { labels, content_type, ..Change::new() }.into())
    }
}

plugin!(Relabel);

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::LabelChange;
    use reduct_sink_plugin::testing::{Sample, configure};

    fn sample() -> Sample {
        Sample::new()
            .topic("plant.cameras")
            .partition(3)
            .key("cam-12")
            .header("Camera", "LEFT")
            .header("city", "Köln")
            .header("raw", b"\xff%41")
            .header("empty", "")
            .null_header("null")
            .label("old", "a%22b")
            .label("tmp-1", "x")
            .label("tmp-2", "y")
            .payload([1; 100])
    }

    fn verdict(steps: &str) -> Result<Verdict, Failure> {
        let mut plugin: Relabel = configure(&format!(r#"{{"steps": [{steps}]}}"#)).unwrap();
        let sample = sample();
        let verdict = sample.transform(&mut plugin);
        assert_eq!(sample.payload_reads(), 0);
        verdict
    }

    /// The changes to the labels in order, each `name=value`, or `-name` for a removed label.
    fn labels(steps: &str) -> String {
        match verdict(steps).unwrap() {
            Verdict::Keep => String::new(),
            Verdict::Change(change) => {
                let show = |LabelChange { name, value }: LabelChange| match value {
                    Some(value) => format!("{name}={value}"),
                    None => format!("-{name}"),
                };
                change.labels.into_iter().map(show).collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sets_from_anything() {
        for (value, expected) in [
            ("constant", "l=constant"),
            ("{topic}/{partition}", "l=plant.cameras/3"),
            ("{key}", "l=cam-12"),
            ("{size}", "l=100"),
            ("{header:Camera}", "l=LEFT"),
            ("{label:camera}", "l=LEFT"),
            ("{header:city}", "l=K%C3%B6ln"),
            ("{label:city}", "l=K%C3%B6ln"),
            ("{header:raw}", "l=%FF%2541"),
            ("{label:raw}", "l=%FF%2541"),
            ("{label:old}", "l=a%22b"),
            ("{header:empty}", "l="),
            ("{header:null}", ""),
            ("{header:missing}", ""),
            ("{label:missing}x", ""),
        ] {
            assert_eq!(labels(&format!(r#"{{"set": "l", "value": "{value}"}}"#)), expected, "{value}");
        }
    }

    #[test]
    fn values_go_through_regex_lower_map_and_default() {
        for (options, expected) in [
            (r#""value": "{key}", "regex": "[0-9]+""#, "l=12"),
            (r#""value": "{key}", "regex": "(cam)-([0-9]+)", "replace": "$2-$1""#, "l=12-cam"),
            (r#""value": "{key}", "regex": "x""#, ""),
            (r#""value": "{key}", "regex": "x", "default": "none""#, "l=none"),
            (r#""value": "{header:raw}", "regex": ".*""#, ""),
            (r#""value": "{header:Camera}", "lower": true"#, "l=left"),
            (r#""value": "{header:Camera}", "lower": true, "map": {"left": "L"}"#, "l=L"),
            (r#""value": "{header:city}", "map": {"Köln": "cologne"}"#, "l=cologne"),
            (r#""value": "{header:Camera}", "map": {"left": "L"}"#, "l=LEFT"),
            (r#""value": "{header:Camera}", "map": {"left": "L"}, "default": "other""#, "l=other"),
            (r#""value": "{header:missing}", "default": "Ö""#, "l=%C3%96"),
        ] {
            assert_eq!(labels(&format!(r#"{{"set": "l", {options}}}"#)), expected, "{options}");
        }
    }

    #[test]
    fn renames_copies_and_removes() {
        for (steps, expected) in [
            (r#"{"rename": "old", "to": "new"}"#, "-old new=a%22b"),
            (r#"{"rename": "missing", "to": "new"}"#, ""),
            (r#"{"copy": "old", "to": "new"}"#, "new=a%22b"),
            (r#"{"copy": "missing", "to": "new"}"#, ""),
            (r#"{"copy": "null", "to": "new"}"#, ""),
            (r#"{"remove": "old"}"#, "-old"),
            (r#"{"remove": "tmp-*"}"#, "-tmp-1 -tmp-2"),
            (r#"{"remove": "nothing-*"}"#, ""),
        ] {
            assert_eq!(labels(steps), expected, "{steps}");
        }
    }

    #[test]
    fn a_step_sees_what_the_steps_before_it_did() {
        for (steps, expected) in [
            (r#"{"set": "a", "value": "1"}, {"set": "b", "value": "{label:a}2"}"#, "a=1 b=12"),
            (r#"{"set": "a", "value": "1"}, {"rename": "a", "to": "b"}"#, "-a b=1"),
            (r#"{"remove": "old"}, {"copy": "old", "to": "b"}"#, "-old"),
            (r#"{"set": "tmp-3", "value": "1"}, {"remove": "tmp-*"}"#, "-tmp-3 -tmp-1 -tmp-2"),
            (
                r#"{"set": "a", "value": "1"}, {"set": "b", "value": "2", "when": [{"field": "label:a", "equals": "1"}]}"#,
                "a=1 b=2",
            ),
            (r#"{"set": "b", "value": "2", "when": [{"field": "label:a", "exists": true}]}"#, ""),
        ] {
            assert_eq!(labels(steps), expected, "{steps}");
        }
    }

    #[test]
    fn sets_the_content_type() {
        let content_type = |steps: &str| match verdict(steps) {
            Ok(Verdict::Change(change)) => change.content_type,
            Ok(_) => None,
            Err(failure) => Some(format!("{failure:?}")),
        };
        assert_eq!(content_type(r#"{"content_type": "image/jpeg"}"#).as_deref(), Some("image/jpeg"));
        assert_eq!(content_type(r#"{"content_type": "{header:missing}"}"#), None);
        let steps = r#"{"content_type": "{topic}", "map": {"plant.cameras": "image/png"}}"#;
        assert_eq!(content_type(steps).as_deref(), Some("image/png"));
        let steps = r#"{"content_type": "image/png"}, {"set": "type", "value": "{content_type}"}"#;
        assert_eq!(labels(steps), "type=image/png");
        let rejected = content_type(r#"{"content_type": "{header:city}"}"#).unwrap();
        assert!(rejected.starts_with("Failure::Reject(\"\\\"Köln\\\" can't be a content type"), "{rejected}");
    }

    #[test]
    fn nothing_to_change_is_keep() {
        assert_eq!(verdict(r#"{"rename": "missing", "to": "new"}"#), Ok(Verdict::Keep));
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_the_key() {
        for (step, message) in [
            ("{}", "steps[0]: a step has one of set, content_type, rename, copy or remove"),
            (r#"{"set": "a", "remove": "b"}"#, "steps[0]: a step has one of"),
            (r#"{"set": "a"}"#, "steps[0]: set needs value"),
            (r#"{"rename": "a"}"#, "steps[0]: rename needs to"),
            (r#"{"copy": "a"}"#, "steps[0]: copy needs to"),
            (r#"{"set": "a", "value": "b", "to": "c"}"#, "steps[0]: to doesn't go with set"),
            (r#"{"remove": "a", "lower": true}"#, "steps[0]: lower doesn't go with remove"),
            (r#"{"set": "a", "value": "b", "replace": "$1"}"#, "steps[0]: replace needs regex"),
            (r#"{"set": "Camera", "value": "b"}"#, "steps[0]: set: \"Camera\" can't be a label's name"),
            (r#"{"set": "kafka.offset", "value": "b"}"#, "steps[0]: set: \"kafka.offset\" can't be a label's name"),
            (r#"{"set": "a", "value": "{kay}"}"#, "steps[0].value: unknown field \"kay\"; a field is "),
            (
                r#"{"set": "a", "value": "{key}", "map": {"a": 1}}"#,
                "steps[0].map.a: invalid type: integer `1`, expected a string",
            ),
            (
                r#"{"set": "a", "value": "b", "lower": "yes"}"#,
                "steps[0].lower: invalid type: string \"yes\", expected true or false",
            ),
            (r#"{"content_type": "a,b"}"#, "steps[0]: content_type: \"a,b\" can't be a content type"),
            (r#"{"sett": "a"}"#, "steps[0].sett: unknown field `sett`, expected one of `set`, `content_type`"),
        ] {
            let error = configure::<Relabel>(&format!(r#"{{"steps": [{step}]}}"#)).err().unwrap();
            assert!(error.starts_with(message), "{step}: {error}");
        }
        assert_eq!(configure::<Relabel>("{}").err().unwrap(), "missing field `steps`");
        assert_eq!(configure::<Relabel>(r#"{"steps": []}"#).err().unwrap(), "steps: at least one is needed");
    }
}
