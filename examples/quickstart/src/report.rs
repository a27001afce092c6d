//! The text at the end of the run: what arrived in which entry under which version, and what to try next.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::check::{Row, Version};

/// A line for each entry and version, in columns.
pub fn table(rows: &[Row], versions: &[Version]) -> String {
    let head = ["entry", "plugin", "sink.plugins", "records", "offsets", "labels of the last record"].map(String::from);
    let mut lines = vec![head];
    for row in rows {
        let version = versions.get(row.version);
        lines.push([
            row.entry.clone(),
            version.map_or("?", |version| version.what).to_owned(),
            version.map_or("?", |version| &version.mark).to_owned(),
            row.records.to_string(),
            format!("{}–{}", row.first_offset, row.last_offset),
            labels(&row.labels),
        ]);
    }
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
    let pad = |line: &[String; 6]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    format!("\n{}\n", lines.iter().map(pad).collect::<Vec<_>>().join("\n"))
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

pub fn verdict(records: usize, took: Duration) -> String {
    format!(
        "checked: all {records} records that Kafka acknowledged are in ReductStore, none missing, none twice, every \
         payload bit\nfor bit, every label as its plugin version makes it, the swap between two records in each \
         partition ({:.0} s)",
        took.as_secs_f64()
    )
}

pub fn your_own_servers(binary: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let binary = binary.strip_prefix(here).unwrap_or(binary).display();
    format!(
        "\nthe same with your own servers (--help tells more; a token goes into REDUCT_SINK_TOKEN):\n\
         \n  {binary} run --brokers HOST:9092 --topic TOPIC --url http://HOST:8383 --bucket BUCKET\n\
         \nthat runs the passthrough; with --plugin FILE.wasm your own plugin, and whatever you move over that file\n\
         later takes over while records flow"
    )
}
