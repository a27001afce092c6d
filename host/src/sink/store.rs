//! The only place that talks to ReductStore: a thin layer over `reduct_rs` that keeps its traps from the rest.
//!
//! Guarantees: batches leave sorted by time and without duplicates; every answer is put into one of a few classes that
//! say what to do ([`StoreError`]); what a query answers is bounded by the caller; an entry that isn't there has no
//! records, while a query that the store has forgotten is an error.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::hash::Hasher;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use reduct_rs::{Bucket, BucketSettings, ErrorCode, QuotaType, Record, RecordBuilder, ReductError};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::attachments::OfEntry;
use super::connections::{Connection, Connections};
pub use super::error::StoreError;
use super::error::classify;
use super::intermediaries;
use super::item::MAX_TIMESTAMP_US;
use super::open_requests::OpenRequests;
use super::recent::sketch;
use super::request_times::{RequestTimes, StoreOperation};
use crate::config::{self, Quota};
use crate::flow::UnderWay;
use crate::flow::store_start::{Started, now_ms};
use crate::record::entry_name::EntryName;
use crate::record::{Identity, TopicId, TopicPartition, labels};

/// The oldest server that works. Before 1.19 entry names have no `/`; before 1.21.2 a query leaves records out where blocks of an entry
/// overlap in time, as late records make them, so that neither readers nor this host see all that is stored.
pub(super) const OLDEST: &str = "1.21.2";
/// How often the server is asked for its uptime to learn when it becomes another, and how often at most.
const QUESTION_EVERY: Duration = Duration::from_millis(40);
const MOST_QUESTIONS: usize = 30;
/// How long an answer about the bucket's quota is taken for true.
const QUOTA_FRESH: Duration = Duration::from_secs(30);
/// A request that reads payloads gets the time for this many bytes.
pub(super) const READ_BYTES: u64 = 16 << 20;

/// Questions that are asked at once.
const MOST_READS: usize = 32;

/// One record as it is to be written.
#[derive(Debug, Clone)]
pub struct Write {
    /// Microseconds since 1970.
    pub timestamp_us: u64,
    /// The labels.
    pub labels: HashMap<String, String>,
    /// The content type; the store's default if there is none.
    pub content_type: Option<String>,
    /// The payload.
    pub payload: Bytes,
}

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
    let mut hasher = super::recent::hasher();
    hasher.write(bytes);
    hasher.finish()
}

/// The bucket's quota, and when it was asked for.
type AskedQuota = (Instant, Option<u64>);

/// A bucket of a ReductStore server. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    connections: Arc<Connections>,
    pub(super) config: Arc<config::StoreConfig>,
    quota: Arc<tokio::sync::Mutex<Option<AskedQuota>>>,
    pub(super) times: Arc<RequestTimes>,
    pub(super) open: Arc<OpenRequests>,
    /// Writers with few records are many at once. What they write goes together; what they ask by themselves waits here.
    reads: Arc<Semaphore>,
}

impl Store {
    /// Prepares a client; nothing is sent yet. The address must have been validated.
    pub fn new(config: &config::StoreConfig) -> Result<Self, StoreError> {
        let connections = Arc::new(Connections::new(config)?);
        let (config, quota) = (Arc::new(config.clone()), Arc::default());
        let (times, open) = (Arc::default(), Arc::default());
        Ok(Self { connections, config, quota, times, open, reads: Arc::new(Semaphore::new(MOST_READS)) })
    }

    /// How long requests took, of all clones together.
    pub fn request_times(&self) -> &RequestTimes {
        &self.times
    }

    /// Those that wait for their answers, of all clones together.
    pub fn open_requests(&self) -> &OpenRequests {
        &self.open
    }

    pub(super) async fn read_slot(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed; without a permit the requests would only be less bounded.
        self.reads.acquire().await.ok()
    }

    /// For questions about the server itself; a request must run in a task of its own.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, StoreError> {
        self.connections.connection(0)
    }

    /// An error unless the server is new enough, and answers itself.
    pub async fn require_supported(&self) -> Result<(), StoreError> {
        if let Some(redirected) = intermediaries::redirect(&self.config).await {
            return Err(StoreError::Unsupported(redirected));
        }
        let version = self.run(|to| async move { Ok(to.client.server_info().await?.version) }).await?;
        if is_supported(&version) {
            return Ok(());
        }
        let text = format!("this is ReductStore {version}, and {OLDEST} or newer is needed; update the server");
        Err(StoreError::Unsupported(text))
    }

    /// Creates the bucket with the configured settings unless it is there; one that exists is left as it is. `true`: it
    /// was created.
    pub async fn ensure_bucket(&self) -> Result<bool, StoreError> {
        let config = Arc::clone(&self.config);
        self.run(|to| async move {
            match to.client.get_bucket(&config.bucket).await {
                Ok(_) => return Ok(false),
                Err(error) if error.status == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
            let create = &config.create;
            let (quota_type, quota_size) = match create.quota {
                None => (QuotaType::NONE, 0),
                Some(Quota::Fifo(bytes)) => (QuotaType::FIFO, bytes),
                Some(Quota::Hard(bytes)) => (QuotaType::HARD, bytes),
            };
            let settings = BucketSettings {
                quota_type: Some(quota_type),
                quota_size: Some(quota_size),
                max_block_size: Some(create.max_block_bytes),
                max_block_records: Some(create.max_block_records),
            };
            to.client.create_bucket(&config.bucket).exist_ok(true).settings(settings).send().await?;
            Ok(true)
        })
        .await
    }

    /// The largest record that the bucket's quota allows; `None`: there is no bound, or it can't be asked for.
    ///
    /// A FIFO bucket would remove all that it holds before it refused a larger one.
    pub async fn largest_record(&self) -> Option<u64> {
        let mut quota = self.quota.lock().await;
        if let Some((asked, largest)) = *quota
            && asked.elapsed() < QUOTA_FRESH
        {
            return largest;
        }
        let settings = self.with_bucket(0, |bucket| async move { bucket.settings().await }).await;
        let largest = settings.ok().and_then(|settings| match settings.quota_type {
            None | Some(QuotaType::NONE) => None,
            // What the server keeps of a record beside its bytes counts too.
            Some(_) => settings.quota_size.map(|size| size - size / 20),
        });
        *quota = Some((Instant::now(), largest));
        largest
    }

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

    /// Writes one batch; answers with the records that weren't written, by timestamp. `under_way`: of the partitions that it has records
    /// of; kept until the answer is there, also where the caller doesn't wait for it any more.
    pub async fn write(
        &self,
        entry: &EntryName,
        batch: BTreeMap<u64, Write>,
        under_way: Vec<UnderWay>,
    ) -> Result<BTreeMap<u64, StoreError>, StoreError> {
        let entry = entry.to_string();
        let bytes = batch.values().map(|write| write.payload.len() as u64).sum();
        let written = self.with_bucket(bytes, move |bucket| async move {
            let _under_way = under_way;
            let mut request = bucket.write_batch(&entry);
            for (timestamp, write) in batch {
                let record = RecordBuilder::new().timestamp_us(timestamp).labels(write.labels);
                let content_type = write.content_type.as_deref().unwrap_or("application/octet-stream");
                request.append_record(record.content_type(content_type).data(write.payload).build());
            }
            let failed = request.send().await?;
            Ok(failed.into_iter().map(|(time, error)| (time, classify(&error))).collect())
        });
        self.timed_write(bytes, written).await
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

    /// What can't be read while the server answers otherwise is unreadable.
    async fn read_one(&self, entry: &EntryName, time: u64) -> Result<Content, StoreError> {
        let name = entry.to_string();
        let read = self.with_bucket(READ_BYTES, move |bucket| {
            let request = bucket.read_record(&name).timestamp_us(time);
            async move { Ok(Content::read(&request.send().await?.bytes().await?)) }
        });
        match self.timed(StoreOperation::Read, read).await {
            Err(StoreError::Unavailable(_)) => self.started().await.map(|_| Content::Unreadable),
            // The second: it was removed since.
            Err(StoreError::Failed(_) | StoreError::NotFound(_)) => Ok(Content::Unreadable),
            answer => answer,
        }
    }

    /// When the server was started, as far as one answer tells.
    pub async fn started(&self) -> Result<Started, StoreError> {
        let asked = now_ms();
        let waiting = self.open.begin(Some(0));
        let uptime = self.run(|to| async move { Ok(to.client.server_info().await?.uptime) }).await;
        waiting.answered(&uptime);
        let uptime = uptime?;
        Ok(Started::bounds(asked, now_ms(), uptime))
    }

    /// When the server was started, as closely as its uptime tells while it goes from one second to the next.
    pub async fn started_exactly(&self) -> Result<Started, StoreError> {
        let mut known = self.started().await?;
        for _ in 0..MOST_QUESTIONS {
            if known.width() <= QUESTION_EVERY + QUESTION_EVERY {
                break;
            }
            tokio::time::sleep(QUESTION_EVERY).await;
            // A question that fails leaves what is known.
            let Ok(started) = self.started().await else { break };
            // Where they contradict each other, it was started again between two questions.
            known = known.narrow(started).unwrap_or(started);
        }
        Ok(known)
    }

    /// How many records the bucket's blocks hold at most; `None`: it doesn't say.
    pub async fn block_records(&self) -> Result<Option<u64>, StoreError> {
        self.with_bucket(0, |bucket| async move { Ok(bucket.settings().await?.max_block_records) }).await
    }

    /// The attachments of an entry; none where it isn't there.
    pub async fn attachments(&self, entry: &EntryName) -> Result<OfEntry, StoreError> {
        let _slot = self.read_slot().await;
        let name = entry.to_string();
        let read = self.with_bucket(0, move |bucket| async move { bucket.read_attachments(&name).await });
        match read.await {
            Err(StoreError::NotFound(_)) => Ok(OfEntry::new()),
            answer => answer,
        }
    }

    /// Writes attachments, each in place of the one of its key. What is refused of them isn't told.
    pub async fn write_attachments(&self, entry: &EntryName, attachments: OfEntry) -> Result<(), StoreError> {
        // Few are written: they take no slots of their own.
        let _slot = self.read_slot().await;
        let name = entry.to_string();
        let bytes = attachments.values().map(|value| value.to_string().len() as u64).sum();
        self.with_bucket(bytes, move |bucket| async move { bucket.write_attachments(&name, attachments).await }).await
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

    /// Runs a request that carries `bytes` bytes.
    pub(super) async fn with_bucket<T, F>(
        &self,
        bytes: u64,
        work: impl FnOnce(Arc<Bucket>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ReductError>> + Send + 'static,
    {
        self.connections.run(bytes, |to| async move { work(to.bucket().await?).await }).await
    }

    /// Runs a request about the server itself.
    pub(super) async fn run<T, F>(&self, work: impl FnOnce(Arc<Connection>) -> F + Send) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ReductError>> + Send + 'static,
    {
        self.connections.run(0, work).await
    }
}

pub(super) fn seen_record(record: &Record) -> QueriedRecord {
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

/// A version that can't be read is taken for a new one.
pub(super) fn is_supported(version: &str) -> bool {
    let numbers = |text: &str| -> Option<(u64, u64, u64)> {
        let mut parts = text.split(['.', '-']);
        let patch = |part: Option<&str>| part.and_then(|part| part.parse().ok()).unwrap_or(u64::MAX);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, patch(parts.next())))
    };
    numbers(version) >= numbers(OLDEST) || numbers(version).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_hide_records_are_refused() {
        for (version, supported) in [
            ("1.18.3", false),
            ("1.20.13", false),
            ("1.21.1", false),
            ("1.21.2", true),
            ("1.21.5", true),
            ("1.22.0", true),
            ("1.21", true),
            ("0.9.1", false),
        ] {
            assert_eq!(is_supported(version), supported, "{version}");
        }
        assert!(is_supported("2.0.0-beta") && is_supported("latest"));
    }
}
