//! Compares the records in ReductStore with those that Kafka acknowledged, one by one.
//!
//! Guarantees: this code shares nothing with the host; everything in a [`Row`] was compared with what Kafka
//! acknowledged.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::Stored;
use reduct_sink_testbed::verify::compare;

use crate::feed::{Blob, Headers};

/// A plugin's file at one time.
pub struct Version {
    /// What the file held: `passthrough` or `relabel`.
    pub what: &'static str,
    /// The beginning of the label `sink.plugins`: `name@digest`, which the configuration's digest may follow.
    pub mark: String,
    /// The labels that this version makes of a record's headers.
    pub labels: fn(&Headers) -> BTreeMap<String, String>,
}

impl Version {
    /// Whether this label `sink.plugins` names the version.
    pub fn has_mark(&self, mark: &str) -> bool {
        mark.strip_prefix(&self.mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }
}

/// The records of one entry that one version handled.
pub struct Row {
    pub entry: String,
    pub version: usize,
    pub records: usize,
    pub first_offset: u64,
    pub last_offset: u64,
    /// The labels of the last of these records.
    pub labels: BTreeMap<String, String>,
}

/// The passthrough's labels: each header becomes a label of the same name.
pub fn labels_of_passthrough(headers: &Headers) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// The labels that `relabel.toml` asks for, computed here a second time.
pub fn labels_of_relabel(headers: &Headers) -> BTreeMap<String, String> {
    let mut labels = labels_of_passthrough(headers);
    if let Some(camera) = labels.remove("camera") {
        labels.insert("sensor".into(), camera);
    }
    labels.insert("site".into(), "north".into());
    if labels.get("size").and_then(|size| size.parse().ok()).is_some_and(|size: u64| size >= 32_768) {
        labels.insert("large".into(), "yes".into());
    }
    labels.remove("shutter-us");
    labels
}

/// Compares the stored records with the produced ones. `versions` are in the order of time. Returns what arrived in
/// which entry under which version, or an error that names what differs.
pub fn check(blobs: &[Blob], stored: &[Stored], versions: &[Version]) -> Result<Vec<Row>> {
    compare(blobs.iter().map(|blob| &blob.produced), stored)?
        .exact()
        .context("ReductStore holds something else than Kafka")?;
    let headers: HashMap<(String, u64), &Headers> = blobs.iter().map(|blob| (place(blob), &blob.headers)).collect();
    let mut rows: BTreeMap<(String, usize), Row> = BTreeMap::new();
    for record in stored {
        let identity = record.identity()?.context("a record without an identity")?;
        // The entry has its default name; a dead letter would be in another entry.
        ensure!(record.entry == identity.source, "{identity} is in entry {:?}", record.entry);
        let mark = record.label("sink.plugins").with_context(|| format!("{identity} names no plugin"))?;
        let found = versions.iter().enumerate().find(|(_, version)| version.has_mark(mark));
        let (at, version) =
            found.with_context(|| format!("{identity} was handled by {mark}, which nobody installed"))?;
        let labels = visible_labels(record);
        let headers = headers.get(&(identity.source.clone(), identity.offset)).context("compared above")?;
        let expected = (version.labels)(headers);
        ensure!(labels == expected, "{identity}, {}: labels {labels:?} instead of {expected:?}", version.what);
        let row = rows.entry((record.entry.clone(), at)).or_insert_with(|| Row {
            entry: record.entry.clone(),
            version: at,
            records: 0,
            first_offset: identity.offset,
            last_offset: identity.offset,
            labels: BTreeMap::new(),
        });
        row.records += 1;
        row.first_offset = row.first_offset.min(identity.offset);
        if identity.offset >= row.last_offset {
            (row.last_offset, row.labels) = (identity.offset, labels);
        }
    }
    let rows: Vec<Row> = rows.into_values().collect();
    taken_over_between_two_records(&rows)?;
    Ok(rows)
}

/// Checks that in each entry a version's records begin where those of the previous version end.
fn taken_over_between_two_records(rows: &[Row]) -> Result<()> {
    for (before, after) in rows.iter().zip(rows.iter().skip(1)).filter(|(a, b)| a.entry == b.entry) {
        ensure!(
            before.last_offset < after.first_offset,
            "{}: offset {} was still handled by the old version, offset {} already by the new one",
            before.entry,
            before.last_offset,
            after.first_offset
        );
    }
    Ok(())
}

fn place(blob: &Blob) -> (String, u64) {
    (format!("{}/{}", blob.produced.topic, blob.produced.partition), blob.produced.offset)
}

/// The record's labels, without those that the sink itself sets.
fn visible_labels(record: &Stored) -> BTreeMap<String, String> {
    let own = |name: &str| name.starts_with("kafka.") || name.starts_with("sink.");
    record.labels.iter().filter(|(name, _)| !own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use reduct_sink_testbed::Produced;

    use super::*;

    fn versions() -> [Version; 2] {
        [
            Version { what: "passthrough", mark: "p@1".into(), labels: labels_of_passthrough },
            Version { what: "relabel", mark: "p@2".into(), labels: labels_of_relabel },
        ]
    }

    /// Offsets 0 to 3 of one partition, the first two under the first version.
    fn sample() -> (Vec<Blob>, Vec<Stored>) {
        let blob = |offset| Blob {
            produced: Produced { topic: "t".into(), partition: 0, offset, size: 1, sha256: [offset as u8; 32] },
            headers: vec![
                ("size", (32_766 + offset).to_string()),
                ("camera", "left".into()),
                ("shutter-us", "7".into()),
            ],
        };
        let blobs: Vec<Blob> = (0..4).map(blob).collect();
        let stored = blobs.iter().zip([0, 0, 1, 1]).map(|(blob, at): (&Blob, usize)| {
            let version = &versions()[at];
            let mut labels = (version.labels)(&blob.headers);
            labels.insert("kafka.source".into(), "t/0".into());
            labels.insert("kafka.offset".into(), blob.produced.offset.to_string());
            labels.insert("sink.plugins".into(), version.mark.clone());
            Stored {
                entry: "t/0".into(),
                timestamp_us: blob.produced.offset,
                labels,
                content_type: String::new(),
                size: 1,
                sha256: blob.produced.sha256,
                behind_payload: None,
            }
        });
        let stored = stored.collect();
        (blobs, stored)
    }

    #[test]
    fn tells_what_arrived_where_under_which_version() {
        let (blobs, stored) = sample();
        let rows = check(&blobs, &stored, &versions()).unwrap();
        let told = |row: &Row| (row.entry.clone(), row.version, row.records, row.first_offset, row.last_offset);
        let told: Vec<_> = rows.iter().map(told).collect();
        assert_eq!(told, [("t/0".into(), 0, 2, 0, 1), ("t/0".into(), 1, 2, 2, 3)]);
        let labels = |row: &Row| row.labels.iter().map(|(name, value)| format!("{name}={value} ")).collect::<String>();
        assert_eq!(labels(&rows[0]), "camera=left shutter-us=7 size=32767 ");
        assert_eq!(labels(&rows[1]), "large=yes sensor=left site=north size=32769 ");
    }

    #[test]
    fn names_what_differs() {
        type Spoil = fn(&mut Vec<Stored>);
        let cases: [(Spoil, &str); 7] = [
            (|stored| drop(stored.pop()), "1 missing (t/0@3)"),
            (|stored| stored.push(stored[0].clone()), "1 twice (t/0@0 at t/0@0, 0 µs after the first)"),
            (|stored| stored[1].sha256[0] ^= 1, "1 with wrong bytes (t/0@1 at t/0@1)"),
            (|stored| stored[1].entry = "dead".into(), "t/0@1 is in entry \"dead\""),
            (|stored| drop(stored[1].labels.remove("camera")), "t/0@1, passthrough: labels {"),
            (
                |stored| drop(stored[1].labels.insert("sink.plugins".into(), "p@3".into())),
                "t/0@1 was handled by p@3, which nobody installed",
            ),
            (
                |stored| {
                    // The versions of offsets 1 and 2 are exchanged.
                    let (mut one, mut two) = (stored[2].labels.clone(), stored[1].labels.clone());
                    one.extend([("kafka.offset".into(), "1".into()), ("size".into(), "32767".into())]);
                    two.extend([("kafka.offset".into(), "2".into()), ("size".into(), "32768".into())]);
                    one.remove("large");
                    (stored[1].labels, stored[2].labels) = (one, two);
                },
                "t/0: offset 2 was still handled by the old version, offset 1 already by the new one",
            ),
        ];
        for (spoil, expected) in cases {
            let (blobs, mut stored) = sample();
            spoil(&mut stored);
            let error = format!("{:#}", check(&blobs, &stored, &versions()).err().unwrap());
            assert!(error.contains(expected), "{error}");
        }
    }
}
