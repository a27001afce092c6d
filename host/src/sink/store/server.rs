//! What the store tells of its server, and of its bucket as a whole.
//!
//! Guarantees: a server that hides records from its readers is refused; a bucket that exists is left as it is; when the server
//! was started is told as bounds, by this machine's clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reduct_rs::{BucketSettings, ErrorCode, QuotaType};

use super::super::intermediaries;
use super::{Store, StoreError};
use crate::config::Quota;
use crate::flow::store_start::{Started, now_ms};

/// The oldest server that works. Before 1.19 entry names have no `/`; before 1.21.2 a query leaves records out where blocks of an entry
/// overlap in time, as late records make them, so that neither readers nor this host see all that is stored.
pub(in crate::sink) const OLDEST: &str = "1.21.2";
/// What a bucket has whose settings don't say how many records a block holds.
const SERVERS_BLOCK_RECORDS: u64 = 1024;
/// How often the server is asked for its uptime to learn when it becomes another, and how often at most.
const QUESTION_EVERY: Duration = Duration::from_millis(40);
const MOST_QUESTIONS: usize = 30;
/// How long an answer about the bucket's quota is taken for true.
const QUOTA_FRESH: Duration = Duration::from_secs(30);

impl Store {
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

    /// How many records a block of the bucket holds at most.
    pub async fn block_records(&self) -> Result<u64, StoreError> {
        let settings = self.with_bucket(0, |bucket| async move { bucket.settings().await }).await?;
        Ok(settings.max_block_records.unwrap_or(SERVERS_BLOCK_RECORDS))
    }
}

/// A version that can't be read is taken for a new one.
pub(in crate::sink) fn is_supported(version: &str) -> bool {
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
