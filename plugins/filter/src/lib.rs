//! filter: drops or keeps records by conditions on headers, labels, key, topic, entry or size.
//!
//! Guarantees: it answers `keep` or `drop` and nothing else, and never reads a payload.

use reduct_sink_plugin::{Failure, Record, Transform, Verdict, plugin};
use reduct_sink_rules::Filter;

pub struct FilterPlugin(Filter);

impl Transform for FilterPlugin {
    type Config = Filter;

    fn configure(filter: Filter) -> Result<Self, String> {
        Ok(Self(filter))
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        Ok(if self.0.keeps(record) { Verdict::Keep } else { Verdict::Drop })
    }
}

plugin!(FilterPlugin);

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::testing::{Sample, configure};

    const RULES: &str = r#"[{"field": "header:type", "equals": "heartbeat"}, {"field": "size", "max": 10}]"#;

    fn verdicts(head: &str) -> [Verdict; 3] {
        let mut filter: FilterPlugin = configure(&format!(r#"{{{head}, "rules": {RULES}}}"#)).unwrap();
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
            let error = configure::<FilterPlugin>(config).err().unwrap();
            assert!(error.starts_with(message), "{config}: {error}");
        }
    }
}
