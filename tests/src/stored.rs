//! Reads back what ReductStore holds, over its public API.
//!
//! Guarantees: shares no code with the host; every record that a query returns is read, including its payload.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::stream::{self, Stream};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use reduct_rs::{Bucket, Record, ReductClient};
use sha2::{Digest, Sha256};

/// Which Kafka record a stored record was made of: the labels `kafka.source`, `kafka.offset` and `kafka.index`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// `topic/partition`.
    pub source: String,
    pub offset: u64,
    /// The position among the parts of a split record.
    pub index: Option<u32>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.source, self.offset)?;
        self.index.map_or(Ok(()), |index| write!(f, "#{index}"))
    }
}

/// `topic/partition` of a text that is `topic/partition@topic-id` where Kafka has ids.
pub fn source_of(label: &str) -> &str {
    label.split_once('@').map_or(label, |(source, _)| source)
}

/// A record as ReductStore holds it. Of its payload only the size and the digest are kept.
///
/// A dead letter can hold the key and the headers after the payload, from the byte that its label `sink.headers-at`
/// names. That part is kept in `behind_payload` and does not count as payload.
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
    /// `None` if the record has no such labels; an error if their values are no numbers.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let (Some(source), Some(offset)) = (self.source(), self.labels.get("kafka.offset")) else {
            return Ok(None);
        };
        let index = self.labels.get("kafka.index").map(|index| index.parse()).transpose()?;
        Ok(Some(Identity { source: source.to_owned(), offset: offset.parse()?, index }))
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// `topic/partition`, as the label `kafka.source` has it.
    pub fn source(&self) -> Option<&str> {
        self.label("kafka.source").map(source_of)
    }
}

/// How many entries are read at the same time. The server answers a query in parts of about 85 records, and each part
/// takes more than 60 ms even if both sides are idle, so that one query alone reads about 1,300 small records a second.
const AT_ONCE: usize = 16;

/// All finished records of the entries that match `pattern`, ordered by entry and timestamp. The pattern is an entry's
/// name, or a prefix followed by `*`.
pub async fn read_back(client: &ReductClient, bucket: &str, pattern: &str) -> Result<Vec<Stored>> {
    let bucket = client.get_bucket(bucket).await?;
    let mut records: Vec<Stored> = stored(&bucket, pattern).await?.try_collect().await?;
    records.sort_by(|one, other| (&one.entry, one.timestamp_us).cmp(&(&other.entry, other.timestamp_us)));
    Ok(records)
}

/// All finished records of the entries that match the pattern, as a stream. Records of one entry come in the order of
/// their timestamps; entries are read at the same time.
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
    // The query names its start and stop. By default the server takes both from its last summary of the entry, which
    // can be old while the entry is being written.
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
    ensure!(payload.len() == length, "{entry}@{timestamp_us}: {length} bytes announced, {} sent", payload.len());
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
