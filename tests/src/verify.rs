//! Compares what ReductStore holds with what Kafka acknowledged, record by record.
//!
//! Guarantees: shares no code with the host; every stored record is compared, including its bytes, dead letters too; each
//! difference is named by topic, partition, offset and position in a split, behind [`DIFFER`]; half a million expected records
//! fit into memory, because the stored ones are read as a stream.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;

use anyhow::{Result, ensure};
use futures::StreamExt;
use reduct_rs::ReductClient;
use sha2::{Digest, Sha256};

use crate::client::Produced;
use crate::stored::{Identity, Stored, stored};

/// Begins each text that says how stored records differ from the produced ones: `tests/run` repeats no test that failed so.
pub const DIFFER: &str = "RECORDS DIFFER";

/// A record that must be in ReductStore, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub identity: Identity,
    pub sha256: [u8; 32],
}

impl From<&Produced> for Expected {
    fn from(produced: &Produced) -> Self {
        let source = format!("{}/{}", produced.topic, produced.partition);
        Self { identity: Identity { source, offset: produced.offset, index: None }, sha256: produced.sha256 }
    }
}

/// Compares the expected records with the stored ones. It does not matter in which entry a record is.
pub fn compare<E: Into<Expected>>(expected: impl IntoIterator<Item = E>, stored: &[Stored]) -> Result<Diff> {
    let mut ledger = Ledger::default();
    expected.into_iter().map(Into::into).for_each(|record| ledger.enter(record, None));
    let mut diff = ledger.diff();
    for record in stored {
        ledger.check_off(record, &mut diff)?;
    }
    Ok(ledger.close(diff))
}

/// The records that must be in ReductStore, by `topic/partition`.
#[derive(Debug, Default)]
pub struct Ledger {
    sources: HashMap<String, HashMap<Place, Line>>,
}

/// The offset, and the position in a split.
type Place = (u64, Option<u32>);

#[derive(Debug)]
struct Line {
    sha256: [u8; 32],
    /// Whether the record must be among the dead letters; `None` if it may be anywhere.
    dead: Option<bool>,
    found: u32,
    /// The timestamp at which it was found first, in microseconds.
    first_us: u64,
}

/// The prefix of the entries of dead letters.
const DEAD_LETTERS: &str = "dead-letters/";

impl Ledger {
    /// Expects each record as it was acknowledged, once.
    pub fn of(produced: &[Produced]) -> Self {
        let mut ledger = Self::default();
        produced.iter().for_each(|record| ledger.expect(record));
        ledger
    }

    pub fn expect(&mut self, record: &Produced) {
        self.enter(record.into(), Some(false));
    }

    /// The record must be among the dead letters.
    pub fn expect_dead(&mut self, record: &Produced) {
        self.enter(record.into(), Some(true));
    }

    /// The record must be there as these parts.
    pub fn expect_parts<'a>(&mut self, record: &Produced, parts: impl IntoIterator<Item = &'a [u8]>) {
        for (index, part) in parts.into_iter().enumerate() {
            let mut expected = Expected::from(record);
            expected.identity.index = Some(index as u32);
            expected.sha256 = Sha256::digest(part).into();
            self.enter(expected, Some(false));
        }
    }

    fn enter(&mut self, record: Expected, dead: Option<bool>) {
        let Identity { source, offset, index } = record.identity;
        let line = Line { sha256: record.sha256, dead, found: 0, first_us: 0 };
        self.sources.entry(source).or_default().insert((offset, index), line);
    }

    /// Reads the whole bucket and compares it with the ledger.
    pub async fn audit(mut self, client: &ReductClient, bucket: &str) -> Result<Diff> {
        let mut diff = self.diff();
        let bucket = client.get_bucket(bucket).await?;
        let mut records = pin!(stored(&bucket, "*").await?);
        while let Some(record) = records.next().await {
            self.check_off(&record?, &mut diff)?;
        }
        Ok(self.close(diff))
    }

    fn diff(&self) -> Diff {
        Diff { expected: self.sources.values().map(HashMap::len).sum(), ..Diff::default() }
    }

    fn check_off(&mut self, record: &Stored, diff: &mut Diff) -> Result<()> {
        diff.found += 1;
        let place = format!("{}@{}", record.entry, record.timestamp_us);
        let Some(identity) = record.identity()? else {
            diff.unexpected.push(format!("{place}, which has no identity"));
            return Ok(());
        };
        let line = self.sources.get_mut(&identity.source);
        let Some(line) = line.and_then(|lines| lines.get_mut(&(identity.offset, identity.index))) else {
            diff.unexpected.push(format!("{identity} at {place}"));
            return Ok(());
        };
        line.found += 1;
        if line.found == 1 {
            line.first_us = record.timestamp_us;
        } else {
            let later = i128::from(record.timestamp_us) - i128::from(line.first_us);
            diff.twice.push(format!("{identity} at {place}, {later} µs after the first"));
        }
        if line.sha256 != record.sha256 {
            diff.wrong_bytes.push(format!("{identity} at {place}"));
        }
        if line.dead.is_some_and(|dead| dead != record.entry.starts_with(DEAD_LETTERS)) {
            diff.misplaced.push(format!("{identity} at {place}"));
        }
        Ok(())
    }

    fn close(self, mut diff: Diff) -> Diff {
        for (source, lines) in self.sources {
            let missing = lines.into_iter().filter(|(_, line)| line.found == 0);
            diff.missing.extend(missing.map(|((offset, index), _)| {
                let source = source.clone();
                Identity { source, offset, index }.to_string()
            }));
        }
        diff.missing.sort_unstable();
        diff
    }
}

/// How what is stored differs from what must be. Each difference is text that names the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    pub expected: usize,
    pub found: usize,
    pub missing: Vec<String>,
    pub twice: Vec<String>,
    pub wrong_bytes: Vec<String>,
    /// Records that were not expected, and records without an identity.
    pub unexpected: Vec<String>,
    /// Records among the dead letters that must not be there, or the reverse.
    pub misplaced: Vec<String>,
}

impl Diff {
    fn kinds(&self) -> [(&'static str, &[String]); 5] {
        [
            ("missing", &self.missing),
            ("twice", &self.twice),
            ("with wrong bytes", &self.wrong_bytes),
            ("unexpected", &self.unexpected),
            ("misplaced", &self.misplaced),
        ]
    }

    /// How many differences there are.
    pub fn count(&self) -> usize {
        self.kinds().iter().map(|(_, records)| records.len()).sum()
    }

    pub fn is_exact(&self) -> bool {
        self.count() == 0
    }

    /// An error unless every record is there exactly once, bit for bit, where it belongs, and no other.
    pub fn exact(&self) -> Result<()> {
        ensure!(self.is_exact(), "{self}");
        Ok(())
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 10;
        if !self.is_exact() {
            write!(f, "{DIFFER}: ")?;
        }
        write!(f, "{} records expected, {} found", self.expected, self.found)?;
        for (name, records) in self.kinds() {
            write!(f, "; {} {name}", records.len())?;
            if let Some(first) = records.get(..records.len().min(NAMED)).filter(|first| !first.is_empty()) {
                write!(f, " ({}{})", first.join(", "), if records.len() > NAMED { ", …" } else { "" })?;
            }
        }
        Ok(())
    }
}
