//! Opening the store: a store that is away is waited for, one that refuses is an error at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::RunError;
use crate::config::Config;
use crate::restarts::Restarts;
use crate::sink::Sink;
use crate::sink::backoff::Backoff;
use crate::sink::store::{Store, StoreError};

/// How long a store that can't be reached is waited for at the start.
const STORE_PATIENCE: Duration = Duration::from_secs(60);
/// The server's default for the records of a block.
const SERVERS_BLOCK_RECORDS: u64 = 1024;

/// Makes sure that the bucket is there.
pub(super) fn open_store(
    config: &Config,
    tokio: &tokio::runtime::Runtime,
    stop: &AtomicBool,
) -> Result<Store, RunError> {
    let wrong = |error, remedy| RunError::Store {
        url: config.store.url.clone(),
        bucket: config.store.bucket.clone(),
        error,
        remedy,
    };
    let store = Store::new(&config.store).map_err(|error| wrong(error, "check store.url and store.tls"))?;
    if config.store.discard {
        warn!("store.discard is set: nothing will be written");
        return Ok(store);
    }
    let (started, mut backoff) = (Instant::now(), Backoff::default());
    loop {
        match tokio.block_on(store.ensure_bucket()) {
            Ok(created) => {
                info!(url = config.store.url, bucket = config.store.bucket, created, "ReductStore is ready");
                return Ok(store);
            }
            Err(error @ StoreError::Denied(_)) => {
                return Err(wrong(
                    error,
                    "check store.token: it needs read and write access, and full access to create",
                ));
            }
            Err(error @ StoreError::Invalid(_)) => return Err(wrong(error, "check store.bucket and store.create")),
            Err(error) if started.elapsed() > STORE_PATIENCE || stop.load(Ordering::SeqCst) => {
                return Err(wrong(error, "check store.url and that the server runs"));
            }
            Err(error) => {
                warn!(url = config.store.url, %error, "ReductStore isn't ready; waiting for it");
                std::thread::sleep(backoff.wait());
            }
        }
    }
}

/// What the store says of its start and its blocks; two of them may be lost in a crash.
pub(super) fn known_start(config: &Config, tokio: &tokio::runtime::Runtime, store: &Store, sink: &Sink) -> Restarts {
    if config.store.discard {
        return Restarts::new(None, 0);
    }
    let (start, records) = tokio.block_on(async { (store.started_exactly().await, store.block_records().await) });
    let records = records.ok().flatten().unwrap_or(SERVERS_BLOCK_RECORDS);
    let at_risk = records.saturating_mul(2);
    sink.remember(usize::try_from(at_risk).unwrap_or(usize::MAX));
    Restarts::new(start.ok(), at_risk)
}
