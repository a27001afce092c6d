//! Opens what a host needs before it reads: its plugins, the brokers, the store.
//!
//! Guarantees: a server that is away is waited for, and one that refuses is an error at once; a signal to stop ends each wait within
//! seconds, also the one for the plugins' compilation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{RunError, failed, lock};
use crate::chain::SharedChain;
use crate::config::Config;
use crate::consumer::ConsumerError;
use crate::flow::backoff::Backoff;
use crate::flow::block_margin::BlockMargin;
use crate::kafka::check;
use crate::plugin::{Runtime, SharedEngines};
use crate::recovery::Recovery;
use crate::sink::Sink;
use crate::sink::store::{Store, StoreError};

/// How long a store that can't be reached is waited for at the start.
const STORE_PATIENCE: Duration = Duration::from_secs(60);
/// How often the log says that plugins are being loaded.
const WORD_EVERY: Duration = Duration::from_secs(5);
/// How often a signal to stop is looked for.
const STOP_LOOK: Duration = Duration::from_millis(50);

pub(super) struct Opened {
    pub chain: Arc<SharedChain>,
    /// How many partitions the topics that exist have together.
    pub partitions: usize,
    pub store: Store,
}

/// How far the start is: the status says it while the host does not read yet.
#[derive(Default)]
pub(super) struct Starting(Mutex<Option<String>>);

impl Starting {
    /// What the start waits for, in words.
    pub fn now(&self) -> String {
        lock(&self.0).clone().unwrap_or_else(|| "its plugins are being loaded".into())
    }

    fn waits_for(&self, what: String) {
        *lock(&self.0) = Some(what);
    }
}

/// Opens the plugins, the brokers and the store. Where the process was told to stop meanwhile, the answer means nothing, and the caller
/// has to look at `stop`.
pub(super) fn open(
    config: &Config,
    engines: &SharedEngines,
    tokio: &tokio::runtime::Runtime,
    stop: &AtomicBool,
    starting: &Starting,
) -> Result<Opened, RunError> {
    *lock(&starting.0) = None;
    let runtime = Runtime::on(engines, config).map_err(failed("can't start the WebAssembly engine"))?;
    let plugins = config.plugins.clone();
    // Loading may take seconds for each plugin, six for one of 18 MB. After a stop it goes on until the process ends.
    let loading = tokio.spawn_blocking(move || SharedChain::load(runtime, &plugins));
    let loaded = tokio
        .block_on(unless_stopped(stop, with_a_word(loading)))
        .ok_or_else(|| RunError::Failed("told to stop".into()))?;
    let chain = loaded.map_err(failed("can't load the plugins"))??;
    starting.waits_for(format!("it waits for an answer of Kafka at {}", config.kafka.brokers));
    let partitions = check::wait_ready(&config.kafka, stop).map_err(ConsumerError::from)?;
    starting.waits_for(format!("it waits for ReductStore at {}", config.store.url));
    let store = open_store(config, tokio, stop, starting)?;
    starting.waits_for("Kafka answers; it asks ReductStore when that was started, and then joins its group".into());
    Ok(Opened { chain, partitions, store })
}

/// Makes sure that the bucket is there.
fn open_store(
    config: &Config,
    tokio: &tokio::runtime::Runtime,
    stop: &AtomicBool,
    starting: &Starting,
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
        let ensure = async {
            store.require_supported().await?;
            store.ensure_bucket().await
        };
        let ensured = tokio.block_on(unless_stopped(stop, ensure));
        match ensured.unwrap_or_else(|| Err(StoreError::Unavailable("told to stop".into()))) {
            Ok(created) => {
                info!(url = config.store.url, bucket = config.store.bucket, created, "ReductStore is ready");
                return Ok(store);
            }
            Err(error @ (StoreError::Unsupported(_) | StoreError::ReadOnly(_))) => {
                let remedy = error.remedy();
                return Err(wrong(error, remedy));
            }
            Err(error @ (StoreError::Denied(_) | StoreError::Unauthorized(_))) => {
                return Err(wrong(
                    error,
                    "check store.token: it needs read and write access, and full access to create",
                ));
            }
            Err(error @ StoreError::Invalid(_)) => return Err(wrong(error, "check store.bucket and store.create")),
            Err(error) if started.elapsed() > STORE_PATIENCE || stop.load(Ordering::SeqCst) => {
                let remedy = error.remedy();
                return Err(wrong(error, remedy));
            }
            Err(error) => {
                let remedy = error.remedy();
                warn!(url = config.store.url, %error, remedy, "ReductStore isn't ready; waiting for it");
                starting.waits_for(format!(
                    "it waits for ReductStore at {}, for {} s at most: {error}; {remedy}",
                    config.store.url,
                    STORE_PATIENCE.as_secs()
                ));
                let wait = backoff.wait();
                tokio.block_on(unless_stopped(stop, async { tokio::time::sleep(wait).await }));
            }
        }
    }
}

/// Asks the store when it was started and how large its blocks are. Nothing is written before that is known, because a crash of the store
/// could go unnoticed. `None`: the process was told to stop.
pub(super) fn known_start(
    config: &Config,
    tokio: &tokio::runtime::Runtime,
    stop: &AtomicBool,
    store: &Store,
    sink: &Sink,
) -> Result<Option<Recovery>, RunError> {
    if config.store.discard {
        return Ok(Some(Recovery::new(None, BlockMargin::default())));
    }
    let (asked, mut backoff) = (Instant::now(), Backoff::default());
    loop {
        let questions = async { Ok((store.started_exactly().await?, store.block_records().await?)) };
        match tokio.block_on(unless_stopped(stop, questions)) {
            None => return Ok(None),
            Some(Ok((start, records))) => {
                sink.remember_blocks(records);
                return Ok(Some(Recovery::new(Some(start), BlockMargin::of_blocks(records))));
            }
            Some(Err(error)) if asked.elapsed() > STORE_PATIENCE => {
                let (url, bucket) = (config.store.url.clone(), config.store.bucket.clone());
                let remedy = "it doesn't tell when it was started, or the settings of the bucket";
                return Err(RunError::Store { url, bucket, error, remedy });
            }
            Some(Err(error)) => {
                warn!(%error, "ReductStore doesn't tell when it was started; asking again");
                let wait = backoff.wait();
                tokio.block_on(unless_stopped(stop, async { tokio::time::sleep(wait).await }));
            }
        }
    }
}

/// Waits for the plugins, and logs from time to time that they are being loaded: otherwise an operator could believe that the host hangs.
async fn with_a_word<T>(loading: impl Future<Output = T>) -> T {
    let mut loading = std::pin::pin!(loading);
    let begun = Instant::now();
    loop {
        match tokio::time::timeout(WORD_EVERY, &mut loading).await {
            Ok(loaded) => return loaded,
            Err(_) => info!(
                for_s = begun.elapsed().as_secs(),
                "still loading the plugins; what isn't in the cache is compiled"
            ),
        }
    }
}

/// Waits for an answer, but only until the process is told to stop (`None`), because an answer may take longer than a stop.
async fn unless_stopped<T>(stop: &AtomicBool, waiting: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        while !stop.load(Ordering::SeqCst) {
            tokio::time::sleep(STOP_LOOK).await;
        }
    };
    tokio::select! {
        answer = waiting => Some(answer),
        () = stopped => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_stop_does_not_wait_for_what_blocks() -> anyhow::Result<()> {
        let tokio = tokio::runtime::Runtime::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (release, held) = mpsc::channel::<()>();
        // It has begun when the stop comes, and would never end by itself.
        let begun = Arc::clone(&stop);
        let loading = tokio.spawn_blocking(move || {
            begun.store(true, Ordering::SeqCst);
            held.recv()
        });
        assert!(tokio.block_on(unless_stopped(&stop, loading)).is_none());
        tokio.shutdown_background();
        release.send(())?;
        Ok(())
    }

    #[test]
    fn an_answer_that_comes_in_time_is_taken() -> anyhow::Result<()> {
        let tokio = tokio::runtime::Runtime::new()?;
        assert_eq!(tokio.block_on(unless_stopped(&AtomicBool::new(false), async { 7 })), Some(7));
        Ok(())
    }
}
