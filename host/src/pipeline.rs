//! The wiring: source → partition → chain → sink, and what stops them.
//!
//! Guarantees: starting fails early with what is wrong (plugins, store, Kafka's configuration); stopping takes the
//! partitions back, waits for what is in flight to be settled, commits it and ends within `limits.shutdown`; whatever
//! breaks inside (a panic, a record that can't be kept) stops the host with an error and without committing it, so that
//! it is read again.

mod watched;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{error, info, warn};

use crate::assignment::{Assignment, Budget};
use crate::chain::{Chain, SharedChain};
use crate::config::Config;
use crate::dead_letter::Target;
use crate::membership::{Membership, watch_for_pauses};
use crate::names::{Naming, Template};
use crate::partition::{Command, Worker};
use crate::plugin::watch::watch;
use crate::plugin::{LoadError, Runtime};
use crate::record::TopicPartition;
use crate::restarts::{Restarts, Rewinds};
use crate::sink::Sink;
use crate::sink::backoff::Backoff;
use crate::sink::store::{Store, StoreError};
use crate::source::{DeadLetterTopic, Feed, Owner, Source, SourceError};
use crate::status::{self, Reporter};
use crate::supervisor::{Look, Supervised, supervise};

/// How long a store that can't be reached is waited for at the start.
const STORE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a worker may take to let a partition go: it may be inside a plugin.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// What of `limits.shutdown` is left for committing, leaving the group and the last requests.
const LEAVING: Duration = Duration::from_secs(6);
/// How long requests under way are waited for at the very end, so that they don't leave unfinished records.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// The server's default for the records of a block.
const SERVERS_BLOCK_RECORDS: u64 = 1024;

#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Plugin(#[from] LoadError),
    #[error("ReductStore at {url}, bucket {bucket:?}: {error}; {remedy}")]
    Store { url: String, bucket: String, error: StoreError, remedy: &'static str },
    #[error(transparent)]
    Kafka(#[from] SourceError),
    #[error("{0}")]
    Failed(String),
}

/// Runs until SIGTERM or SIGINT, or until it can't go on. Blocks; call it from a plain thread.
pub fn run(config: &Config) -> Result<(), RunError> {
    let runtime = Runtime::new().map_err(failed("can't start the WebAssembly engine"))?;
    let chain = SharedChain::load(runtime, &config.plugins)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sink")
        .build()
        .map_err(failed("can't start the sink's threads"))?;
    let stop = Arc::new(AtomicBool::new(false));
    tokio.block_on(async { stop_on_signal(&stop) }).map_err(failed("can't listen to signals"))?;
    let store = open_store(config, &tokio, &stop)?;
    let membership = Arc::new(Membership::default());
    watch_for_pauses(&membership).map_err(failed("can't watch for pauses"))?;
    let dead_letters = dead_letter_topic(config, &membership)?;
    let sink = Sink::new(
        store.clone(),
        &config.store,
        &config.labels,
        Arc::clone(&membership),
        dead_letters,
        tokio.handle().clone(),
    );
    let restarts = Arc::new(known_start(config, &tokio, &store));
    let host =
        Arc::new(Host::start(config, Arc::clone(&chain), sink.clone(), membership, Arc::clone(&restarts), stop)?);
    if !config.store.discard {
        tokio.spawn(restarts.watch(Arc::clone(&host) as Arc<dyn Rewinds>, sink.clone()));
    }
    let watching = watch(chain);
    tokio.spawn(report(Arc::clone(&host)));
    if let Some(listen) = config.status.listen.clone() {
        tokio.spawn(status::serve(listen, Arc::clone(&host) as Arc<dyn Reporter>));
    }
    info!(topics = ?config.kafka.topics, group = config.kafka.group, bucket = config.store.bucket, "running");

    let source = Source::new(&config.kafka, Arc::clone(&host) as Arc<dyn Owner>)?;
    let look = Arc::clone(&host.look);
    let supervisor = {
        let (host, ends) = (Arc::clone(&host) as Arc<dyn Supervised>, source.ends());
        let (stuck_after, look) = (config.limits.stuck_after, Arc::clone(&look));
        std::thread::spawn(move || supervise(host, ends, stuck_after, look))
    };
    source.run();

    drop(watching);
    host.join_workers();
    // It may hold the consumer's last handle, whose end can hang while the brokers are away.
    let deadline = Instant::now() + LAST_REQUESTS;
    while !supervisor.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    if supervisor.is_finished() && supervisor.join().is_err() {
        warn!("the supervisor panicked");
    }
    tokio.block_on(async {
        if tokio::time::timeout(LAST_REQUESTS, sink.idle()).await.is_err() {
            warn!(
                "requests to ReductStore are still under way; what they leave unfinished is mended at the next start"
            );
        }
    });
    tokio.shutdown_background();
    match host.failure() {
        Some(reason) => Err(RunError::Failed(reason)),
        None => {
            info!(counters = ?sink.counters(), "stopped; everything settled is committed");
            Ok(())
        }
    }
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> RunError {
    move |error| RunError::Failed(format!("{what}: {error}"))
}

fn dead_letter_topic(config: &Config, membership: &Arc<Membership>) -> Result<Option<Arc<dyn Target>>, RunError> {
    let Some(topic) = &config.dead_letters.topic else { return Ok(None) };
    let topic = DeadLetterTopic::start(&config.kafka, topic, Arc::clone(membership))?;
    Ok(Some(Arc::new(topic)))
}

pub(crate) fn stop_on_signal(stop: &Arc<AtomicBool>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signals, stop) = (signal(kind)?, Arc::clone(stop));
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                info!("stopping");
                stop.store(true, Ordering::SeqCst);
            }
        });
    }
    Ok(())
}

/// Makes sure that the bucket is there. A store that is away is waited for; one that refuses is an error at once.
fn open_store(config: &Config, tokio: &tokio::runtime::Runtime, stop: &AtomicBool) -> Result<Store, RunError> {
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
fn known_start(config: &Config, tokio: &tokio::runtime::Runtime, store: &Store) -> Restarts {
    if config.store.discard {
        return Restarts::new(None, 0);
    }
    let (start, records) = tokio.block_on(async { (store.start().await, store.block_records().await) });
    let records = records.ok().flatten().unwrap_or(SERVERS_BLOCK_RECORDS);
    Restarts::new(start.ok(), records.saturating_mul(2))
}

/// Says every few seconds what was done, when something was.
async fn report(host: Arc<Host>) {
    let mut last = None;
    loop {
        tokio::time::sleep(REPORT_EVERY).await;
        let counters = host.sink.counters();
        if last.replace(counters) != Some(counters) {
            let (records, bytes) = host.budget.used();
            info!(
                written = counters.written,
                found = counters.found,
                repaired = counters.repaired,
                dead_letters = counters.dead_letters,
                in_flight_records = records,
                in_flight_bytes = bytes,
                "progress"
            );
        }
    }
}

/// Owns the workers, and the assignments that Kafka gives.
struct Host {
    config: Config,
    /// The configured template; `None`: the default one.
    entry: Option<Template>,
    dead_letter_entry: Template,
    several_topics: bool,
    sink: Sink,
    budget: Arc<Budget>,
    membership: Arc<Membership>,
    restarts: Arc<Restarts>,
    chain: Arc<SharedChain>,
    started: Instant,
    look: Arc<Mutex<Look>>,
    ended: AtomicBool,
    workers: Vec<WorkerHandle>,
    assignments: Mutex<HashMap<TopicPartition, Owned>>,
    stop: Arc<AtomicBool>,
    failure: Arc<OnceLock<String>>,
}

struct WorkerHandle {
    commands: Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Owned {
    assignment: Arc<Assignment>,
    worker: usize,
}

impl Host {
    fn start(
        config: &Config,
        chain: Arc<SharedChain>,
        sink: Sink,
        membership: Arc<Membership>,
        restarts: Arc<Restarts>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, RunError> {
        let budget = Arc::new(Budget::new(config.limits.in_flight_records, config.limits.in_flight_bytes));
        let failure = Arc::new(OnceLock::new());
        let mut workers = Vec::new();
        for index in 0..config.limits.workers.max(1) {
            let (commands, inbox) = channel();
            let chain = Chain::new(Arc::clone(&chain)).map_err(failed("can't start the plugins"))?;
            let failure = Arc::clone(&failure);
            let fail = Arc::new(move |reason: String| fail(&failure, reason));
            let worker = Worker {
                commands: inbox,
                chain,
                sink: sink.clone(),
                budget: Arc::clone(&budget),
                fail,
                partitions: Vec::new(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker.run())
                .map_err(failed("can't start a worker"))?;
            workers.push(WorkerHandle { commands, thread: Mutex::new(Some(thread)) });
        }
        Ok(Self {
            config: config.clone(),
            entry: config.store.entry.as_deref().map(Template::parse).transpose().map_err(failed("store.entry"))?,
            dead_letter_entry: Template::parse(&config.dead_letters.entry).map_err(failed("dead_letters.entry"))?,
            several_topics: config.kafka.several_topics(),
            sink,
            budget,
            membership,
            restarts,
            chain,
            started: Instant::now(),
            look: Arc::default(),
            ended: AtomicBool::new(false),
            workers,
            assignments: Mutex::default(),
            stop,
            failure,
        })
    }

    fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    fn assignments(&self) -> MutexGuard<'_, HashMap<TopicPartition, Owned>> {
        lock(&self.assignments)
    }

    fn join_workers(&self) {
        self.ended.store(true, Ordering::SeqCst);
        for worker in &self.workers {
            worker.send(Command::Stop);
            let thread = lock(&worker.thread).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                fail(&self.failure, "a worker panicked".into());
            }
        }
    }

    /// The least loaded worker.
    fn worker_for(&self, assignments: &HashMap<TopicPartition, Owned>) -> usize {
        let load = |index: &usize| assignments.values().filter(|owned| owned.worker == *index).count();
        (0..self.workers.len()).min_by_key(load).unwrap_or_default()
    }
}

impl WorkerHandle {
    /// `false`: the worker is gone.
    fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        if let Some(thread) = lock(&self.thread).as_ref() {
            thread.thread().unpark();
        }
        sent
    }

    fn is_gone(&self) -> bool {
        lock(&self.thread).as_ref().is_some_and(JoinHandle::is_finished)
    }
}

impl Owner for Host {
    fn assigning(&self) {
        self.sink.new_epoch();
        self.membership.confirm();
    }

    fn membership_doubted(&self) -> bool {
        self.membership.is_doubted()
    }

    fn membership_confirmed(&self) {
        self.membership.confirm();
    }

    fn company_refused(&self, topic: &str, partitions: usize) -> Option<String> {
        let shares = |template: &Template| template.shares_entries(partitions, self.several_topics);
        let (key, template) = match (&self.entry, &self.dead_letter_entry) {
            _ if self.config.store.shared_entries => return None,
            (Some(template), _) if shares(template) => ("store.entry", template),
            (_, template) if self.config.dead_letters.topic.is_none() && shares(template) => {
                ("dead_letters.entry", template)
            }
            _ => return None,
        };
        Some(format!(
            "{key} = \"{template}\" puts records of several partitions of {topic} into one entry, which two hosts must \
             not write at once; run a single host, or put {{topic}} and {{partition}} into {key}, or set \
             store.shared_entries = true if your keys tie each entry to one partition"
        ))
    }

    fn assigned(&self, feed: Feed, partitions: usize) {
        let source = feed.source.clone();
        let naming = match &self.entry {
            None => Naming::default_for(partitions, self.several_topics),
            Some(template) => Naming::configured(template),
        };
        let assignment = Assignment::new(source.clone(), naming, &self.dead_letter_entry, Arc::clone(&self.budget));
        let assignment = match assignment {
            Ok(assignment) => Arc::new(assignment),
            Err(error) => return self.failed(format!("{source} can't be written: {error}")),
        };
        let mut assignments = self.assignments();
        let worker = self.worker_for(&assignments);
        if let Some(handle) = self.workers.get(worker) {
            handle.send(Command::Add(feed, Arc::clone(&assignment)));
            assignments.insert(source, Owned { assignment, worker });
        }
    }

    fn revoked(&self, partitions: &[TopicPartition], lost: bool) -> Vec<(TopicPartition, u64)> {
        let owned: Vec<Owned> = {
            let mut assignments = self.assignments();
            partitions.iter().filter_map(|source| assignments.remove(source)).collect()
        };
        if lost {
            owned.iter().for_each(|owned| owned.assignment.cancel());
        }
        let (done, released) = channel();
        let asked = owned.iter().filter(|owned| {
            let remove = Command::Remove(owned.assignment.source.clone(), done.clone());
            self.workers.get(owned.worker).is_some_and(|worker| worker.send(remove))
        });
        let drained_by =
            Instant::now() + self.config.limits.shutdown.saturating_sub(LEAVING).max(Duration::from_secs(1));
        let deadline = drained_by.min(Instant::now() + RELEASE_TIMEOUT);
        for _ in 0..asked.count() {
            if released.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
                warn!("a worker doesn't let its partition go; a plugin may be holding it");
                break;
            }
        }
        let mut positions = Vec::new();
        for Owned { assignment, .. } in owned {
            let left = drained_by.saturating_duration_since(Instant::now());
            if !lost && !assignment.wait_drained(left) {
                let in_flight = assignment.in_flight();
                warn!(partition = %assignment.source, in_flight, "not settled in time; these records will be read again");
            }
            assignment.cancel();
            if let Some(position) = assignment.commit_position().filter(|_| !lost && !assignment.is_rewinding()) {
                positions.push((assignment.source.clone(), position));
            }
        }
        positions
    }

    fn is_shaken(&self) -> bool {
        self.sink.is_shaken()
    }

    fn is_rewinding(&self, source: &TopicPartition) -> bool {
        self.assignments().get(source).is_some_and(|owned| owned.assignment.is_rewinding())
    }

    fn mark(&self, source: &TopicPartition, position: u64) -> Option<String> {
        self.restarts.mark(source, position)
    }

    fn begin(&self, source: &TopicPartition, committed: u64, mark: &str) -> Option<u64> {
        let begin = self.restarts.begin(source, committed, mark);
        if begin.is_some() {
            self.sink.distrust();
        }
        begin
    }

    fn positions(&self) -> Vec<(TopicPartition, u64)> {
        let assignments = self.assignments();
        let position = |owned: &Owned| Some((owned.assignment.source.clone(), owned.assignment.commit_position()?));
        assignments.values().filter_map(position).collect()
    }

    fn failed(&self, reason: String) {
        fail(&self.failure, reason);
    }

    fn stopping(&self) -> bool {
        if let Some(reason) = self.sink.failure() {
            fail(&self.failure, reason.to_owned());
        }
        if let Some(owned) = self.assignments().values().find(|owned| owned.assignment.is_broken()) {
            fail(&self.failure, format!("a record of {} was lost on its way", owned.assignment.source));
        }
        if self.workers.iter().any(WorkerHandle::is_gone) {
            fail(&self.failure, "a worker panicked".into());
        }
        self.stop.load(Ordering::SeqCst) || self.failure.get().is_some()
    }
}

fn fail(failure: &OnceLock<String>, reason: String) {
    if failure.get().is_none() {
        error!("{reason}; stopping without committing what isn't settled");
    }
    // The first reason is the one to tell.
    let _ = failure.set(reason);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
