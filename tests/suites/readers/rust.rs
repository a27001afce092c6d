//! reduct-rs as a reader, by its protocol for one entry and by the one for several.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use reduct_rs::{Bucket, Record};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Bench;
use super::clients::{Answer, Read, hex};

/// How many questions are asked at the same time.
const AT_ONCE: usize = 8;

/// How reduct-rs asks for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    OneEntry,
    ManyEntries,
}

/// The answers to questions as `tests/readers/reader.py` describes them.
pub async fn ask(bench: &Bench, questions: &[Value], protocol: Protocol) -> Result<Vec<Answer>> {
    let bucket = bench.bed.store.client()?.get_bucket(bench.config.bucket()).await?;
    let answers = stream::iter(questions).map(|question| answer(&bucket, &bench.entry, question, protocol));
    answers.buffer_unordered(AT_ONCE).try_collect().await
}

async fn answer(bucket: &Bucket, entry: &str, question: &Value, protocol: Protocol) -> Result<Answer> {
    let id = question["id"].as_str().context("an id")?.to_owned();
    if let Some(time) = question["single"].as_u64() {
        let record = bucket.read_record(entry).timestamp_us(time).send().await.with_context(|| id.clone())?;
        return Ok(Answer { id, records: vec![read_of(record, entry).await?] });
    }
    let pattern = question["wildcard"].as_str().unwrap_or(entry);
    let mut query = match protocol {
        Protocol::OneEntry if pattern == entry => bucket.query(pattern),
        _ => bucket.query(several(pattern)),
    };
    query = query.start_us(question["range"][0].as_u64().unwrap_or(0));
    query = query.stop_us(question["range"][1].as_u64().unwrap_or(i64::MAX as u64));
    if let Some(condition) = question.get("when") {
        query = query.when(condition.clone());
    }
    let found = query.send().await.with_context(|| id.clone())?;
    futures::pin_mut!(found);
    let mut records = Vec::new();
    while let Some(record) = found.next().await {
        records.push(read_of(record.with_context(|| id.clone())?, entry).await?);
    }
    Ok(Answer { id, records })
}

/// The client doesn't tell the entry.
pub async fn read_of(record: Record, entry: &str) -> Result<Read> {
    let (time, content_type) = (record.timestamp_us(), record.content_type().to_owned());
    let labels = record.labels().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let payload = record.bytes().await?;
    Ok(Read {
        entry: entry.into(),
        time,
        labels,
        content_type,
        size: payload.len(),
        sha256: hex(&Sha256::digest(&payload)),
    })
}

/// Two patterns instead of one, so that reduct-rs uses the protocol for several entries.
pub fn several(pattern: &str) -> Vec<String> {
    vec![pattern.to_owned(), "nothing-has-this-name*".to_owned()]
}
