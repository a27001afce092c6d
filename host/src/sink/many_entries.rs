//! Requests that concern several entries.
//!
//! Guarantees: records of one entry are written in one request only if they have the same label names, because the client
//! sends whole label sets where the protocol takes changes to those before; the answers are put into the same classes as
//! those about one entry; what a query answers is bounded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use reduct_rs::RecordBuilder;
use serde_json::json;

use super::error::{StoreError, classify};
use super::parts::JointQuestion;
use super::request_times::StoreOperation;
use super::store::{QueriedRecord, Store, Write, seen_record};
use crate::record::entry_name::EntryName;
use crate::record::labels;

/// How long the server keeps a query that is read at once.
const QUERY_KEPT: Duration = Duration::from_secs(5);

impl Store {
    /// Writes batches of several entries with one request; answers with the records that weren't written, by entry and
    /// timestamp. The records of a batch have the same label names.
    pub(super) async fn write_entries<'a>(
        &self,
        batches: impl Iterator<Item = (&'a EntryName, Vec<Write>)>,
    ) -> Result<HashMap<String, BTreeMap<u64, StoreError>>, StoreError> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (entry, batch) in batches {
            for write in batch {
                bytes += write.payload.len() as u64;
                let record = RecordBuilder::new().entry(entry.as_str()).timestamp_us(write.timestamp_us);
                let content_type = write.content_type.as_deref().unwrap_or("application/octet-stream");
                let record = record.labels(write.labels).content_type(content_type);
                records.push(record.data(write.payload).build());
            }
        }
        let written = self.with_bucket(bytes, move |bucket| async move {
            let mut request = bucket.write_record_batch();
            request.append_records(records);
            request.send().await
        });
        let mut failed: HashMap<String, BTreeMap<u64, StoreError>> = HashMap::new();
        for ((entry, time), error) in self.timed_write(bytes, written).await? {
            failed.entry(entry).or_default().insert(time, classify(&error));
        }
        Ok(failed)
    }

    /// The heads of a partition's records in several entries; `None`: there are more than were expected, or an entry is
    /// gone.
    pub(super) async fn shown_in_entries(
        &self,
        question: JointQuestion,
    ) -> Result<Option<Vec<QueriedRecord>>, StoreError> {
        let JointQuestion { entries, state, times, offsets, records } = question;
        let most = 2 * records + entries.len();
        let label = |name: &str| format!("&{name}");
        let conditions = [
            json!({ "$gte": [label(labels::OFFSET), offsets.start()] }),
            json!({ "$lte": [label(labels::OFFSET), offsets.end()] }),
            json!({ "$eq": [label(labels::SOURCE), labels::source_text(&state.source, state.topic_id())] }),
        ];
        let when = json!({ "$and": conditions });
        let names: Vec<String> = entries.iter().map(EntryName::to_string).collect();
        let answer = self.with_bucket(0, move |bucket| {
            let query = bucket.query(names).start_us(times.start).stop_us(times.end).ttl(QUERY_KEPT);
            let query = query.when(when).head_only(true);
            async move {
                let stream = query.send().await?;
                futures::pin_mut!(stream);
                let mut seen = Vec::new();
                while let Some(record) = stream.next().await {
                    seen.push(seen_record(&record?));
                    if seen.len() > most {
                        return Ok(None);
                    }
                }
                Ok(Some(seen))
            }
        });
        match self.timed(StoreOperation::Query, answer).await {
            Err(StoreError::NotFound(_) | StoreError::Invalid(_)) => Ok(None),
            answer => answer,
        }
    }

    /// The names of all entries, also of those that hold nothing.
    pub(super) async fn names(&self) -> Result<HashSet<String>, StoreError> {
        self.with_bucket(0, |bucket| async move {
            Ok(bucket.entries().await?.into_iter().map(|entry| entry.name).collect())
        })
        .await
    }
}
