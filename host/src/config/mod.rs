//! The configuration: read raw from a TOML file, the environment and flags, then validated once into the types below.
//!
//! Guarantees: reading and validating do no I/O beyond the configuration file and the files that it takes values from; a
//! [`Config`] needs no further check; every error names the file, the key, what was found and what would be right.

mod assemble;
mod attachments;
mod checks;
mod key_table;
mod layers;
mod network;
mod overlap;
mod pipelines;
#[cfg(test)]
mod pipelines_tests;
mod plugins;
mod problem;
mod property_files;
mod reader;
mod reference;
mod regular_file;
mod remote;
mod schema;
mod store;
mod substitute;
mod swaps;
#[cfg(test)]
mod tests;
pub mod threads;
mod validate;
mod value;
mod warnings;
mod when;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::attachments::AttachmentRule;
use self::key_table::Word;
pub use self::key_table::{Key, KeyFlag, PREFIX, keys, nearest, needs_restart};
pub use self::layers::Flag;
use self::layers::Layers;
pub(crate) use self::network::why_not_public;
pub use self::network::{Network, NoNetwork};
pub use self::pipelines::Pipelines;
pub use self::plugins::{
    BreakerConfig, FailurePolicy, GrantedDirectory, Grants, InstancesFor, PluginConfig, PluginLimits, PluginSource,
    Recycle, WhileOpen, plugin_name_of,
};
pub use self::problem::{ConfigLocation, ConfigProblem, ConfigProblems};
pub use self::reader::in_full;
pub use self::reference::{example, reference};
pub(crate) use self::regular_file::{open_regular, read_small, read_small_text};
pub use self::remote::{FetchRules, OciAddress, RemoteAddress, RemotePlugin, WebAddress, host_of};
pub use self::schema::schema;
pub use self::swaps::{Bake, Mode, Share, Trial};
pub use self::warnings::of_process as warning_of_process;
pub use self::when::{HeaderIs, TopicIs, When};
use crate::record::content_type::ContentTypes;

/// `limits.compile_memory` and `limits.compile_time` where nobody sets them.
pub(crate) fn default_compile_limits() -> (u64, Duration) {
    reader::defaults(|reader| (reader.size("limits.compile_memory"), reader.duration("limits.compile_time")))
}

/// What a configuration is put together from.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// The file, and the flag or variable that named it.
    pub file: Option<(PathBuf, ConfigLocation)>,
    /// The process's environment, from which `REDUCT_SINK_*` is read.
    pub environment: Vec<(OsString, OsString)>,
    /// The keys that the command line sets.
    pub flags: Vec<Flag>,
    /// The only pipeline that is wanted. `None`: all.
    pub pipeline: Option<String>,
}

/// The outcome of loading a configuration. The warnings matter most when it failed.
#[derive(Debug)]
pub struct LoadOutcome {
    /// What the configuration risks, and variables that are unknown.
    pub warnings: Vec<String>,
    /// The pipelines, or everything that is wrong with them.
    pub config: Result<Pipelines, ConfigProblems>,
}

/// Reads what the sources say, lays the environment over the file and the flags over both, and validates the result.
pub fn load(sources: Sources) -> LoadOutcome {
    let mut layers = Layers::default();
    if let Some((path, named_by)) = &sources.file {
        layers.read_file(path, named_by);
    }
    let text = |(name, value): &(OsString, OsString)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
    let environment: BTreeMap<String, String> = sources.environment.iter().filter_map(text).collect();
    layers.read_environment(sources.environment.into_iter());
    layers.read_flags(sources.flags);
    let file = sources.file.as_ref().map(|(path, _)| path.as_path());
    assemble::assemble(layers, &environment, file, sources.pipeline.as_deref())
}

/// Everything `run` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Its name among several pipelines. `None`: the file has no `[pipelines]`, and this is the only one.
    pub pipeline: Option<Arc<str>>,
    /// Where the records come from.
    pub kafka: Kafka,
    /// Where the records go.
    pub store: StoreConfig,
    /// The chain, in order. Empty: records are written as they come.
    pub plugins: Vec<PluginConfig>,
    /// Where records go that a plugin failed on, or that ReductStore refused.
    pub dead_letters: DeadLetters,
    /// What the host may use.
    pub limits: Limits,
    /// What is added to the labels of each record.
    pub labels: Labels,
    /// Health, status and control over HTTP.
    pub status: StatusConfig,
    /// Spans for OpenTelemetry.
    pub traces: TracesConfig,
    /// Where compiled plugins are kept.
    pub cache: CacheConfig,
    /// Files that ReductStore keeps beside the records of an entry.
    pub attachments: Vec<AttachmentRule>,
    /// Files beside the configuration file from which values came, such as the token's: a change of one changes the
    /// configuration.
    pub files: Vec<PathBuf>,
}

/// Where compiled plugins are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// The folder.
    pub folder: CacheFolder,
    /// What the folder may grow to.
    pub bytes: u64,
}

/// Where compiled plugins are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheFolder {
    /// Below the user's own cache folder.
    Default,
    /// In this folder.
    At(PathBuf),
    /// Nowhere: each start compiles all plugins.
    Nowhere,
}

/// Health, status, metrics and control over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusConfig {
    /// `host:port` to listen on; `None`: nowhere.
    pub listen: Option<String>,
    /// A further `host:port`, for the probes and the metrics alone.
    pub probes_listen: Option<String>,
    /// Callers who have the token in this file may act. It is read for each of them.
    pub token_file: Option<PathBuf>,
    /// Whether anybody may act.
    pub control: ControlAccess,
}

/// Spans for OpenTelemetry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TracesConfig {
    /// Where they are sent to; `None`: where OpenTelemetry's own variables say, or nowhere.
    pub endpoint: Option<String>,
}

/// Whether plugins can be promoted and rolled back over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlAccess {
    /// By nobody.
    Off,
    /// Through the Unix socket, and by callers who have the token.
    On,
}

impl Word for ControlAccess {
    const FIRST: (&'static str, Self) = ("off", Self::Off);
    const REST: &'static [(&'static str, Self)] = &[("on", Self::On)];
}

/// The table `[kafka]`.
#[derive(Clone, PartialEq)]
pub struct Kafka {
    /// `host:port` pairs, comma-separated: librdkafka's `bootstrap.servers`.
    pub brokers: String,
    /// Topic names; one that begins with `^` is a regular expression.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// What this host is called in its group.
    pub member: MemberName,
    /// Where a partition begins without a committed offset.
    pub start: StartPolicy,
    /// What happens at a batch that can't be read.
    pub on_unreadable: OnUnreadable,
    /// Any librdkafka property, as given. It wins over what the host sets itself, except for those that the host owns.
    pub properties: BTreeMap<String, String>,
    /// The properties whose values come from files, and these files.
    pub property_files: BTreeMap<String, PathBuf>,
}

impl Kafka {
    /// Whether records of more than one topic may come.
    pub fn several_topics(&self) -> bool {
        self.topics.len() > 1 || self.topics.iter().any(|topic| topic.starts_with('^'))
    }

    /// The most bytes that librdkafka takes in one response, and unpacks a batch to.
    pub fn most_received(&self) -> usize {
        /// librdkafka's default.
        const DEFAULT: usize = 100_000_000;
        self.properties.get("receive.message.max.bytes").and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(DEFAULT)
    }
}

#[cfg(test)]
impl Kafka {
    /// What a test reads these topics with: in the group `group`, from the earliest offset.
    pub fn for_test(brokers: impl Into<String>, topics: &[&str]) -> Self {
        Self {
            brokers: brokers.into(),
            topics: topics.iter().map(ToString::to_string).collect(),
            group: "group".into(),
            member: MemberName::Nameless,
            start: StartPolicy::Earliest,
            on_unreadable: OnUnreadable::Wait,
            properties: BTreeMap::new(),
            property_files: BTreeMap::new(),
        }
    }
}

/// Without the values of the properties, among which passwords may be.
impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("brokers", &self.brokers)
            .field("topics", &self.topics)
            .field("group", &self.group)
            .field("member", &self.member)
            .field("start", &self.start)
            .field("on_unreadable", &self.on_unreadable)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

/// What a host is called in its group. A host that is killed and started again under the same name gets its partitions
/// back at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MemberName {
    /// A name that the machine gives: the first one that no other process of it has.
    OfMachine,
    /// No name.
    #[default]
    Nameless,
    /// This one. The operator sees to it that no two hosts of the group have it.
    Chosen(String),
}

/// A text that no log shows by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from the logs.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What happens at a batch of records that can't be read: its checksum is wrong, or it can't be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnreadable {
    /// The partition waits, and the batch is fetched again from time to time.
    Wait,
    /// The host stops with an error.
    Stop,
    /// The partition goes on behind the batch, whose records are lost to the sink.
    Skip,
}

impl Word for OnUnreadable {
    const FIRST: (&'static str, Self) = ("wait", Self::Wait);
    const REST: &'static [(&'static str, Self)] = &[("stop", Self::Stop), ("skip", Self::Skip)];
}

/// Where a partition begins that has no committed offset, or whose committed offset the broker no longer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPolicy {
    /// With the oldest record that the topic still has.
    Earliest,
    /// Behind the newest record.
    Latest,
    /// Stop with an error rather than choose.
    Fail,
}

impl Word for StartPolicy {
    const FIRST: (&'static str, Self) = ("earliest", Self::Earliest);
    const REST: &'static [(&'static str, Self)] = &[("latest", Self::Latest), ("fail", Self::Fail)];
}

/// The table `[store]`.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    /// `http://` or `https://`, host, port and path prefix.
    pub url: String,
    /// The access token.
    pub token: Option<Secret>,
    /// The file that the token came from: it is read again when the store refuses the token.
    pub token_file: Option<PathBuf>,
    /// The bucket to write to.
    pub bucket: String,
    /// The entry's name, from `{name}` (a plugin's choice, or else the topic), `{topic}` and `{partition}`. `None`: the
    /// name alone for a topic of one partition, `{name}/{partition}` for more.
    pub entry: Option<String>,
    /// One request's limit, end to end.
    pub timeout: Duration,
    /// PEM file of further certificate authorities.
    pub ca: Option<PathBuf>,
    /// Whether the server's certificate is checked.
    pub verify_tls: bool,
    /// How many records one request writes at most.
    pub batch_records: usize,
    /// How many bytes one request writes at most; a larger record is sent alone.
    pub batch_bytes: u64,
    /// The settings of a bucket that the host creates.
    pub create: BucketSettings,
    /// Write nothing and count every record as written, to measure the host itself.
    pub discard: bool,
    /// Read every record back before it counts as written.
    pub verify_writes: bool,
    /// Several hosts may run although the template puts records of several partitions into one entry.
    pub shared_entries: bool,
    /// The content types of topics whose records say nothing themselves.
    pub content_types: ContentTypes,
}

/// The settings of a bucket that the sink creates; one that exists is left as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketSettings {
    /// How many records a block holds at most.
    pub max_block_records: u64,
    /// How many bytes a block holds at most.
    pub max_block_bytes: u64,
    /// What happens when the bucket is full; `None`: it never is.
    pub quota: Option<Quota>,
}

/// The limit of a bucket's size that the store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// The oldest block goes when the bucket is full.
    Fifo(u64),
    /// Writing is refused when the bucket is full.
    Hard(u64),
}

/// The words of `store.create.quota_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotaType {
    None,
    Fifo,
    Hard,
}

impl Word for QuotaType {
    const FIRST: (&'static str, Self) = ("fifo", Self::Fifo);
    const REST: &'static [(&'static str, Self)] = &[("hard", Self::Hard), ("none", Self::None)];
}

/// The table `[dead_letters]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetters {
    /// Entry template in the same bucket, from `{topic}` and `{partition}`.
    pub entry: String,
    /// A Kafka topic instead of the entry.
    pub topic: Option<String>,
}

/// The table `[limits]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Records read and not yet acknowledged, over all partitions.
    pub in_flight_records: usize,
    /// The same in bytes. A record that exceeds it is read alone.
    pub in_flight_bytes: usize,
    /// Threads that run plugins.
    pub workers: usize,
    /// From SIGTERM to exit at the latest.
    pub shutdown: Duration,
    /// After how long without progress a partition that has work is reported as stuck.
    pub stuck_after: Duration,
    /// What compiling one plugin may take, in a process of its own.
    pub compile_memory: u64,
    /// Processor time.
    pub compile_time: Duration,
}

pub use crate::record::labels::LabelRules as Labels;
