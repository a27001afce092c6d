//! The only place that talks to ReductStore: a thin layer over `reduct_rs` that keeps its traps from the rest.
//!
//! Guarantees: each request runs in a task of its own, so that a caller who stops waiting doesn't cut it off in mid-body
//! (which would leave unfinished records), and a panic inside the client becomes an error; batches leave sorted by time
//! and without duplicates; every answer is put into one of a few classes that say what to do.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reduct_rs::{Bucket, BucketSettings, ErrorCode, QuotaType, Record, RecordBuilder, ReductClient, ReductError};
use thiserror::Error;
use tokio::sync::OnceCell;

use super::recent::sketch;
use crate::config::{self, Quota};
use crate::flow::store_start::{Started, now_ms};
use crate::record::Identity;
use crate::record::entry_name::EntryName;
use crate::record::labels;

/// How often the server is asked for its uptime to learn when it becomes another, and how often at most.
const QUESTION_EVERY: Duration = Duration::from_millis(40);
const MOST_QUESTIONS: usize = 30;

/// Why a request, or one record of it, wasn't carried out; the variants say what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The timestamp is taken, perhaps by this very record, perhaps by an unfinished one.
    #[error("the timestamp is taken: {0}")]
    Conflict(String),
    /// The server will never accept this; of a batch, at least one record is to blame.
    #[error("refused as invalid: {0}")]
    Invalid(String),
    /// The bucket or the entry isn't there.
    #[error("not found: {0}")]
    NotFound(String),
    /// 401 or 403: someone has to mend the token.
    #[error("the token is refused: {0}")]
    Denied(String),
    /// Away, starting, busy, full or slow: the same request may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

/// One record as it is to be written.
#[derive(Debug, Clone)]
pub struct Write {
    pub timestamp_us: u64,
    pub labels: HashMap<String, String>,
    pub content_type: Option<String>,
    pub payload: Bytes,
}

/// What takes a microsecond.
#[derive(Debug)]
pub enum TakenBy {
    Record(Seen),
    /// It can't be read, and can't be overwritten, or only by a record of its size.
    Unfinished,
    Nothing,
}

/// A finished record that a scan met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub timestamp_us: u64,
    /// `None`: it isn't one that a sink wrote.
    pub identity: Option<Identity>,
    pub size: usize,
    pub content: Content,
}

/// What a scan knows of a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Unread,
    /// Their [`checksum`] and their [`sketch`].
    Read {
        checksum: u64,
        sketch: u64,
    },
    Unreadable,
}

impl Content {
    fn read(bytes: &[u8]) -> Self {
        Self::Read { checksum: checksum(bytes), sketch: sketch(bytes) }
    }
}

/// Tells damaged bytes from whole ones; never leaves this process.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// A bucket of a ReductStore server. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    client: Arc<ReductClient>,
    config: Arc<config::Store>,
    /// Looking the bucket up costs a request, so the handle is kept.
    bucket: Arc<OnceCell<Arc<Bucket>>>,
}

impl Store {
    /// Prepares a client; nothing is sent yet. The address must have been validated.
    pub fn new(config: &config::Store) -> Result<Self, StoreError> {
        // Over TLS the client would negotiate HTTP/2, where the server caps the headers at 16 KiB: a fifth of a batch.
        let builder = ReductClient::builder().url(&config.url).timeout(config.timeout).http1_only();
        let builder = builder.api_token(config.token.as_deref().unwrap_or_default()).verify_ssl(config.verify_tls);
        let builder = match config.ca.as_ref().and_then(|path| path.to_str()) {
            Some(ca) => builder.ca_cert_path(ca),
            None => builder,
        };
        let client = builder.try_build().map_err(|error| classify(&error))?;
        Ok(Self { client: Arc::new(client), config: Arc::new(config.clone()), bucket: Arc::default() })
    }

    /// For questions about the server itself; a request must run in a task of its own.
    pub(super) fn client(&self) -> &Arc<ReductClient> {
        &self.client
    }

    /// Creates the bucket with the configured settings unless it is there; one that exists is left as it is. `true`: it
    /// was created.
    pub async fn ensure_bucket(&self) -> Result<bool, StoreError> {
        let this = self.clone();
        self.run(async move {
            match this.client.get_bucket(&this.config.bucket).await {
                Ok(_) => return Ok(false),
                Err(error) if error.status == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
            let create = &this.config.create;
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
            this.client.create_bucket(&this.config.bucket).exist_ok(true).settings(settings).send().await?;
            Ok(true)
        })
        .await
    }

    /// The newest timestamp of each entry in the bucket.
    pub async fn newest(&self) -> Result<HashMap<String, u64>, StoreError> {
        self.with_bucket(|bucket| async move {
            let entries = bucket.entries().await?;
            let held = entries.into_iter().filter(|entry| entry.record_count > 0);
            Ok(held.map(|entry| (entry.name, entry.latest_record)).collect())
        })
        .await
    }

    /// Writes one batch; answers with the records that weren't written, by timestamp.
    pub async fn write(
        &self,
        entry: &EntryName,
        batch: BTreeMap<u64, Write>,
    ) -> Result<BTreeMap<u64, StoreError>, StoreError> {
        let entry = entry.to_string();
        self.with_bucket(|bucket| async move {
            let mut request = bucket.write_batch(&entry);
            for (timestamp, write) in batch {
                let record = RecordBuilder::new().timestamp_us(timestamp).labels(write.labels).data(write.payload);
                let record = match write.content_type {
                    Some(content_type) => record.content_type(content_type),
                    None => record.content_type("application/octet-stream"),
                };
                request.append_record(record.build());
            }
            let failed = request.send().await?;
            Ok(failed.into_iter().map(|(time, error)| (time, classify(&error))).collect())
        })
        .await
    }

    /// The finished records of a range of time, in order. An entry that isn't there has none.
    pub async fn scan(&self, entry: &EntryName, range: Range<u64>) -> Result<Vec<Seen>, StoreError> {
        let entry = entry.to_string();
        let answer = self
            .with_bucket(move |bucket| async move {
                let query = bucket.query(&entry).start_us(range.start).stop_us(range.end).head_only(true);
                let stream = query.send().await?;
                futures::pin_mut!(stream);
                let mut seen = Vec::new();
                while let Some(record) = stream.next().await {
                    seen.push(seen_record(&record?));
                }
                Ok(seen)
            })
            .await;
        match answer {
            Err(StoreError::NotFound(_)) => Ok(Vec::new()),
            answer => answer,
        }
    }

    /// Like [`Self::scan`], and reads each record's bytes. The server breaks a batch off at a record that it can't read:
    /// then each is read by itself.
    pub async fn scan_whole(&self, entry: &EntryName, range: Range<u64>) -> Result<Vec<Seen>, StoreError> {
        match self.read_batches(entry, range.clone()).await {
            Err(StoreError::NotFound(_)) => Ok(Vec::new()),
            Err(StoreError::Unavailable(_)) => {
                let mut seen = self.scan(entry, range).await?;
                for one in &mut seen {
                    one.content = self.read_one(entry, one.timestamp_us).await?;
                }
                Ok(seen)
            }
            answer => answer,
        }
    }

    async fn read_batches(&self, entry: &EntryName, range: Range<u64>) -> Result<Vec<Seen>, StoreError> {
        let entry = entry.to_string();
        self.with_bucket(move |bucket| async move {
            let stream = bucket.query(&entry).start_us(range.start).stop_us(range.end).send().await?;
            futures::pin_mut!(stream);
            let mut seen = Vec::new();
            while let Some(record) = stream.next().await {
                let record = record?;
                let one = seen_record(&record);
                seen.push(Seen { content: Content::read(&record.bytes().await?), ..one });
            }
            Ok(seen)
        })
        .await
    }

    /// What can't be read while the server answers otherwise is unreadable.
    async fn read_one(&self, entry: &EntryName, time: u64) -> Result<Content, StoreError> {
        let name = entry.to_string();
        let read = self.with_bucket(move |bucket| async move {
            let record = bucket.read_record(&name).timestamp_us(time).send().await?;
            Ok(Content::read(&record.bytes().await?))
        });
        match read.await {
            Err(StoreError::Unavailable(_)) => self.started().await.map(|_| Content::Unreadable),
            // It was removed since.
            Err(StoreError::NotFound(_)) => Ok(Content::Unreadable),
            answer => answer,
        }
    }

    /// When the server was started, as far as one answer tells.
    pub async fn started(&self) -> Result<Started, StoreError> {
        let (this, asked) = (self.clone(), now_ms());
        let info = self.run(async move { this.client.server_info().await }).await?;
        Ok(Started::bounds(asked, now_ms(), info.uptime))
    }

    /// When the server was started, as closely as its uptime tells while it goes from one second to the next.
    pub async fn started_exactly(&self) -> Result<Started, StoreError> {
        let mut known = self.started().await?;
        for _ in 0..MOST_QUESTIONS {
            if known.width() <= QUESTION_EVERY + QUESTION_EVERY {
                break;
            }
            tokio::time::sleep(QUESTION_EVERY).await;
            let started = self.started().await?;
            // It was started anew between two questions.
            known = known.narrow(started).unwrap_or(started);
        }
        Ok(known)
    }

    /// How many records the bucket's blocks hold at most; `None`: it doesn't say.
    pub async fn block_records(&self) -> Result<Option<u64>, StoreError> {
        self.with_bucket(|bucket| async move { Ok(bucket.settings().await?.max_block_records) }).await
    }

    /// What takes this timestamp, asked for by itself: a query passes over what was never finished, and over a record of
    /// the same timestamp in a block behind it.
    pub async fn taken_by(&self, entry: &EntryName, time: u64) -> Result<TakenBy, StoreError> {
        let name = entry.to_string();
        self.with_bucket(move |bucket| async move {
            match bucket.read_record(&name).timestamp_us(time).head_only(true).send().await {
                Ok(record) => Ok(TakenBy::Record(seen_record(&record))),
                Err(error) if error.status == ErrorCode::TooEarly || is_broken(&error) => Ok(TakenBy::Unfinished),
                Err(error) if error.status == ErrorCode::NotFound => Ok(TakenBy::Nothing),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Removes the records at exactly these timestamps, unfinished ones included.
    pub async fn remove(&self, entry: &EntryName, times: &[u64]) -> Result<(), StoreError> {
        let entry = entry.to_string();
        let times = times.to_vec();
        self.with_bucket(|bucket| async move {
            let mut request = bucket.remove_batch(&entry);
            request.append_timestamps_us(times);
            // What isn't there any more needn't be removed; what couldn't be shows as a conflict at the next write.
            request.send().await.map(drop)
        })
        .await
    }

    pub(super) async fn with_bucket<T, F>(
        &self,
        work: impl FnOnce(Arc<Bucket>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ReductError>> + Send + 'static,
    {
        let this = self.clone();
        self.run(async move {
            let look_up = async || this.client.get_bucket(&this.config.bucket).await.map(Arc::new);
            let bucket = this.bucket.get_or_try_init(look_up).await?;
            work(Arc::clone(bucket)).await
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ReductError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        match tokio::spawn(work).await {
            Ok(answer) => answer.map_err(|error| classify(&error)),
            Err(error) => Err(StoreError::Unavailable(format!("the client failed: {error}"))),
        }
    }
}

fn seen_record(record: &Record) -> Seen {
    Seen {
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

/// Sources: the server's and the client's error codes, read and tried (`reduct-base` 1.21, `error.rs`).
fn classify(error: &ReductError) -> StoreError {
    let text = format!("{} ({})", error.message, code(error.status));
    match error.status {
        // A bucket or an entry that is being deleted answers 409 too.
        ErrorCode::Conflict if error.message.contains("being deleted") => StoreError::Unavailable(text),
        ErrorCode::Conflict => StoreError::Conflict(text),
        ErrorCode::UnprocessableEntity
        | ErrorCode::PayloadTooLarge
        | ErrorCode::RequestHeaderFieldsTooLarge
        | ErrorCode::URITooLong => StoreError::Invalid(text),
        ErrorCode::NotFound => StoreError::NotFound(text),
        ErrorCode::Unauthorized | ErrorCode::Forbidden => StoreError::Denied(text),
        // 400 is "Quota of … exceeded" or a body that stopped, 5xx and 429 are the server's state; a negative code is
        // the client's: no connection, a timeout, a keep-alive connection that was closed.
        _ => StoreError::Unavailable(text),
    }
}

fn code(status: ErrorCode) -> String {
    match status {
        ErrorCode::ConnectionError => "no connection".into(),
        ErrorCode::Timeout => "timeout".into(),
        status if (status as i16) < 0 => "client".into(),
        status => (status as i16).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classified() {
        let of = |code, text: &str| classify(&ReductError::new(code, text));
        assert!(matches!(of(ErrorCode::Conflict, "A record with timestamp 1 already exists"), StoreError::Conflict(_)));
        assert!(matches!(of(ErrorCode::Conflict, "Bucket 'b' is being deleted"), StoreError::Unavailable(_)));
        assert!(matches!(of(ErrorCode::BadRequest, "Quota of 'b' exceeded"), StoreError::Unavailable(_)));
        assert!(matches!(of(ErrorCode::UnprocessableEntity, "x"), StoreError::Invalid(_)));
        assert!(matches!(of(ErrorCode::Forbidden, "x"), StoreError::Denied(_)));
        assert!(matches!(of(ErrorCode::InsufficientStorage, "x"), StoreError::Unavailable(_)));
        assert_eq!(of(ErrorCode::ConnectionError, "x").to_string(), "x (no connection)");
    }
}
