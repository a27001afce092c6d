//! What ReductStore holds, read back over its public API and compared with what Kafka acknowledged.
//!
//! Guarantees: shares no code with the host; every record that a query shows is looked at, its bytes included; each
//! difference is named by topic, partition, offset and place in a split.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::stream::{self, Stream};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use reduct_rs::{Bucket, Record, ReductClient};
use sha2::{Digest, Sha256};

use crate::client::Produced;

/// Who a record is, as the host's labels `kafka.source`, `kafka.offset` and `kafka.index` say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// `topic/partition`.
    pub source: String,
    pub offset: u64,
    pub index: Option<u32>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.source, self.offset)?;
        self.index.map_or(Ok(()), |index| write!(f, "#{index}"))
    }
}

/// A record as ReductStore holds it; of its payload the size and the digest.
///
/// A dead letter may hold the key and headers behind the payload, from where its label `sink.headers-at` says: that part
/// is apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub entry: String,
    pub timestamp_us: u64,
    pub labels: BTreeMap<String, String>,
    pub content_type: String,
    pub size: usize,
    pub sha256: [u8; 32],
    pub behind_payload: Option<Bytes>,
}

impl Stored {
    /// `None` where the labels are missing; an error where they can't be right.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let (Some(source), Some(offset)) = (self.labels.get("kafka.source"), self.labels.get("kafka.offset")) else {
            return Ok(None);
        };
        let index = self.labels.get("kafka.index").map(|index| index.parse()).transpose()?;
        Ok(Some(Identity { source: source.clone(), offset: offset.parse()?, index }))
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// How many entries are read at once: the server sends what a query found in parts of some 85 records, each of which takes
/// over 60 ms though both sides are idle, so that one query alone reads about 1,300 small records a second.
const AT_ONCE: usize = 16;

/// All finished records of the bucket's entries that match: a name, a prefix with `/*` behind it, or `*` for all. In the
/// order of entries and timestamps.
pub async fn read_back(client: &ReductClient, bucket: &str, pattern: &str) -> Result<Vec<Stored>> {
    let bucket = client.get_bucket(bucket).await?;
    let mut records: Vec<Stored> = stored(&bucket, pattern).await?.try_collect().await?;
    records.sort_by(|one, other| (&one.entry, one.timestamp_us).cmp(&(&other.entry, other.timestamp_us)));
    Ok(records)
}

/// The same as a stream, in the order of timestamps within an entry only.
pub(crate) async fn stored<'a>(
    bucket: &'a Bucket,
    pattern: &str,
) -> Result<impl Stream<Item = Result<Stored>> + use<'a>> {
    let mut entries: Vec<String> = bucket.entries().await?.into_iter().map(|entry| entry.name).collect();
    entries.retain(|entry| matches(pattern, entry));
    let each = move |entry| entry_of(bucket, entry).try_flatten_stream().boxed();
    Ok(stream::iter(entries).flat_map_unordered(AT_ONCE, each))
}

async fn entry_of(bucket: &Bucket, entry: String) -> Result<impl Stream<Item = Result<Stored>>> {
    // Start and stop are said: by default the server takes them, like the number of records, from what it last knew of
    // the entry, and while the entry is written to that may be long ago.
    let query = bucket.query(&*entry).start_us(0).stop_us(i64::MAX as u64).send().await;
    let query = query.with_context(|| format!("can't query {entry}"))?;
    Ok(query.then(move |record| {
        let entry = entry.clone();
        async move { record_of(record.with_context(|| format!("can't read {entry}"))?, entry).await }
    }))
}

async fn record_of(record: Record, entry: String) -> Result<Stored> {
    let timestamp_us = record.timestamp_us();
    let labels: BTreeMap<_, _> = record.labels().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let (content_type, length) = (record.content_type().to_owned(), record.content_length());
    let mut payload = record.bytes().await?;
    ensure!(payload.len() == length, "{entry}@{timestamp_us}: {length} bytes said, {} sent", payload.len());
    let behind_payload = match labels.get("sink.headers-at") {
        Some(at) => Some(payload.split_off(at.parse()?)),
        None => None,
    };
    let (size, sha256) = (payload.len(), Sha256::digest(&payload).into());
    Ok(Stored { entry, timestamp_us, labels, content_type, size, sha256, behind_payload })
}

fn matches(pattern: &str, entry: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => entry.starts_with(prefix),
        None => entry == pattern,
    }
}

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

/// How what is there differs from what must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub expected: usize,
    pub found: usize,
    pub missing: Vec<Identity>,
    pub twice: Vec<Identity>,
    pub wrong_bytes: Vec<Identity>,
    /// Records with an identity that nobody expected.
    pub unexpected: Vec<Identity>,
    /// Entry and timestamp of records without an identity.
    pub anonymous: Vec<(String, u64)>,
}

impl Report {
    pub fn is_exact(&self) -> bool {
        let faults = [&self.missing, &self.twice, &self.wrong_bytes, &self.unexpected];
        faults.iter().all(|fault| fault.is_empty()) && self.anonymous.is_empty()
    }

    /// The report as an error unless every record is there exactly once, bit for bit, and no other.
    pub fn exact(self) -> Result<Self> {
        ensure!(self.is_exact(), "{self}");
        Ok(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records expected, {} found", self.expected, self.found)?;
        let faults = [
            ("missing", &self.missing),
            ("twice", &self.twice),
            ("with wrong bytes", &self.wrong_bytes),
            ("unexpected", &self.unexpected),
        ];
        for (name, fault) in faults {
            write!(f, "; {} {name}", fault.len())?;
            if !fault.is_empty() {
                let first: Vec<String> = fault.iter().take(10).map(ToString::to_string).collect();
                write!(f, " ({}{})", first.join(", "), if fault.len() > 10 { ", …" } else { "" })?;
            }
        }
        write!(f, "; {} without an identity", self.anonymous.len())
    }
}

/// Compares what must be in ReductStore with what is.
pub fn compare<E: Into<Expected>>(expected: impl IntoIterator<Item = E>, stored: &[Stored]) -> Result<Report> {
    let expected: BTreeMap<Identity, [u8; 32]> =
        expected.into_iter().map(Into::into).map(|e| (e.identity, e.sha256)).collect();
    let mut report = Report { expected: expected.len(), found: stored.len(), ..Report::default() };
    let mut seen = BTreeSet::new();
    for record in stored {
        let Some(identity) = record.identity()? else {
            report.anonymous.push((record.entry.clone(), record.timestamp_us));
            continue;
        };
        match expected.get(&identity) {
            None => report.unexpected.push(identity.clone()),
            Some(sha256) if *sha256 != record.sha256 => report.wrong_bytes.push(identity.clone()),
            Some(_) => (),
        }
        if !seen.insert(identity.clone()) {
            report.twice.push(identity);
        }
    }
    report.missing = expected.into_keys().filter(|identity| !seen.contains(identity)).collect();
    Ok(report)
}
