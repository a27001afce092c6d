//! route: picks the entry by the first rule that fits.
//!
//! Guarantees: ReductStore accepts each entry that it chooses; with `illegal = "escape"` two different values never
//! give the same entry; a payload is never read.

use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict, plugin};
use reduct_sink_rules::{Condition, EntryTemplate, Illegal};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    rules: Vec<Rule>,
    default: Option<EntryTemplate>,
    #[serde(default)]
    illegal: Illegal,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// The conditions that must all hold for the rule to apply.
    #[serde(default)]
    when: Vec<Condition>,
    entry: EntryTemplate,
}

pub struct Route(Config);

impl Transform for Route {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.rules.is_empty() && config.default.is_none() {
            return Err("rules: at least one is needed, or a default".into());
        }
        Ok(Self(config))
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        let Config { rules, default, illegal } = &self.0;
        let fitting = rules.iter().filter(|rule| rule.when.iter().all(|condition| condition.holds(record)));
        for template in fitting.map(|rule| &rule.entry).chain(default) {
            if let Some(entry) = template.render(record, *illegal)? {
                return Ok(Change::new().entry(entry).into());
            }
        }
        Ok(Verdict::Keep)
    }
}

plugin!(Route);

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::testing::{Sample, configure};

    fn sample() -> Sample {
        Sample::new()
            .topic("plant.a_2E")
            .key("cam/12")
            .header("type", "image")
            .header("odd", "a.b c")
            .header("empty", "")
            .header("long", "x".repeat(300))
            .label("site", "K%C3%B6ln")
            .payload([0; 10])
    }

    fn entry(config: &str) -> String {
        let sample = sample();
        let verdict = sample.transform(&mut configure::<Route>(config).unwrap());
        assert_eq!(sample.payload_reads(), 0);
        match verdict {
            Ok(Verdict::Change(change)) => change.entry.unwrap(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_first_rule_that_fits_wins() {
        let rules = r#""rules": [
            {"when": [{"field": "size", "min": 11}], "entry": "large"},
            {"when": [{"field": "header:type", "equals": "image"}, {"field": "size", "max": 9}], "entry": "small"},
            {"when": [{"field": "header:type", "equals": "image"}], "entry": "images/{key}"},
            {"entry": "rest"}]"#;
        assert_eq!(entry(&format!("{{{rules}}}")), "images/cam/12");
        assert_eq!(entry(r#"{"rules": [{"entry": "{header:missing}"}, {"entry": "second"}]}"#), "second");
        assert_eq!(entry(r#"{"rules": [{"entry": "x-{header:empty}"}], "default": "d"}"#), "d");
        assert_eq!(entry(r#"{"rules": [{"entry": "{header:missing}"}]}"#), "Ok(Verdict::Keep)");
        assert_eq!(entry(r#"{"default": "{topic}/other"}"#), "plant_2Ea_5F2E/other");
        assert_eq!(entry(r#"{"default": "{entry}/x"}"#), "plant_2Ea_2E/x");
    }

    #[test]
    fn what_is_illegal_is_escaped_or_passes_to_the_next_rule() {
        let rules = r#""rules": [{"entry": "{header:odd}"}], "default": "d/{label:site}""#;
        assert_eq!(entry(&format!("{{{rules}}}")), "a_2Eb_20c");
        assert_eq!(entry(&format!(r#"{{{rules}, "illegal": "escape"}}"#)), "a_2Eb_20c");
        assert_eq!(entry(&format!(r#"{{{rules}, "illegal": "next"}}"#)), "Ok(Verdict::Keep)");
        assert_eq!(entry(r#"{"default": "d/{label:site}"}"#), "d/K_25C3_25B6ln");
    }

    #[test]
    fn a_segment_that_is_too_long_is_rejected_or_passes_to_the_next_rule() {
        let rules = r#""rules": [{"entry": "{header:long}"}], "default": "d""#;
        assert!(entry(&format!("{{{rules}}}")).starts_with("Err(Failure::Reject(\"entry \\\"xxx"));
        assert_eq!(entry(&format!(r#"{{{rules}, "illegal": "next"}}"#)), "d");
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_the_key() {
        for (config, message) in [
            ("{}", "rules: at least one is needed, or a default"),
            (r#"{"rules": [{}]}"#, "rules[0]: missing field `entry`"),
            (
                r#"{"rules": [{"entry": "a b"}]}"#,
                "rules[0].entry: \"a b\" can't be an entry: ' ' isn't one of A-Z a-z 0-9 _ - /",
            ),
            (
                r#"{"rules": [{"entry": "a//{key}"}]}"#,
                "rules[0].entry: \"a//{key}\" can't be an entry: it has an empty segment",
            ),
            (r#"{"rules": [{"entry": "/a"}]}"#, "rules[0].entry: \"/a\" can't be an entry: it has an empty segment"),
            (r#"{"rules": [{"entry": ""}]}"#, "rules[0].entry: \"\" can't be an entry: it has an empty segment"),
            (r#"{"default": "{kay}"}"#, "default: unknown field \"kay\"; a field is "),
            (r#"{"default": 1}"#, "default: invalid type: integer `1`, expected a string"),
            (r#"{"default": "a", "illegal": "drop"}"#, "illegal: unknown variant `drop`, expected `escape` or `next`"),
            (
                r#"{"default": "a", "rules": [{"entry": "a", "if": []}]}"#,
                "rules[0].if: unknown field `if`, expected `when` or `entry`",
            ),
        ] {
            let error = configure::<Route>(config).err().unwrap();
            assert!(error.starts_with(message), "{config}: {error}");
        }
    }
}
