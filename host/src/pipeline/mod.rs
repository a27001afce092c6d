//! The wiring: source → partition → chain → sink, and what stops them.
//!
//! Guarantees: starting fails early with what is wrong (plugins, store, Kafka's configuration); stopping takes the
//! partitions back, waits for what is in flight to be settled, commits it and ends within `limits.shutdown`; whatever
//! breaks inside (a panic, a record that can't be kept) stops the host with an error and without committing it, so that
//! it is read again.

mod failure;
mod heartbeat;
mod host;
mod hung;
mod replaying;
mod startup;
mod stop_time;
mod tapping;
mod views;
mod worker;
mod workers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{info, warn};

use self::failure::HostFailure;
use self::host::Host;
use self::startup::{Opened, known_start, open};
use self::stop_time::stop_begins;
use crate::chain::{PluginVersion, SharedChain};
use crate::config::{self, Config, LoadOutcome, Sources};
use crate::dead_letters::topic::DeadLetterTopic;
use crate::flow::membership::{Membership, watch_for_pauses};
use crate::health::progress::{Supervised, supervise};
use crate::health::server::{self, Reporter};
use crate::health::service;
use crate::kafka::observer::Observer;
use crate::plugin::LoadError;
use crate::recovery::Partitions;
use crate::rollout::{self, Control, Pace};
use crate::sink::store::StoreError;
use crate::sink::{AttachmentError, DeadLetterTarget, Sink, attachments};
use crate::source::{GroupHandler, Member, Source, SourceEnd, SourceError};

/// How long requests under way are waited for at the very end, so that they don't leave unfinished records.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// What ends a pipeline that wasn't told to stop.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum RunError {
    #[error(transparent)]
    Plugin(#[from] LoadError),
    #[error("ReductStore at {url}, bucket {bucket:?}: {error}; {remedy}")]
    Store { url: String, bucket: String, error: StoreError, remedy: &'static str },
    #[error(transparent)]
    Kafka(#[from] SourceError),
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    #[error("{0}")]
    Failed(String),
}

/// Runs until SIGTERM or SIGINT, or until it can't go on. Blocks; call it from a plain thread.
///
/// `sources` are what the configuration is read from again when it changes, or on SIGHUP.
pub fn run(config: &Config, sources: Sources) -> Result<(), RunError> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sink")
        .build()
        .map_err(failed("can't start the sink's threads"))?;
    let stop = Arc::new(AtomicBool::new(false));
    tokio
        .block_on(async { service::stop_on_signal(&stop, || _ = stop_begins()) })
        .map_err(failed("can't listen to signals"))?;
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let attachments = attachments::watched(&config.attachments, tokio.handle())?;
    let opened = open(config, &tokio, &stop);
    if stop.load(Ordering::SeqCst) {
        return stopped_early(tokio);
    }
    let Opened { chain, partitions, store } = opened?;
    let membership = Arc::new(Membership::default());
    watch_for_pauses(&membership).map_err(failed("can't watch for pauses"))?;
    let dead_letters = dead_letter_topic(config, &membership)?;
    let sink = Sink::new(
        store.clone(),
        &config.store,
        &config.labels,
        attachments,
        Arc::clone(&membership),
        dead_letters,
        tokio.handle().clone(),
    );
    let Some(recovery) = known_start(config, &tokio, &stop, &store, &sink)? else { return stopped_early(tokio) };
    let recovery = Arc::new(recovery);
    // Before the workers, so that whatever happens to the files from now on is seen.
    let lifecycle = rollout::start(Arc::clone(&chain), Some(configured_by(config, sources)), Pace::default());
    let control = lifecycle.control();
    tokio.block_on(async { reload_on_signal(lifecycle.control()) }).map_err(failed("can't listen to signals"))?;
    let host = Host::start(config, Arc::clone(&chain), control, sink.clone(), membership, Arc::clone(&recovery), stop)?;
    let host = Arc::new(host);
    // Nobody has set it before.
    let _ = host.this.set(Arc::downgrade(&host));
    if !config.store.discard {
        tokio.spawn(recovery.watch(Arc::clone(&host) as Arc<dyn Partitions>, sink.clone()));
    }
    server::start(&config.status, Arc::clone(&host) as Arc<dyn Reporter>).map_err(failed("can't start the status"))?;
    say_configuration(config, &chain);
    service::ready();

    let consume = |member: &Member| -> Result<Source, SourceError> {
        Source::new(&config.kafka, member, partitions, Arc::clone(&host) as Arc<dyn GroupHandler>)
    };
    // Held until the end: a host that is started again shall not find the name taken by this one, which still works.
    let member = Member::new(&config.kafka);
    let mut source = consume(&member)?;
    let look = Arc::clone(&host.look);
    let supervisor = {
        let host = Arc::clone(&host) as Arc<dyn Supervised>;
        let observer = Observer::new(&config.kafka).map_err(SourceError::from)?;
        let (stuck_after, look) = (config.limits.stuck_after, Arc::clone(&look));
        std::thread::spawn(move || supervise(host, Some(observer), stuck_after, look))
    };
    while source.run() == SourceEnd::NameTaken {
        // Two that take the name from each other by turns would never get on; so this one does without.
        host.lose_name(member.name().unwrap_or_default());
        source = consume(&Member::default())?;
    }

    drop(lifecycle);
    host.join_workers();
    chain.stages().iter().for_each(|stage| stage.version.plugin.end_log());
    // While the brokers are away its last look may take a while, and nobody needs it.
    let deadline = Instant::now() + host.stop_time.within(LAST_REQUESTS);
    while !supervisor.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    if supervisor.is_finished() && supervisor.join().is_err() {
        warn!("the supervisor panicked");
    }
    tokio.block_on(async {
        if tokio::time::timeout(host.stop_time.within(LAST_REQUESTS), sink.idle()).await.is_err() {
            warn!(
                "requests to ReductStore are still under way; what they leave unfinished is mended at the next start"
            );
        }
    });
    tokio.shutdown_background();
    match host.failure() {
        Some(reason) => Err(RunError::Failed(reason.full.clone())),
        None => {
            let done = sink.counters();
            info!(
                written = done.written,
                bytes = done.written_bytes,
                found = done.found,
                repaired = done.repaired,
                dead_letters = done.dead_letters,
                "stopped; everything settled is committed"
            );
            Ok(())
        }
    }
}

fn stopped_early(tokio: tokio::runtime::Runtime) -> Result<(), RunError> {
    // Dropping it would wait for plugins that are being compiled.
    tokio.shutdown_background();
    info!("stopped before anything was consumed");
    Ok(())
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> RunError {
    move |error| RunError::Failed(format!("{what}: {error}"))
}

fn dead_letter_topic(
    config: &Config,
    membership: &Arc<Membership>,
) -> Result<Option<Arc<dyn DeadLetterTarget>>, RunError> {
    let Some(topic) = &config.dead_letters.topic else { return Ok(None) };
    let topic = DeadLetterTopic::start(&config.kafka, topic, Arc::clone(membership)).map_err(SourceError::from)?;
    Ok(Some(Arc::new(topic)))
}

fn configured_by(config: &Config, sources: Sources) -> rollout::ChainSource {
    let load = move |sources: Sources| {
        let LoadOutcome { warnings, config } = config::load(sources);
        warnings.iter().for_each(|warning| warn!("{warning}"));
        config
    };
    rollout::ChainSource {
        file: sources.file.as_ref().map(|(path, _)| path.clone()),
        load: Box::new(move || load(sources.clone())),
        present: config.clone(),
    }
}

fn reload_on_signal(control: Control) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            info!("reading the configuration again");
            control.reload();
        }
    });
    Ok(())
}

/// The configuration in short.
fn say_configuration(config: &Config, chain: &SharedChain) {
    let name = |version: PluginVersion| format!("{}@{}", version.name, version.digest.short());
    let plugins: Vec<String> = chain.versions().into_iter().map(name).collect();
    info!(
        brokers = config.kafka.brokers,
        topics = ?config.kafka.topics,
        group = config.kafka.group,
        store = config.store.url,
        bucket = config.store.bucket,
        entry = config.store.entry.as_deref().unwrap_or("default"),
        ?plugins,
        "running"
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
