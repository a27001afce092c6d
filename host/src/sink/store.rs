//! The only place that talks to ReductStore: a thin layer over `reduct_rs` that keeps its traps from the rest.
//!
//! Guarantees: batches leave sorted by time and without duplicates; every answer is put into one of a few classes that
//! say what to do ([`StoreError`]).

mod reading;
mod server;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use reduct_rs::{Bucket, RecordBuilder, ReductError};
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::reading::{Claim, Content, Occupant, Page, QueriedRecord, checksum};
pub(super) use self::reading::{READ_BYTES, seen_record};
pub(super) use self::server::{OLDEST, is_supported};
use super::attachments::OfEntry;
use super::connections::{Connection, Connections};
pub use super::error::StoreError;
use super::error::classify;
use super::open_requests::OpenRequests;
use super::request_times::RequestTimes;
use crate::config;
use crate::flow::UnderWay;
use crate::record::entry_name::EntryName;

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

    /// Writes one batch; answers with the records that weren't written, by timestamp. `under_way`: of the partitions that it has records
    /// of; kept until the answer is there, also where the caller doesn't wait for it any more.
    pub async fn write(
        &self,
        entry: &EntryName,
        batch: Vec<Write>,
        under_way: Vec<UnderWay>,
    ) -> Result<BTreeMap<u64, StoreError>, StoreError> {
        let entry = entry.to_string();
        let bytes = batch.iter().map(|write| write.payload.len() as u64).sum();
        let written = self.with_bucket(bytes, move |bucket| async move {
            let _under_way = under_way;
            let mut request = bucket.write_batch(&entry);
            for write in batch {
                let record = RecordBuilder::new().timestamp_us(write.timestamp_us).labels(write.labels);
                let content_type = write.content_type.as_deref().unwrap_or("application/octet-stream");
                request.append_record(record.content_type(content_type).data(write.payload).build());
            }
            let failed = request.send().await?;
            Ok(failed.into_iter().map(|(time, error)| (time, classify(&error))).collect())
        });
        self.timed_write(bytes, written).await
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
