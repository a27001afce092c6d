//! The oracle of the fault tests: what must be in ReductStore, line by line, and the audit that looks for each.
//!
//! Guarantees: shares no code with the host; every record that the bucket's queries show is looked at, its bytes
//! included, dead letters like the others; half a million lines fit into memory, because the records are read as a
//! stream.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;

use anyhow::{Result, ensure};
use futures::StreamExt;
use reduct_rs::ReductClient;
use sha2::{Digest, Sha256};

use crate::client::Produced;
use crate::verify::stored;

/// Offset, and place in a split.
type Place = (u64, Option<u32>);

#[derive(Debug)]
struct Line {
    sha256: [u8; 32],
    /// It belongs into the dead letters.
    dead: bool,
    found: u32,
    /// Where it was found first, in microseconds.
    first_us: u64,
}

/// What must be in ReductStore, by `topic/partition`.
#[derive(Debug, Default)]
pub struct Ledger {
    sources: HashMap<String, HashMap<Place, Line>>,
}

impl Ledger {
    /// Each record as it was acknowledged, once.
    pub fn of(produced: &[Produced]) -> Self {
        let mut ledger = Self::default();
        produced.iter().for_each(|record| ledger.expect(record));
        ledger
    }

    pub fn expect(&mut self, record: &Produced) {
        self.enter(record, None, record.sha256, false);
    }

    /// The record must be in the dead letters instead.
    pub fn expect_dead(&mut self, record: &Produced) {
        self.enter(record, None, record.sha256, true);
    }

    /// The record must be there as these parts.
    pub fn expect_parts<'a>(&mut self, record: &Produced, parts: impl IntoIterator<Item = &'a [u8]>) {
        for (index, part) in parts.into_iter().enumerate() {
            self.enter(record, Some(index as u32), Sha256::digest(part).into(), false);
        }
    }

    fn enter(&mut self, record: &Produced, index: Option<u32>, sha256: [u8; 32], dead: bool) {
        let source = format!("{}/{}", record.topic, record.partition);
        let lines = self.sources.entry(source).or_default();
        lines.insert((record.offset, index), Line { sha256, dead, found: 0, first_us: 0 });
    }

    /// Reads the whole bucket and ticks off what is there. `dead_letters`: the prefix of their entries.
    pub async fn audit(mut self, client: &ReductClient, bucket: &str, dead_letters: &str) -> Result<Tally> {
        let mut tally = Tally { expected: self.sources.values().map(HashMap::len).sum(), ..Tally::default() };
        let bucket = client.get_bucket(bucket).await?;
        let mut records = pin!(stored(&bucket, "*").await?);
        while let Some(record) = records.next().await {
            let record = record?;
            let at = format!("{}@{}", record.entry, record.timestamp_us);
            tally.found += 1;
            let place = place(record.label("kafka.offset"), record.label("kafka.index"));
            let source = record.label("kafka.source");
            let line = source.zip(place).and_then(|(source, place)| self.sources.get_mut(source)?.get_mut(&place));
            let Some(line) = line else {
                tally.unexpected.push(at);
                continue;
            };
            line.found += 1;
            if line.found == 1 {
                line.first_us = record.timestamp_us;
            } else {
                let behind = record.timestamp_us.wrapping_sub(line.first_us);
                tally.twice.push(format!("{at}, {behind} µs behind the one before"));
            }
            // The loads have neither keys nor headers, so nothing belongs behind the payload.
            let is_longer = record.behind_payload.as_ref().is_some_and(|behind| !behind.is_empty());
            if line.sha256 != record.sha256 || is_longer {
                tally.wrong_bytes.push(at.clone());
            }
            if line.dead != record.entry.starts_with(dead_letters) {
                tally.misplaced.push(at);
            }
        }
        for (source, lines) in self.sources {
            for ((offset, index), line) in lines {
                let name = || index.map_or(format!("{source}@{offset}"), |index| format!("{source}@{offset}#{index}"));
                if line.found == 0 {
                    tally.missing.push(name());
                }
            }
        }
        Ok(tally)
    }
}

fn place(offset: Option<&str>, index: Option<&str>) -> Option<Place> {
    let index = match index {
        Some(index) => Some(index.parse().ok()?),
        None => None,
    };
    Some((offset?.parse().ok()?, index))
}

/// What an audit found.
#[derive(Debug, Default)]
pub struct Tally {
    pub expected: usize,
    pub found: usize,
    pub missing: Vec<String>,
    pub twice: Vec<String>,
    pub wrong_bytes: Vec<String>,
    /// Records that no line of the ledger speaks of.
    pub unexpected: Vec<String>,
    /// Among the dead letters, or not, against what the ledger says.
    pub misplaced: Vec<String>,
}

impl Tally {
    fn faults(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("missing", &self.missing),
            ("twice", &self.twice),
            ("with wrong bytes", &self.wrong_bytes),
            ("unexpected", &self.unexpected),
            ("misplaced", &self.misplaced),
        ]
    }

    /// An error unless every record is there exactly once, bit for bit, where it belongs, and no other.
    pub fn exact(&self) -> Result<()> {
        ensure!(self.faults().iter().all(|(_, fault)| fault.is_empty()), "{self}");
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records expected, {} found", self.expected, self.found)?;
        for (name, fault) in self.faults() {
            write!(f, "; {} {name}", fault.len())?;
            if !fault.is_empty() {
                let mut first: Vec<&str> = fault.iter().map(String::as_str).collect();
                first.sort_unstable();
                first.truncate(10);
                write!(f, " ({}{})", first.join(", "), if fault.len() > 10 { ", …" } else { "" })?;
            }
        }
        Ok(())
    }
}
