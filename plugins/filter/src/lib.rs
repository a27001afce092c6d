//! filter: drops or keeps records by conditions on headers, labels, key, topic, entry or size.
//!
//! Guarantees: it answers `keep` or `drop` and nothing else, and never reads a payload.

use reduct_sink_plugin::{Failure, Record, Transform, Verdict, plugin};
use reduct_sink_rules::Condition;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    on_match: Action,
    #[serde(default)]
    r#match: Match,
    rules: Vec<Condition>,
}

/// What becomes of the records that match; the others get the opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Drop,
    Keep,
}

/// How many of the rules must hold.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Match {
    #[default]
    Any,
    All,
}

pub struct Filter(Config);

impl Transform for Filter {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.rules.is_empty() {
            return Err("rules: at least one is needed".into());
        }
        Ok(Self(config))
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        let Config { on_match, r#match, rules } = &self.0;
        let matches = match r#match {
            Match::Any => rules.iter().any(|rule| rule.holds(record)),
            Match::All => rules.iter().all(|rule| rule.holds(record)),
        };
        Ok(if matches == (*on_match == Action::Keep) { Verdict::Keep } else { Verdict::Drop })
    }
}

plugin!(Filter);

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::testing::{Sample, configure};

    const RULES: &str = r#"[{"field": "header:type", "equals": "heartbeat"}, {"field": "size", "max": 10}]"#;

    fn verdicts(head: &str) -> [Verdict; 3] {
        let mut filter: Filter = configure(&format!(r#"{{{head}, "rules": {RULES}}}"#)).unwrap();
        let samples = [
            Sample::new().header("type", "heartbeat").payload("small"),
            Sample::new().header("type", "image").payload("small"),
            Sample::new().header("type", "image").payload("large enough"),
        ];
        samples.map(|sample| {
            let verdict = sample.transform(&mut filter).unwrap();
            assert_eq!(sample.payload_reads(), 0);
            verdict
        })
    }

    #[test]
    fn drops_or_keeps_what_matches_any_or_all() {
        use Verdict::{Drop, Keep};
        assert_eq!(verdicts(r#""on_match": "drop""#), [Drop, Drop, Keep]);
        assert_eq!(verdicts(r#""on_match": "drop", "match": "any""#), [Drop, Drop, Keep]);
        assert_eq!(verdicts(r#""on_match": "drop", "match": "all""#), [Drop, Keep, Keep]);
        assert_eq!(verdicts(r#""on_match": "keep", "match": "any""#), [Keep, Keep, Drop]);
        assert_eq!(verdicts(r#""on_match": "keep", "match": "all""#), [Keep, Drop, Drop]);
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_the_key() {
        for (config, message) in [
            ("{}", "missing field `on_match`"),
            (r#"{"on_match": "drop"}"#, "missing field `rules`"),
            (r#"{"on_match": "drop", "rules": []}"#, "rules: at least one is needed"),
            (r#"{"on_match": "delete", "rules": []}"#, "on_match: unknown variant `delete`, expected `drop` or `keep`"),
            (
                r#"{"on_match": "drop", "match": "one", "rules": []}"#,
                "match: unknown variant `one`, expected `any` or `all`",
            ),
            (r#"{"on_match": "drop", "rules": {}}"#, "rules: invalid type: map, expected a list"),
            (
                r#"{"on_match": "drop", "rules": [{"field": "key", "equals": "a"}, {"field": "key", "regex": "("}]}"#,
                "rules[1].regex: \"(\" is not a regular expression: ",
            ),
            (
                r#"{"on_match": "drop", "rule": []}"#,
                "rule: unknown field `rule`, expected one of `on_match`, `match`, `rules`",
            ),
        ] {
            let error = configure::<Filter>(config).err().unwrap();
            assert!(error.starts_with(message), "{config}: {error}");
        }
    }
}
