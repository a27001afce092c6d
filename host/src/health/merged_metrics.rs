//! The figures of several pipelines as one text for Prometheus.
//!
//! Guarantees: each family stands once, and each of its samples has a label `pipeline`; what is the process's own
//! (`build_info`) stands once without it. Plain values.

use std::collections::BTreeMap;

/// What is the same for all pipelines of a process.
const OF_PROCESS: [&str; 1] = ["reduct_sink_build_info"];

/// A family: what is said of it, and its samples.
#[derive(Default)]
struct MergedFamily {
    head: String,
    samples: String,
}

/// Merges the texts of pipelines, each with its name.
pub(super) fn merge(texts: &[(String, String)]) -> String {
    let mut families: BTreeMap<&str, MergedFamily> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for (number, (pipeline, text)) in texts.iter().enumerate() {
        let mut family = "";
        for line in text.lines().filter(|line| *line != "# EOF") {
            let (head, name) = match line.strip_prefix("# ") {
                Some(said) => (true, said.split(' ').nth(1).unwrap_or_default()),
                None => (false, family),
            };
            if head && name != family {
                family = name;
                if !order.contains(&name) {
                    order.push(name);
                }
            }
            let is_of_process = OF_PROCESS.contains(&family);
            let merged = families.entry(family).or_default();
            if head {
                // Said by the first that has it.
                if !merged.head.lines().any(|known| known == line) {
                    merged.head.push_str(line);
                    merged.head.push('\n');
                }
            } else if !is_of_process {
                merged.samples.push_str(&with_label(line, pipeline));
                merged.samples.push('\n');
            } else if number == 0 {
                merged.samples.push_str(line);
                merged.samples.push('\n');
            }
        }
    }
    let mut text = String::new();
    for merged in order.iter().filter_map(|name| families.get(name)) {
        text.push_str(&merged.head);
        text.push_str(&merged.samples);
    }
    text.push_str("# EOF\n");
    text
}

/// A sample with the label in front of its others. A pipeline's name has nothing in it that a label would have to escape.
fn with_label(line: &str, pipeline: &str) -> String {
    let name_ends = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_ends);
    match rest.strip_prefix('{') {
        Some("") | None => format!("{name}{{pipeline=\"{pipeline}\"}}{rest}"),
        Some(labels) if labels.starts_with('}') => format!("{name}{{pipeline=\"{pipeline}\"{labels}"),
        Some(labels) => format!("{name}{{pipeline=\"{pipeline}\",{labels}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::metrics;
    use crate::health::report::{HostReport, PartitionReport};

    fn report(written: u64, topic: &str) -> HostReport {
        let partition = PartitionReport {
            topic: topic.into(),
            partition: 0,
            begin: Some(0),
            position: 1,
            end: Some(2),
            lag: Some(1),
            lag_s: None,
            last_known: None,
            in_flight: 0,
            stuck: false,
        };
        let build = [("version", "1"), ("commit", "c"), ("librdkafka", "2"), ("wasmtime", "3"), ("contract", "0")];
        HostReport { build, written, partitions: vec![partition], ..HostReport::default() }
    }

    #[test]
    fn each_family_stands_once_and_each_sample_has_its_pipeline() {
        let texts = [("a", report(7, "x")), ("b", report(9, "x{y} z"))];
        let texts = texts.map(|(name, report)| (name.to_owned(), metrics::text(report).unwrap()));
        let merged = merge(&texts);
        for line in [
            r#"reduct_sink_records_written_total{pipeline="a"} 7"#,
            r#"reduct_sink_records_written_total{pipeline="b"} 9"#,
            r#"reduct_sink_partition_lag_records{pipeline="a",topic="x",partition="0"} 1.0"#,
            r#"reduct_sink_partition_lag_records{pipeline="b",topic="x{y} z",partition="0"} 1.0"#,
        ] {
            assert!(merged.lines().any(|found| found == line), "{line}\n{merged}");
        }
        assert_eq!(merged.matches("reduct_sink_build_info{version").count(), 1, "{merged}");
        assert!(merged.ends_with("# EOF\n") && merged.matches("# EOF").count() == 1);
        let types: Vec<&str> = merged.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let mut unique = types.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(types.len(), unique.len(), "{merged}");
        let alone: Vec<&str> = texts[0].1.lines().filter(|line| line.starts_with("# TYPE")).collect();
        assert_eq!(types, alone, "in the order of one");
    }
}
