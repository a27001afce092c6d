//! A plugin that is ready: compiled, checked and once started. Cheap to clone and to share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::Breaker;
use super::config_version::ConfigVersion;
use super::counters::{CounterSet, Counts, PluginCounters};
use super::digest::Digest;
use super::engine::PreparedComponent;
use super::failure_log::{FailureLog, RecentFailure};
use super::host_calls::HostCalls;
use super::http_client::HttpClient;
use super::line_table::LineTable;
use super::log::PluginLog;
use super::open_files::OpenFiles;
use crate::config::{FailurePolicy, Grants, PluginLimits, Recycle};
use crate::record::InputRecord;
use crate::record::entry_name::EntriesAllowed;
use crate::record::labels::LabelRules;

/// A compiled component with its configuration and limits, ready to be started in each worker. Cheap to clone.
#[derive(Clone)]
pub struct LoadedPlugin {
    /// The plugin's name in the configuration.
    pub name: Arc<str>,
    /// The digest of the component.
    pub digest: Digest,
    /// Identifies its configuration; `None`: it has none.
    pub config: Option<ConfigVersion>,
    /// The file's size.
    pub bytes: usize,
    /// Whether it came from the cache and needed no compiling.
    pub from_cache: bool,
    /// How long compiling took, or reading it from the cache.
    pub compiled_in: Duration,
    /// How long it took to start and configure a first instance.
    pub started_in: Duration,
    pub(super) code: Arc<Code>,
}

/// What instances are started from.
pub(super) struct Code {
    pub pre: PreparedComponent,
    pub lines: LineTable,
    /// The most that an instance of one of its core modules takes in the host's memory.
    pub core_state: usize,
    pub config: String,
    pub timeout: Duration,
    pub memory_bytes: u64,
    pub limits: PluginLimits,
    /// The entries that it may choose.
    pub entries: EntriesAllowed,
    pub recycle: Recycle,
    pub grants: Arc<Grants>,
    /// What the hash tables of its instances are seeded with.
    pub seed: u64,
    pub labels: Arc<LabelRules>,
    pub log: Arc<PluginLog>,
    /// `None`: no host is granted.
    pub http: Option<Arc<HttpClient>>,
    /// That its instances have open.
    pub files: Arc<OpenFiles>,
    pub failures: FailureLog,
    pub breaker: Breaker,
    /// Outlives the code: what a version did is still reported after it was replaced.
    pub counters: Arc<CounterSet>,
    pub host_calls: Arc<HostCalls>,
}

impl LoadedPlugin {
    /// What this version has decided so far, over all workers.
    pub fn counts(&self) -> Counts {
        self.code.counters.sum()
    }

    /// The kinds of failures that it had, the latest first.
    pub fn recent_failures(&self) -> Vec<RecentFailure> {
        self.code.failures.recent()
    }

    /// Whether its circuit breaker is open: then it isn't asked.
    pub fn breaker_is_open(&self) -> bool {
        self.code.breaker.is_open()
    }

    /// Reports log lines that were left out and not reported yet: the host is about to end.
    pub fn end_log(&self) {
        self.code.log.report_rest();
        self.code.failures.report_rest();
    }

    /// Logs how often the plugin failed lately, and how many of its lines were left out, if that wasn't said within the last minute.
    pub(crate) fn report_counted_failures(&self) {
        let now = Instant::now();
        self.code.failures.report_due(now);
        self.code.log.report_due(now);
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.code.breaker
    }

    /// What [`Self::counts`] sums, without the code.
    pub(crate) fn counter_set(&self) -> Arc<CounterSet> {
        self.code.counters.clone()
    }

    /// Counters for one more worker.
    pub(crate) fn counters(&self) -> Arc<PluginCounters> {
        self.code.counters.join()
    }

    /// Logs that the plugin failed on this record, unless it failed alike before: then it is counted.
    pub(crate) fn report_failure(&self, record: &InputRecord, policy: FailurePolicy, reason: &str) {
        self.code.failures.report(record, policy, reason, Instant::now());
    }

    /// `name@digest`, as records are marked; `name@digest:configuration` for a plugin that is configured.
    pub(crate) fn mark(&self) -> String {
        format!("{}@{}", self.name, self.version())
    }

    /// The same without the name.
    pub(crate) fn version(&self) -> String {
        version_text(self.digest, self.config)
    }

    /// Whether the two are one and the same load, not just the same bytes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.code, &other.code)
    }
}

/// A version as logs and records name it: the digest, with the configuration behind it where there is one.
pub(super) fn version_text(digest: Digest, config: Option<ConfigVersion>) -> String {
    let digest = digest.short();
    config.map_or_else(|| digest.clone(), |config| format!("{digest}:{config}"))
}

impl fmt::Debug for LoadedPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedPlugin").field("mark", &self.mark()).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
