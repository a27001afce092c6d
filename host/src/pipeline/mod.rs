//! Connects consumer, partitions, chain and sink, runs them, and stops them.
//!
//! Guarantees: where a plugin, the store or Kafka's configuration is wrong, the start fails and says what is wrong; a stop takes the
//! partitions back, waits until the records in flight are acknowledged, commits them, and ends within `limits.shutdown`; after a
//! failure inside the host (a panic, a record that can't be kept) the host stops with an error, and commits nothing from the record
//! concerned on, so that it is read again.

mod failure;
mod group_refusal;
mod group_wait;
mod heartbeat;
mod host;
mod hung;
mod plugin_views;
mod replaying;
mod run;
mod several;
mod slot;
mod startup;
mod stop_time;
mod tapping;
mod views;
mod worker;
mod workers;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tracing::info;

use self::failure::HostFailure;
use self::host::Host;
use self::run::PipelineRun;
use self::several::PipelineFailures;
use self::slot::PipelineSlot;
use self::stop_time::told_to_stop;
use crate::config::{Config, Pipelines, Sources};
use crate::consumer::ConsumerError;
use crate::health::server::{self, Reporter};
use crate::health::service;
use crate::health::stop_signals::{stop_on_signal, survive_hangups};
use crate::plugin::{LoadError, SharedEngines};
use crate::sink::AttachmentError;
use crate::sink::store::StoreError;

/// What ends a pipeline that wasn't told to stop.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum RunError {
    #[error(transparent)]
    Plugin(#[from] LoadError),
    #[error("ReductStore at {url}, bucket {bucket:?}: {error}; {remedy}")]
    Store { url: String, bucket: String, error: StoreError, remedy: &'static str },
    #[error(transparent)]
    Kafka(#[from] ConsumerError),
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    #[error(transparent)]
    Several(#[from] PipelineFailures),
    #[error("{0}")]
    Failed(String),
}

/// Runs until SIGTERM or SIGINT. A process with one unnamed pipeline also ends when that pipeline fails; with several, [`several`]
/// starts the failed one again. It blocks, so call it from a plain thread.
///
/// `sources` are what the configuration is read from again when it changes, or on SIGHUP.
pub fn run(pipelines: &Pipelines, sources: Sources) -> Result<(), RunError> {
    let signals = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("signals")
        .build()
        .map_err(failed("can't start the thread that waits for signals"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let listen = async { stop_on_signal(&stop, told_to_stop).and_then(|()| survive_hangups()) };
    signals.block_on(listen).map_err(failed("can't listen to signals"))?;
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let ended = match pipelines.all() {
        [only] if only.pipeline.is_none() => alone(only, sources, stop),
        several => several::run(several, sources, stop),
    };
    signals.shutdown_background();
    ended
}

/// The only pipeline of a process: what ends it ends the process.
fn alone(config: &Config, sources: Sources, stop: Arc<AtomicBool>) -> Result<(), RunError> {
    let engines = SharedEngines::for_config(config).map_err(failed("can't start the WebAssembly engine"))?;
    let slot = Arc::new(PipelineSlot::new(config.clone(), stop));
    // Before anything else: while the host waits for its servers, the status says so, and a probe gets an answer. Without one Kubernetes
    // would kill the host.
    let reporter = Arc::clone(&slot) as Arc<dyn Reporter>;
    server::start(&config.status, vec![(None, reporter)]).map_err(failed("can't start the status"))?;
    let running = |host: Arc<Host>| {
        slot.runs(host);
        service::ready();
        Ok(())
    };
    let lasting = slot.lasting.clone();
    PipelineRun { config, sources, engines: &engines, names: "", neighbours: None, lasting, running: &running }.run()
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> RunError {
    move |error| RunError::Failed(format!("{what}: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
