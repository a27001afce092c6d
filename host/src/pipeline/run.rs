//! One run of a pipeline, from opening its plugins and servers to its last request.
//!
//! Guarantees: a run leaves nothing behind that could still write or commit, however it ends, so that the next run of the same
//! pipeline in this process finds what a new process would find; a thread that hangs in a plugin is left behind and counted.
//! An exception: a request to the store that is still under way five minutes after the run failed is not waited for any longer.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime as Tokio;
use tracing::{info, warn};

use super::host::Host;
use super::hung::HungRecords;
use super::startup::{Opened, Starting, known_start, open};
use super::{RunError, failed};
use crate::chain::{PluginVersion, SharedChain};
use crate::config::{self, Config, ConfigProblem, LoadOutcome, PluginConfig, Sources, threads};
use crate::consumer::{ConsumerEnd, ConsumerError, GroupConsumer, GroupHandler, Member};
use crate::dead_letters::topic::DeadLetterTopic;
use crate::flow::membership::{Membership, watch_for_suspensions};
use crate::flow::pauses::Pauses;
use crate::health::progress::{Supervised, supervise};
use crate::health::traces::Traces;
use crate::kafka::check::cluster_id;
use crate::kafka::client_files::ClientFiles;
use crate::kafka::observer::Observer;
use crate::plugin::SharedEngines;
use crate::recovery::{Partitions, Recovery};
use crate::rollout::{self, Control, NotTaken, Pace, RolloutHandle};
use crate::sink::store::Store;
use crate::sink::{Attachments, DeadLetterTarget, Sink, attachments};

/// How long requests under way are waited for at the very end, so that they don't leave unfinished records.
const FINAL_WAIT_FOR_REQUESTS: Duration = Duration::from_secs(2);

/// How long to wait after a failed attempt to join the group again with files that were replaced.
const JOIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a pipeline that failed waits at most for the requests of its run to end, before it is started again in this process.
const LONGEST_WAIT_FOR_REQUESTS: Duration = Duration::from_secs(300);

/// The other pipelines of the process. One asks them before it does what may conflict with them.
pub(super) trait Neighbours: Send + Sync {
    /// Checks whether a changed configuration may be taken over while the pipeline runs, and takes note of it; the error says why not.
    /// `in_use`: the plugins that may decide about records now, or after a rollback.
    fn accept(&self, new: &Config, in_use: &[Arc<PluginConfig>]) -> Result<(), String>;

    /// Checks whether the pipeline may work with brokers of this cluster, and takes note of it; the error says why not.
    fn accept_cluster(&self, id: &str) -> Result<(), String>;
}

/// What a pipeline keeps from one of its runs to the next in this process.
#[derive(Clone, Default)]
pub(super) struct Lasting {
    /// Set when the process is told to stop.
    pub stop: Arc<AtomicBool>,
    pub pauses: Arc<Pauses>,
    pub hung: Arc<HungRecords>,
    pub starting: Arc<Starting>,
}

/// See the module.
pub(super) struct PipelineRun<'a> {
    pub config: &'a Config,
    /// What the configuration is read from again when it changes, or on SIGHUP.
    pub sources: Sources,
    pub engines: &'a SharedEngines,
    /// The names of all pipelines of the process, separated by commas.
    pub names: &'a str,
    /// `None`: the pipeline is the only one of its process.
    pub neighbours: Option<Arc<dyn Neighbours>>,
    pub lasting: Lasting,
    /// Called with the host before it reads anything.
    pub running: &'a dyn Fn(Arc<Host>) -> Result<(), RunError>,
}

impl PipelineRun<'_> {
    /// Runs until the process is told to stop, or until the pipeline can't go on.
    pub fn run(self) -> Result<(), RunError> {
        let pipeline = self.config.pipeline.clone();
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("sink")
            .on_thread_start(move || threads::belong_to(pipeline.clone()))
            .build()
            .map_err(failed("can't start the sink's threads"))?;
        let ended = unless_it_panics(|| self.run_on(&tokio));
        // To drop the runtime would be to wait for plugins that are being compiled.
        tokio.shutdown_background();
        ended
    }

    fn run_on(&self, tokio: &Tokio) -> Result<(), RunError> {
        let (config, stop) = (self.config, &self.lasting.stop);
        let attachments = attachments::watched(&config.attachments, tokio.handle())?;
        let opened = open(config, self.engines, tokio, stop, &self.lasting.starting);
        if stop.load(Ordering::SeqCst) {
            return stopped_early();
        }
        let Opened { chain, partitions, store } = opened?;
        self.accept_cluster()?;
        let membership = Arc::new(Membership::default());
        watch_for_suspensions(&membership).map_err(failed("can't watch for suspensions"))?;
        let sink = self.make_sink(tokio, &store, attachments, &membership)?;
        let traces = self.start_traces(tokio, &sink);
        let Some(recovery) = known_start(config, tokio, stop, &store, &sink)? else { return stopped_early() };
        let recovery = Arc::new(recovery);
        // Before the workers, so that whatever happens to the files from now on is seen.
        let rollout = self.start_rollout(tokio, &chain)?;
        let host = self.start_host(&chain, rollout.control(), &sink, membership, &recovery, traces.as_ref())?;
        if !config.store.discard {
            tokio.spawn(recovery.watch(Arc::clone(&host) as Arc<dyn Partitions>, sink.clone()));
        }
        // From here on workers run, which have to be ended.
        let consumed = unless_it_panics(|| self.consume(&host, &chain, partitions));
        if consumed.is_err() {
            // Nobody waits for the records in flight any more. They aren't committed, and are read again.
            host.abandon();
        }
        drop(rollout);
        host.join_workers();
        chain.stages().iter().for_each(|stage| stage.version.plugin.end_log());
        let supervised = consumed.map(|supervisor| wait_for_supervisor(&host, supervisor));
        tokio.block_on(self.wait_for_requests(&host, &sink));
        if let Some(traces) = traces {
            traces.end(host.stop_time.within(FINAL_WAIT_FOR_REQUESTS));
        }
        supervised?;
        if let Some(reason) = host.failure() {
            return Err(RunError::Failed(reason.full.clone()));
        }
        say_what_was_done(&sink);
        Ok(())
    }

    /// Asks the other pipelines of the process whether this one may work with its brokers.
    fn accept_cluster(&self) -> Result<(), RunError> {
        if let Some(neighbours) = &self.neighbours
            && let Some(id) = cluster_id(&self.config.kafka).map_err(ConsumerError::from)?
        {
            neighbours.accept_cluster(&id).map_err(RunError::Failed)?;
        }
        Ok(())
    }

    fn make_sink(
        &self,
        tokio: &Tokio,
        store: &Store,
        attachments: Arc<Attachments>,
        membership: &Arc<Membership>,
    ) -> Result<Sink, RunError> {
        let config = self.config;
        let dead_letters = dead_letter_topic(config, membership)?;
        Ok(Sink::new(
            store.clone(),
            &config.store,
            &config.labels,
            attachments,
            Arc::clone(membership),
            dead_letters,
            tokio.handle().clone(),
        ))
    }

    /// `None`: nobody wants spans.
    fn start_traces(&self, tokio: &Tokio, sink: &Sink) -> Option<Arc<Traces>> {
        let config = self.config;
        let traces = Traces::start(&config.traces, tokio.handle()).map(Arc::new);
        if let Some(target) = traces.as_ref().and_then(|all| all.of_batches(&config.kafka.group, &config.store.bucket))
        {
            sink.tell_of_batches(target);
        }
        traces
    }

    fn start_rollout(&self, tokio: &Tokio, chain: &Arc<SharedChain>) -> Result<RolloutHandle, RunError> {
        let from = chain_source(self.config, self.sources.clone(), self.names.to_owned(), self.neighbours.clone());
        let rollout = rollout::start(Arc::clone(chain), Some(from), Pace::default());
        tokio.block_on(async { reload_on_signal(rollout.control()) }).map_err(failed("can't listen to signals"))?;
        Ok(rollout)
    }

    /// Starts the workers, which have nothing to do yet.
    fn start_host(
        &self,
        chain: &Arc<SharedChain>,
        control: Control,
        sink: &Sink,
        membership: Arc<Membership>,
        recovery: &Arc<Recovery>,
        traces: Option<&Arc<Traces>>,
    ) -> Result<Arc<Host>, RunError> {
        let (chain, of_host) = (Arc::clone(chain), Arc::clone(recovery));
        let host = Host::start(self.config, chain, control, sink.clone(), membership, of_host, &self.lasting)?;
        let host = Arc::new(host);
        // These can't fail: nobody has set them before.
        let _ = host.this.set(Arc::downgrade(&host));
        if let Some(traces) = traces {
            let _ = host.traces.set(Arc::clone(traces));
        }
        Ok(host)
    }

    /// Waits for the last requests to the store, as long as the end of the run allows.
    async fn wait_for_requests(&self, host: &Host, sink: &Sink) {
        // A pipeline of several is started again soon, and its next run must not meet requests of this one at the store.
        if self.config.pipeline.is_some() {
            let stop = &self.lasting.stop;
            requests_ended(|| sink.idle(), stop, LONGEST_WAIT_FOR_REQUESTS, FINAL_WAIT_FOR_REQUESTS).await;
        }
        if tokio::time::timeout(host.stop_time.within(FINAL_WAIT_FOR_REQUESTS), sink.idle()).await.is_err() {
            warn!(
                "requests to ReductStore are still under way; what they leave unfinished is mended at the next start"
            );
        }
    }

    /// Reads and commits until the end of the run. Returns the supervisor's thread, whose last look may still be under way.
    fn consume(
        &self,
        host: &Arc<Host>,
        chain: &SharedChain,
        partitions: usize,
    ) -> Result<std::thread::JoinHandle<()>, RunError> {
        let config = self.config;
        (self.running)(Arc::clone(host))?;
        say_configuration(config, chain);
        let files = Arc::new(ClientFiles::new(&config.kafka));
        let make_consumer = |member: &Member| -> Result<GroupConsumer, ConsumerError> {
            let handler = Arc::clone(host) as Arc<dyn GroupHandler>;
            // The host joins the group, for the first time or again after it has left it.
            handler.given_out(false);
            GroupConsumer::new(&config.kafka, member, partitions, Arc::clone(&files), handler)
        };
        // The member holds the lock on this host's name. Another host of this machine that starts while this one is still writing must not
        // take the same name, so the lock outlives the consumer.
        let member = Member::new(&config.kafka);
        let mut consumer = make_consumer(&member)?;
        let look = Arc::clone(&host.look);
        let supervisor = {
            let host = Arc::clone(host) as Arc<dyn Supervised>;
            let observer = Observer::new(&config.kafka, Arc::clone(&files)).map_err(ConsumerError::from)?;
            let stuck_after = config.limits.stuck_after;
            threads::spawn("supervisor", move || supervise(host, Some(observer), stuck_after, look))
                .map_err(failed("can't start the supervisor"))?
        };
        let (nameless, mut present) = (Member::default(), &member);
        loop {
            match consumer.run() {
                ConsumerEnd::Stopped => break,
                ConsumerEnd::FilesReplaced => {}
                ConsumerEnd::NameTaken => {
                    // Two hosts that take the name from each other in turn would make no progress, so this one goes on without a name.
                    host.lose_name(member.name().unwrap_or_default());
                    present = &nameless;
                }
            }
            consumer = loop {
                match make_consumer(present) {
                    Ok(consumer) => break consumer,
                    // Kafka has answered a client of the replaced files, but the files may have changed again since, and be half written.
                    Err(error) if files.renewals() > 0 && !host.is_told_to_stop() => {
                        warn!(%error, "can't join the group again; trying again");
                        std::thread::sleep(JOIN_AGAIN_AFTER);
                    }
                    Err(error) => return Err(error.into()),
                }
            };
        }
        Ok(supervisor)
    }
}

/// Waits until no request is under way, `most` at most, and only until the process is told to stop, which it looks for every `look`.
async fn requests_ended<I: Future<Output = ()>>(
    idle: impl Fn() -> I,
    stop: &AtomicBool,
    most: Duration,
    look: Duration,
) {
    let until = Instant::now() + most;
    while !stop.load(Ordering::SeqCst) && Instant::now() < until {
        if tokio::time::timeout(look, idle()).await.is_ok() {
            break;
        }
    }
}

/// Waits for the supervisor for a short time only: while the brokers are away its last look may take long, and nobody needs it.
fn wait_for_supervisor(host: &Host, supervisor: std::thread::JoinHandle<()>) {
    let deadline = Instant::now() + host.stop_time.within(FINAL_WAIT_FOR_REQUESTS);
    while !supervisor.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    if supervisor.is_finished() && supervisor.join().is_err() {
        warn!("the supervisor panicked");
    }
}

/// Does the work, and makes an error of a panic.
fn unless_it_panics<T>(work: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = |panic: &(dyn Any + Send)| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
        };
        Err(RunError::Failed(format!("it panicked, which is a fault of reduct-sink: {}", said(&*panic))))
    })
}

fn stopped_early() -> Result<(), RunError> {
    info!("stopped before anything was consumed");
    Ok(())
}

fn dead_letter_topic(
    config: &Config,
    membership: &Arc<Membership>,
) -> Result<Option<Arc<dyn DeadLetterTarget>>, RunError> {
    let Some(topic) = &config.dead_letters.topic else { return Ok(None) };
    let topic = DeadLetterTopic::start(&config.kafka, topic, Arc::clone(membership)).map_err(ConsumerError::from)?;
    Ok(Some(Arc::new(topic)))
}

/// From where the rollout reads the plugins again.
fn chain_source(
    config: &Config,
    sources: Sources,
    names: String,
    neighbours: Option<Arc<dyn Neighbours>>,
) -> rollout::ChainSource {
    let pipeline = config.pipeline.clone();
    rollout::ChainSource {
        file: sources.file.as_ref().map(|(path, _)| path.clone()),
        load: Box::new(move |in_use| {
            let new = read_again(sources.clone(), pipeline.as_deref(), &names)?;
            if let Some(neighbours) = &neighbours {
                let needs_restart = |why| NotTaken::NeedsRestart { why, plugins: new.plugins.clone() };
                neighbours.accept(&new, in_use).map_err(needs_restart)?;
            }
            Ok(new)
        }),
        present: config.clone(),
    }
}

/// Reads the pipeline's configuration again. `names`: the pipelines that the process was started with.
pub(super) fn read_again(
    sources: Sources,
    pipeline: Option<&str>,
    names: &str,
) -> Result<Config, config::ConfigProblems> {
    let LoadOutcome { warnings, config } = config::load(sources);
    // What concerns all of several pipelines is logged once, by the first of them.
    let is_first = pipeline.is_none_or(|pipeline| names.split(", ").next() == Some(pipeline));
    warnings.iter().filter(|_| is_first).for_each(|warning| warn!("{warning}"));
    let pipelines = config?;
    if is_first && pipeline.is_some() && pipelines.names() != names {
        let found = pipelines.names();
        warn!(
            "the file has the pipelines {found} now, and the process runs {names}; restart it to run those of the file"
        );
    }
    pipelines.get(pipeline).cloned().ok_or_else(|| {
        let text = match pipeline {
            Some(name) => format!("there is no [pipelines.{name}] any more; restart the process to end the pipeline"),
            None => "the file has [pipelines] now; restart the process to run them".to_owned(),
        };
        ConfigProblem { location: None, key: "pipelines".into(), text }.into()
    })
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

fn say_what_was_done(sink: &Sink) {
    let done = sink.counters();
    info!(
        written = done.written,
        bytes = done.written_bytes,
        found = done.found,
        repaired = done.repaired,
        dead_letters = done.dead_letters,
        "stopped; everything that is acknowledged is committed"
    );
}

/// Logs the configuration in short.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::time::timeout;

    use super::*;

    const LOOK: Duration = Duration::from_millis(10);
    /// Longer than any test takes.
    const NEVER: Duration = Duration::from_secs(3600);
    const BOUND: Duration = Duration::from_secs(120);

    #[tokio::test]
    async fn the_next_run_waits_for_the_requests_of_the_one_that_failed() {
        // The requests end at the fourth look.
        let (stop, looks) = (AtomicBool::new(false), AtomicU32::new(0));
        let idle = || {
            let look = looks.fetch_add(1, Ordering::SeqCst);
            async move {
                if look < 3 {
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout(BOUND, requests_ended(idle, &stop, NEVER, LOOK)).await.unwrap();
        assert_eq!(looks.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn requests_that_never_end_are_waited_for_until_the_bound_or_the_stop() {
        let (stop, most, began) = (AtomicBool::new(false), Duration::from_millis(100), Instant::now());
        timeout(BOUND, requests_ended(std::future::pending, &stop, most, LOOK)).await.unwrap();
        assert!(began.elapsed() >= most, "the whole time is waited");

        let stop = Arc::new(AtomicBool::new(false));
        let (told, is_stopped) = (Arc::clone(&stop), Arc::clone(&stop));
        let waits = tokio::spawn(async move { requests_ended(std::future::pending, &told, NEVER, LOOK).await });
        tokio::time::sleep(LOOK * 5).await;
        assert!(!waits.is_finished(), "it waits");
        is_stopped.store(true, Ordering::SeqCst);
        timeout(BOUND, waits).await.unwrap().unwrap();
    }

    #[test]
    fn a_panic_ends_the_run_with_its_text_and_nothing_else() {
        let ended: Result<(), RunError> = unless_it_panics(|| panic!("partition {} is gone", 7));
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("a fault of reduct-sink") && error.contains("partition 7 is gone"), "{error}");
        let ended: Result<(), RunError> = unless_it_panics(|| std::panic::panic_any(7));
        assert!(ended.unwrap_err().to_string().contains("a fault of reduct-sink"), "it says nothing of itself");
        assert_eq!(unless_it_panics(|| Ok(7)).unwrap(), 7);
        let ended: Result<(), RunError> = unless_it_panics(|| Err(RunError::Failed("as it was".into())));
        assert_eq!(ended.unwrap_err().to_string(), RunError::Failed("as it was".into()).to_string());
    }
}
