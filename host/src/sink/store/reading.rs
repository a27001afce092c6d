//! What the store shows of the records that entries hold.
//!
//! Guarantees: what a query answers is bounded by the caller, and a page says up to which time it is complete; an entry that
//! isn't there has no records, while a query that the store has forgotten is an error; a record that can't be read is told
//! from one that isn't there.

use std::collections::HashMap;
use std::hash::Hasher;
use std::ops::{Range, RangeInclusive};

use futures::StreamExt;
use reduct_rs::{ErrorCode, Record, ReductError};
use serde_json::json;

use super::super::item::MAX_TIMESTAMP_US;
use super::super::recent::{hasher, sketch};
use super::super::request_times::StoreOperation;
use super::{Store, StoreError};
use crate::record::entry_name::EntryName;
use crate::record::{Identity, TopicId, TopicPartition, labels};

/// A request that reads payloads gets the time for this many bytes.
pub(in crate::sink) const READ_BYTES: u64 = 16 << 20;

/// What stands at a microsecond.
#[derive(Debug)]
pub enum Occupant {
    /// This record.
    Record(QueriedRecord),
    /// It can't be read, and can't be overwritten, or only by a record of its size.
    Unfinished,
    /// No record.
    Nothing,
}

/// A finished record that a query showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueriedRecord {
    /// Microseconds since 1970.
    pub timestamp_us: u64,
    /// `None`: it isn't one that a sink wrote.
    pub identity: Option<Identity>,
    /// The payload's size in bytes.
    pub size: usize,
    /// What is known of the payload.
    pub content: Content,
}

/// What is known of a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The payload wasn't asked for.
    Unread,
    /// Their [`checksum`] and their [`sketch`].
    Read {
        /// A hash of all bytes.
        checksum: u64,
        /// A hash of their number and of samples.
        sketch: u64,
    },
    /// The store can't give the payload.
    Unreadable,
}

impl Content {
    fn read(bytes: &[u8]) -> Self {
        Self::Read { checksum: checksum(bytes), sketch: sketch(bytes) }
    }
}

/// The records of a range of time, in order, as far as they were asked for.
#[derive(Debug)]
pub struct Page {
    /// The finished records.
    pub seen: Vec<QueriedRecord>,
    /// Up to here these are all that there are.
    pub until: u64,
}

/// Records of one partition that are said to be in the entry.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The partition that the records come from.
    pub source: TopicPartition,
    /// The topic's id, if the broker gives ids.
    pub topic_id: Option<TopicId>,
    /// The records' offsets.
    pub offsets: RangeInclusive<u64>,
    /// The times between which they lie, in microseconds since 1970.
    pub times: Range<u64>,
    /// How many records there must be.
    pub records: usize,
}

/// A hash of all bytes with this process's own seed: it tells damaged bytes from whole ones, and must not leave the process.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = hasher();
    hasher.write(bytes);
    hasher.finish()
}

impl Store {
    /// The newest timestamp of each entry in the bucket.
    pub async fn newest(&self) -> Result<HashMap<String, u64>, StoreError> {
        Ok(self.held().await?.into_iter().map(|(entry, newest, _)| (entry, newest)).collect())
    }

    /// How many records each entry in the bucket has, unfinished ones included.
    pub async fn record_counts(&self) -> Result<HashMap<String, u64>, StoreError> {
        Ok(self.held().await?.into_iter().map(|(entry, _, records)| (entry, records)).collect())
    }

    /// The entries that have records: their names, newest timestamps, and how many records they have.
    async fn held(&self) -> Result<Vec<(String, u64, u64)>, StoreError> {
        self.with_bucket(0, |bucket| async move {
            let entries = bucket.entries().await?;
            let held = entries.into_iter().filter(|entry| entry.record_count > 0);
            Ok(held.map(|entry| (entry.name, entry.latest_record, entry.record_count)).collect())
        })
        .await
    }

    /// The newest timestamp of an entry, unfinished records included; `None`: it isn't there, or is empty.
    pub async fn newest_of(&self, entry: &EntryName) -> Result<Option<u64>, StoreError> {
        const END: u64 = MAX_TIMESTAMP_US + 1;
        let name = entry.to_string();
        let latest = self.with_bucket(0, move |bucket| {
            let request = bucket.read_record(&name).head_only(true);
            async move {
                match request.send().await {
                    Ok(record) => Ok(Some(record.timestamp_us())),
                    // It can't be read, so the answer doesn't tell its time.
                    Err(error) if error.status == ErrorCode::TooEarly || is_broken(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        // A new entry isn't a failure.
        let latest = async {
            match latest.await {
                Err(StoreError::NotFound(_)) => Ok(None),
                answer => answer.map(Some),
            }
        };
        let told = match self.timed(StoreOperation::Read, latest).await? {
            // After a kill the server can name a newest record that it has lost, and has the others (trap 22).
            None if self.heads(entry, 0..END, 1).await?.seen.is_empty() => return Ok(None),
            Some(Some(time)) => Some(time),
            None | Some(None) => self.newest().await?.get(entry.as_str()).copied(),
        };
        // What the server tells of an entry lags behind while it is written; a query with bounds doesn't.
        let (mut newest, mut from) = (told, told.map_or(0, |time| time.saturating_add(1)));
        while from < END {
            let page = self.heads(entry, from..END, 1_000).await?;
            newest = page.seen.last().map(|seen| seen.timestamp_us).or(newest);
            from = page.until;
        }
        Ok(newest)
    }

    /// The finished records of a range of time, `most` of them at most, without their bytes.
    pub async fn heads(&self, entry: &EntryName, range: Range<u64>, most: usize) -> Result<Page, StoreError> {
        self.query(entry, range, most, false).await
    }

    /// Like [`Self::heads`], and reads each record's bytes. The server breaks a query off at a record that it can't read:
    /// then each is read by itself.
    pub async fn records(&self, entry: &EntryName, range: Range<u64>, most: usize) -> Result<Page, StoreError> {
        match self.query(entry, range.clone(), most, true).await {
            Err(StoreError::Unavailable(_) | StoreError::Failed(_)) => {
                let mut page = self.heads(entry, range, most).await?;
                for one in &mut page.seen {
                    one.content = self.read_one(entry, one.timestamp_us).await?;
                }
                Ok(page)
            }
            answer => answer,
        }
    }

    async fn query(
        &self,
        entry: &EntryName,
        range: Range<u64>,
        most: usize,
        with_bytes: bool,
    ) -> Result<Page, StoreError> {
        let (name, until) = (entry.to_string(), range.end);
        let answer = self.with_bucket(if with_bytes { READ_BYTES } else { 0 }, move |bucket| {
            let query = bucket.query(&name).start_us(range.start).stop_us(range.end);
            let query = query.when(json!({ "$limit": most })).head_only(!with_bytes);
            async move {
                let stream = match query.send().await {
                    // Only here: a query that is forgotten between two pages answers 404, too.
                    Err(error) if error.status == ErrorCode::NotFound => return Ok(Vec::new()),
                    answer => answer?,
                };
                futures::pin_mut!(stream);
                let mut seen = Vec::new();
                while let Some(record) = stream.next().await {
                    let record = record?;
                    let one = seen_record(&record);
                    let content = if with_bytes { Content::read(&record.bytes().await?) } else { Content::Unread };
                    seen.push(QueriedRecord { content, ..one });
                }
                Ok(seen)
            }
        });
        let seen = match self.timed(StoreOperation::Query, answer).await {
            Err(StoreError::NotFound(text)) => {
                return Err(StoreError::Unavailable(format!("the store forgot a query: {text}")));
            }
            answer => answer?,
        };
        let until = match seen.last() {
            Some(last) if seen.len() >= most => last.timestamp_us.saturating_add(1),
            _ => until,
        };
        Ok(Page { seen, until })
    }

    /// Counts the claimed records in the store: the last of them if a query shows them all.
    ///
    /// A query with `$each_n` shows one of `n` records that fulfil what stands before it: this one costs a quarter of
    /// reading their heads.
    pub async fn last_of(&self, entry: &EntryName, claim: &Claim) -> Result<Option<QueriedRecord>, StoreError> {
        let (name, times) = (entry.to_string(), claim.times.clone());
        let label = |name: &str| format!("&{name}");
        // What doesn't fulfil the conditions before it isn't counted by the last one.
        let conditions = [
            json!({ "$gte": [label(labels::OFFSET), claim.offsets.start()] }),
            json!({ "$lte": [label(labels::OFFSET), claim.offsets.end()] }),
            json!({ "$eq": [label(labels::SOURCE), labels::source_text(&claim.source, claim.topic_id)] }),
            json!({ "$each_n": claim.records }),
        ];
        let when = json!({ "$and": conditions });
        let answer = self.with_bucket(0, move |bucket| {
            let query = bucket.query(&name).start_us(times.start).stop_us(times.end);
            let query = query.when(when).head_only(true);
            async move {
                let stream = query.send().await?;
                futures::pin_mut!(stream);
                let mut shown = None;
                while let Some(record) = stream.next().await {
                    shown = Some(seen_record(&record?));
                }
                Ok(shown)
            }
        });
        match self.timed(StoreOperation::Query, answer).await {
            Err(StoreError::NotFound(_) | StoreError::Invalid(_)) => Ok(None),
            answer => answer,
        }
    }

    /// What can't be read while the server answers otherwise is unreadable. It is asked by a query: of a timestamp that two blocks have, a
    /// query shows the record that others see, which is damaged if the block came back after the server had given it up (trap 27).
    async fn read_one(&self, entry: &EntryName, time: u64) -> Result<Content, StoreError> {
        match self.query(entry, time..time.saturating_add(1), 1, true).await {
            // `None`: it was removed since.
            Ok(page) => Ok(page.seen.first().map_or(Content::Unreadable, |seen| seen.content)),
            Err(StoreError::Unavailable(_)) => self.started().await.map(|_| Content::Unreadable),
            Err(StoreError::Failed(_)) => Ok(Content::Unreadable),
            Err(error) => Err(error),
        }
    }

    /// What stands at this timestamp, asked for by itself: a query passes over what was never finished, and over a
    /// record of the same timestamp in a block behind it.
    pub async fn occupant(&self, entry: &EntryName, time: u64) -> Result<Occupant, StoreError> {
        let name = entry.to_string();
        let read = self.with_bucket(0, move |bucket| {
            let request = bucket.read_record(&name).timestamp_us(time).head_only(true);
            async move {
                match request.send().await {
                    Ok(record) => Ok(Occupant::Record(seen_record(&record))),
                    Err(error) if error.status == ErrorCode::TooEarly || is_broken(&error) => Ok(Occupant::Unfinished),
                    Err(error) if error.status == ErrorCode::NotFound => Ok(Occupant::Nothing),
                    Err(error) => Err(error),
                }
            }
        });
        self.timed(StoreOperation::Read, read).await
    }
}

pub(in crate::sink) fn seen_record(record: &Record) -> QueriedRecord {
    QueriedRecord {
        timestamp_us: record.timestamp_us(),
        identity: labels::read_identity(record.labels()),
        size: record.content_length(),
        content: Content::Unread,
    }
}

/// What was cut off in a record of 512 KiB or more. Source: the server's `read_record.rs`, tried with 1.21.5.
fn is_broken(error: &ReductError) -> bool {
    error.status == ErrorCode::InternalServerError && error.message.ends_with("is broken")
}
