//! A pipeline's slot: its configuration, and the host that runs the pipeline, or why no host does. It outlasts each run of the pipeline.
//! A process has one slot, or one for each of several pipelines.
//!
//! Guarantees: every question gets an answer, whatever the state; what a failure's text says of records or of the configuration is shown
//! only to callers who may act.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::host::Host;
use super::run::Lasting;
use super::{RunError, lock};
use crate::config::{Config, PluginConfig};
use crate::health::build;
use crate::health::history::HistoryShown;
use crate::health::problems::HealthProblem;
use crate::health::report::HostReport;
use crate::health::server::{Action, Reporter};
use crate::health::tap::{TapAnswer, TapQuestion};
use crate::sink::DeadLetterNote;

pub(super) struct PipelineSlot {
    /// `None`: the pipeline is the only one of its process.
    given_name: Option<Arc<str>>,
    /// The given name, or "default".
    name: Arc<str>,
    /// What the pipeline was started with.
    config: Mutex<Config>,
    /// Every set of plugins that the pipeline has taken over or used since it was started: it may be running with any of them.
    taken_over: Mutex<Vec<Vec<PluginConfig>>>,
    /// The id of the Kafka cluster that it was last started with.
    cluster: Mutex<Option<String>>,
    state: Mutex<SlotState>,
    pub lasting: Lasting,
    /// Whether a start of the pipeline has succeeded or failed yet.
    tried: AtomicBool,
    /// Whether a start of the pipeline has succeeded yet.
    ran: AtomicBool,
    /// How often the pipeline has failed.
    failures: Mutex<u64>,
}

/// What the pipeline does.
enum SlotState {
    /// It is being started for the first time.
    Starting { since: Instant },
    /// This host runs it.
    Runs(Arc<Host>),
    /// It failed. It may be being started again.
    Failed(SlotFailure),
    /// It was told to stop, and has ended.
    Ended,
}

#[derive(Clone)]
struct SlotFailure {
    since: Instant,
    full: String,
    public: String,
    /// When the pipeline is started again; `None`: it isn't.
    again_at: Option<Instant>,
}

impl PipelineSlot {
    pub fn new(config: Config, stop: Arc<AtomicBool>) -> Self {
        Self {
            given_name: config.pipeline.clone(),
            name: config.pipeline.clone().unwrap_or_else(|| "default".into()),
            config: Mutex::new(config),
            taken_over: Mutex::default(),
            cluster: Mutex::default(),
            state: Mutex::new(SlotState::Starting { since: Instant::now() }),
            lasting: Lasting { stop, ..Lasting::default() },
            tried: AtomicBool::new(false),
            ran: AtomicBool::new(false),
            failures: Mutex::new(0),
        }
    }

    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub fn config(&self) -> Config {
        lock(&self.config).clone()
    }

    pub fn configure(&self, config: Config) {
        *lock(&self.config) = config;
        lock(&self.taken_over).clear();
    }

    /// Takes note that the running pipeline takes the plugins `new` over, and that those of `in_use` may decide about records, too.
    pub fn takes_over(&self, new: &[PluginConfig], in_use: &[Arc<PluginConfig>]) {
        let in_use = in_use.iter().map(|plugin| PluginConfig::clone(plugin)).collect();
        let (configured, mut taken_over) = (self.config().plugins, lock(&self.taken_over));
        // No set is forgotten before the pipeline is started again: a worker on which a new version doesn't start keeps the old one, and
        // what an older version decided may still wait for the store.
        for plugins in [new.to_vec(), in_use] {
            if plugins != configured && !taken_over.contains(&plugins) {
                taken_over.push(plugins);
            }
        }
    }

    /// Every configuration that the pipeline may be running with.
    pub fn configs(&self) -> Vec<Config> {
        let config = self.config();
        let with = |plugins: &Vec<PluginConfig>| Config { plugins: plugins.clone(), ..config.clone() };
        [config.clone()].into_iter().chain(lock(&self.taken_over).iter().map(with)).collect()
    }

    pub fn cluster(&self) -> Option<String> {
        lock(&self.cluster).clone()
    }

    pub fn belongs_to(&self, cluster: &str) {
        *lock(&self.cluster) = Some(cluster.to_owned());
    }

    pub fn has_been_tried(&self) -> bool {
        self.tried.load(Ordering::SeqCst)
    }

    /// Whether the pipeline could be started at least once.
    pub fn has_run(&self) -> bool {
        self.ran.load(Ordering::SeqCst)
    }

    pub fn starts(&self) {
        // Its last failure is shown until it runs again.
        if let SlotState::Failed(failure) = &mut *lock(&self.state) {
            failure.again_at = Some(Instant::now());
        }
    }

    pub fn runs(&self, host: Arc<Host>) {
        *lock(&self.state) = SlotState::Runs(host);
        self.ran.store(true, Ordering::SeqCst);
        self.tried.store(true, Ordering::SeqCst);
    }

    pub fn ended(&self) {
        *lock(&self.state) = SlotState::Ended;
        self.tried.store(true, Ordering::SeqCst);
    }

    /// `again`: after which time the pipeline is started again; `None`: it isn't.
    pub fn failed(&self, failure: &RunError, again: Option<Duration>) {
        let mut state = lock(&self.state);
        let since = match &*state {
            SlotState::Failed(before) => before.since,
            _ => Instant::now(),
        };
        let public = match failure {
            RunError::Store { .. } | RunError::Kafka(_) => failure.to_string(),
            RunError::Plugin(error) => {
                format!("plugin {} doesn't load; why is shown to callers who may act", error.plugin)
            }
            _ => match &*state {
                SlotState::Runs(host) => host.failure().map(|reason| reason.public.clone()),
                _ => None,
            }
            .unwrap_or_else(|| "it failed; why is shown to callers who may act".into()),
        };
        let again_at = again.map(|wait| Instant::now() + wait);
        *state = SlotState::Failed(SlotFailure { since, full: failure.to_string(), public, again_at });
        *lock(&self.failures) += 1;
        self.tried.store(true, Ordering::SeqCst);
    }

    fn host(&self) -> Option<Arc<Host>> {
        match &*lock(&self.state) {
            SlotState::Runs(host) => Some(Arc::clone(host)),
            _ => None,
        }
    }

    /// Asks the host that runs the pipeline.
    fn ask<T>(&self, question: impl FnOnce(&Host) -> Result<T, String>) -> Result<T, String> {
        let host = self.host().ok_or_else(|| match &self.given_name {
            Some(name) => format!("pipeline {name} isn't running; /health says why"),
            None => "the host isn't running yet; /health says why".into(),
        })?;
        question(&host)
    }

    /// The report while no host runs the pipeline.
    fn report_without_host(&self) -> HostReport {
        let config = lock(&self.config);
        let mut report = HostReport {
            version: env!("CARGO_PKG_VERSION"),
            build: build::facts(),
            pid: std::process::id(),
            group: config.kafka.group.clone(),
            topics: config.kafka.topics.clone(),
            store: config.store.url.clone(),
            bucket: config.store.bucket.clone(),
            ..HostReport::default()
        };
        match &*lock(&self.state) {
            SlotState::Starting { since } => {
                let code = if self.given_name.is_some() { "pipeline.starting" } else { "host.starting" };
                let message = format!("it is being started: {}", self.lasting.starting.now());
                report.problems.push(HealthProblem::since(code, message, since.elapsed().as_secs()));
            }
            SlotState::Failed(failure) => {
                let next = match failure.again_at {
                    Some(at) => format!(
                        "it is started again in {} s, with the configuration as it is then",
                        at.saturating_duration_since(Instant::now()).as_secs()
                    ),
                    None => "it isn't started again, because too many threads hang in its plugins; restart the process"
                        .into(),
                };
                let told = |why: &str| format!("the pipeline failed: {why}; {next}");
                report.problems.push(HealthProblem::since(
                    "pipeline.failed",
                    told(&failure.full),
                    failure.since.elapsed().as_secs(),
                ));
                report.public_texts.push(("pipeline.failed", told(&failure.public)));
            }
            SlotState::Runs(_) | SlotState::Ended => {}
        }
        report
    }
}

impl Reporter for PipelineSlot {
    fn report(&self) -> HostReport {
        let host = self.host();
        let mut report = host.as_ref().map_or_else(|| self.report_without_host(), |host| host.report());
        if self.given_name.is_some()
            && let Some(hangs) = host.and_then(|host| host.hangs())
        {
            // The liveness probe doesn't show it, because a restart of the process would stop the other pipelines, too.
            let message = format!("{hangs}; only a restart of the process helps");
            report.problems.push(HealthProblem::new("pipeline.hangs", message));
        }
        report.pipeline = self.given_name.as_ref().map(ToString::to_string);
        report.pipeline_failures = *lock(&self.failures);
        report.stopping = self.lasting.stop.load(Ordering::SeqCst);
        report
    }

    /// Of several pipelines, one that failed isn't dead as long as it is started again; one whose polling thread hangs is.
    fn is_dead(&self) -> Option<String> {
        match &*lock(&self.state) {
            SlotState::Runs(host) if self.given_name.is_none() => host.is_dead(),
            SlotState::Runs(host) => host.hangs(),
            SlotState::Failed(failure) if failure.again_at.is_none() => Some(failure.public.clone()),
            _ => None,
        }
    }

    fn act(&self, plugin: &str, action: Action) -> Result<String, String> {
        self.ask(|host| host.act(plugin, action))
    }

    fn pause(&self, topic: Option<&str>) -> Result<String, String> {
        self.ask(|host| host.pause(topic))
    }

    fn resume(&self, topic: Option<&str>) -> Result<String, String> {
        self.ask(|host| host.resume(topic))
    }

    fn replay(&self, write: bool) -> Result<String, String> {
        self.ask(|host| host.replay(write))
    }

    fn dead_letters(&self) -> Vec<DeadLetterNote> {
        self.host().map(|host| host.dead_letters()).unwrap_or_default()
    }

    fn history(&self) -> HistoryShown {
        self.host().map(|host| host.history()).unwrap_or_default()
    }

    fn tap(&self, question: TapQuestion) -> Result<TapAnswer, String> {
        self.ask(|host| host.tap(question))
    }
}
