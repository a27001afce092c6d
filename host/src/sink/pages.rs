//! Reads dead letters back from their entries.
//!
//! Guarantees: a page is read to its end before anyone works on it, so that nothing is read of an entry while it is changed.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reduct_rs::ErrorCode;

use super::item::MAX_TIMESTAMP_US;
use super::store::{READ_BYTES, Store, StoreError};
use crate::record::entry_name::EntryName;

/// How long the server keeps a query for us.
const QUERY_TTL: Duration = Duration::from_secs(600);

/// A record as it is in an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRecord {
    /// Microseconds since 1970.
    pub timestamp_us: u64,
    /// The labels.
    pub labels: HashMap<String, String>,
    /// The content type.
    pub content_type: String,
    /// The payload.
    pub payload: Bytes,
}

impl Store {
    /// The names of the bucket's entries that hold records, in order.
    pub async fn entries(&self) -> Result<Vec<EntryName>, StoreError> {
        let mut names: Vec<_> =
            self.newest().await?.into_keys().filter_map(|name| EntryName::parse(&name).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The entry's next records from a time on: as many as fit into both bounds, and at least one if there is one.
    pub async fn page(
        &self,
        entry: &EntryName,
        from_us: u64,
        most: usize,
        most_bytes: usize,
    ) -> Result<Vec<EntryRecord>, StoreError> {
        let entry = entry.to_string();
        let answer = self
            .with_bucket(READ_BYTES, move |bucket| async move {
                let query = bucket.query(&entry).start_us(from_us).stop_us(MAX_TIMESTAMP_US + 1).ttl(QUERY_TTL);
                let stream = match query.send().await {
                    // Only here: a query that is forgotten between two pages answers 404, too.
                    Err(error) if error.status == ErrorCode::NotFound => return Ok(Vec::new()),
                    answer => answer?,
                };
                futures::pin_mut!(stream);
                let (mut page, mut bytes) = (Vec::new(), 0);
                while page.len() < most && bytes < most_bytes {
                    let Some(record) = stream.next().await else { break };
                    let record = record?;
                    let (timestamp_us, labels) = (record.timestamp_us(), record.labels().clone());
                    let content_type = record.content_type().to_owned();
                    let payload = record.bytes().await?;
                    bytes += payload.len();
                    page.push(EntryRecord { timestamp_us, labels, content_type, payload });
                }
                Ok(page)
            })
            .await;
        match answer {
            Err(StoreError::NotFound(text)) => {
                Err(StoreError::Unavailable(format!("the store forgot a query: {text}")))
            }
            answer => answer,
        }
    }
}
