//! `[[plugins]]`: the chain, and what each plugin may do.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Secret;
use super::checks;
use super::key_table::Word;
use super::layers::{LayerValues, TableOfList};
use super::network::Network;
use super::problem::{ConfigLocation, ConfigProblem};
use super::reader::{KeyReader, defaults, plain_text};
use super::remote::{FetchRules, RemoteAddress, RemotePlugin, remote_plugin, sha256_digits};
use super::swaps::{self, Bake, Trial};
use super::value::{ConfigValue, Value};
use super::when::{self, When};
use crate::record::entry_name::{EntriesAllowed, EntryPattern};

/// One plugin of the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// Unique in the chain; `[a-z0-9-]+`.
    pub name: String,
    /// Where its component comes from.
    pub source: PluginSource,
    /// The only digest that is loaded: 64 hexadecimal digits in small letters. `None`: any.
    pub sha256: Option<String>,
    /// Public keys of minisign, one of which must have signed the file. Empty: the file needs no signature.
    pub signed_by: Vec<String>,
    /// The entries that it may choose.
    pub entries: EntriesAllowed,
    /// JSON text handed to the plugin's `configure`.
    pub config: String,
    /// What becomes of a record on which it failed.
    pub on_failure: FailurePolicy,
    /// How often a record is handed over while the plugin answers `retry`; after the last attempt it is a failure.
    pub attempts: u32,
    /// Of one call.
    pub timeout: Duration,
    /// Of one instance.
    pub memory_bytes: u64,
    /// What one call may answer and log.
    pub limits: PluginLimits,
    /// When an instance is replaced that works.
    pub recycle: Recycle,
    /// Which topics share an instance.
    pub instances: InstancesFor,
    /// `None`: a plugin that fails on everything is still called for every record.
    pub breaker: Option<BreakerConfig>,
    /// What it may reach beside the record.
    pub grants: Grants,
    /// Which records it handles; `None`: all.
    pub when: Option<When>,
    /// How a new version is tried before it takes over.
    pub trial: Trial,
    /// How a new version is compared with the previous one after it took over.
    pub bake: Bake,
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginSource {
    /// The passthrough inside the binary.
    Builtin,
    /// A file.
    File(PathBuf),
    /// A registry or a web server.
    Remote(Box<RemotePlugin>),
}

/// What becomes of a record on which a plugin failed (a trap, a timeout, a wrong answer, a `reject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The record becomes a dead letter.
    DeadLetter,
    /// Settled without being written, and counted.
    Skip,
    /// Goes on as if the plugin weren't there.
    Pass,
    /// The host stops; the offset isn't committed.
    Stop,
}

/// What one call may answer and log, and how large the file may be. A call that exceeds one is a failure and ends the
/// instance; the contract's own limits are the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginLimits {
    /// Parts of one split.
    pub outputs: usize,
    /// Label changes in one output.
    pub labels: usize,
    /// Payloads, names, values and content types of one verdict together.
    pub verdict_bytes: usize,
    /// Lines that one call may log.
    pub log_lines: u64,
    /// Lines a second, over all calls, that are written. Further lines are left out, which is no failure.
    pub log_rate: u32,
    /// HTTP connections at a time, over all instances.
    pub http_connections: usize,
    /// Bytes that one HTTP request may send, and receive.
    pub http_bytes: u64,
    /// The size of the component's file, and so a bound on what it costs to compile.
    pub file_bytes: u64,
}

impl Default for PluginLimits {
    fn default() -> Self {
        defaults(limits)
    }
}

/// When a fresh instance takes over from one that is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recycle {
    /// After this number of calls.
    pub calls: u64,
    /// When it has grown to this number of bytes. `None`: three quarters of the way from its size at the start to its limit.
    pub memory_bytes: Option<u64>,
}

/// What happens when a plugin fails on everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// The breaker opens after this number of failed calls in a row, over all workers.
    pub failures: u32,
    /// What becomes of records while it is open and the plugin isn't called.
    pub then: WhileOpen,
    /// After this time one record is tried, and closes the breaker if the plugin succeeds.
    pub pause: Duration,
}

/// What happens to a plugin's records while its breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileOpen {
    /// Each record becomes a dead letter.
    DeadLetter,
    /// Records are dropped.
    Skip,
    /// Records go on unchanged.
    Pass,
    /// The partition waits.
    Stop,
    /// The records wait, and so do their partitions.
    Wait,
}

impl Word for FailurePolicy {
    const FIRST: (&'static str, Self) = ("dead-letter", Self::DeadLetter);
    const REST: &'static [(&'static str, Self)] = &[("skip", Self::Skip), ("pass", Self::Pass), ("stop", Self::Stop)];
}

impl Word for WhileOpen {
    const FIRST: (&'static str, Self) = ("dead-letter", Self::DeadLetter);
    const REST: &'static [(&'static str, Self)] =
        &[("skip", Self::Skip), ("pass", Self::Pass), ("stop", Self::Stop), ("wait", Self::Wait)];
}

/// Which topics share an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstancesFor {
    /// One instance in each worker serves all topics.
    AllTopics,
    /// One topic each: a plugin can't carry data of one topic into the records of another.
    EachTopic,
}

impl Word for InstancesFor {
    const FIRST: (&'static str, Self) = ("shared", Self::AllTopics);
    const REST: &'static [(&'static str, Self)] = &[("per-topic", Self::EachTopic)];
}

/// What a plugin may reach beside the contract's own functions. Nothing by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grants {
    /// Whether the plugin sees the real clocks.
    pub clocks: bool,
    /// Whether the plugin gets real randomness.
    pub random: bool,
    /// `None`: the host's own value.
    pub environment: BTreeMap<String, Option<Secret>>,
    /// The directories that the plugin sees.
    pub directories: Vec<GrantedDirectory>,
    /// `host:port` in small letters, perhaps with `https://` or `http://` in front.
    pub http: Vec<String>,
    /// Networks that aren't public, in which the granted names may lie.
    pub http_networks: Vec<Network>,
    /// Certificate authorities beside the public ones, in PEM form.
    pub http_ca: Option<PathBuf>,
    /// The host's own files and folders, none of which a granted directory may let it write.
    pub own_files: Vec<PathBuf>,
    /// Those of them that it may not read either.
    pub own_secrets: Vec<PathBuf>,
    /// The directories that plugins may write, this one or another.
    pub written_by_plugins: Vec<PathBuf>,
}

/// A directory of the host that a plugin sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedDirectory {
    /// The directory's path on the host.
    pub path: PathBuf,
    /// What it is called for the plugin.
    pub guest: String,
    /// Whether the plugin may change it.
    pub writable: bool,
}

impl PluginConfig {
    /// With the defaults for all the rest.
    pub fn new(name: impl Into<String>, source: PluginSource) -> Self {
        defaults(|reader| plugin(reader, name.into(), source))
    }
}

const NAME: &str = "plugins.name";

/// Nothing said about plugins is the builtin passthrough alone; an empty list is no plugin.
pub(super) fn chain(
    tables: Option<Vec<TableOfList>>,
    rules: &FetchRules,
    folder: &Path,
    problems: &mut Vec<ConfigProblem>,
) -> Vec<PluginConfig> {
    let passthrough = LayerValues::new();
    let Some(tables) = tables else {
        let mut reader = KeyReader { values: &passthrough, folder, misspelt: &[], pipeline: None, problems };
        return vec![plugin(&mut reader, "passthrough".into(), PluginSource::Builtin)];
    };
    let mut names = HashSet::new();
    let mut chain = Vec::new();
    for TableOfList { values, location } in &tables {
        let mut reader = KeyReader { values, folder, misspelt: &[], pipeline: None, problems };
        let source = plugin_source(&mut reader, rules, location);
        let name = plugin_name(&mut reader, location, source.as_ref());
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            let text = format!("two plugins are called {name:?}, give each a `name` of its own");
            let location = reader.find(NAME).map_or(location, |found| &found.location);
            reader.problems.push(ConfigProblem::at(location, NAME, text));
        }
        // Read even if it can't run, for what else may be wrong with it.
        chain.push(plugin(&mut reader, name.unwrap_or_default(), source.unwrap_or(PluginSource::Builtin)));
    }
    chain
}

/// As given, or else made of the file's stem.
fn plugin_name(reader: &mut KeyReader<'_>, location: &ConfigLocation, source: Option<&PluginSource>) -> Option<String> {
    if reader.find(NAME).is_some() {
        let expected = "a name of small letters, digits and `-`";
        return reader.parsed(NAME, expected, |found| checks::plugin_name(plain_text(found)?));
    }
    let path = match source? {
        PluginSource::Builtin => return Some("passthrough".into()),
        PluginSource::File(path) => path,
        PluginSource::Remote(remote) => Path::new(remote.address.last_name()),
    };
    let name = plugin_name_of(path);
    if name.is_none() {
        let text = "missing: the file's name has no letters to make one of, give it a `name`";
        reader.problems.push(ConfigProblem::at(location, NAME, text));
    }
    name
}

/// The name of a plugin that is called after its file: the name without its extension, in small letters, with `-` for
/// what isn't a letter or digit. `None`: nothing of it is.
pub fn plugin_name_of(file: &Path) -> Option<String> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let parts = stem.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let name = parts.collect::<Vec<_>>().join("-");
    (!name.is_empty()).then_some(name)
}

/// Where a plugin comes from.
fn plugin_source(reader: &mut KeyReader<'_>, rules: &FetchRules, location: &ConfigLocation) -> Option<PluginSource> {
    let expected = "one of \"passthrough\"";
    let builtin =
        reader.parsed("plugins.builtin", expected, |found| (plain_text(found)? == "passthrough").then_some(()));
    let address = reader.text("plugins.path").filter(|text| RemoteAddress::is_meant(text));
    let remote = address.is_some();
    let follow = reader.optional_duration("plugins.follow");
    if let (Some(found), false) = (reader.find("plugins.follow"), remote) {
        reader.reject("plugins.follow", found, "none beside a file, which is always followed, or beside `builtin`");
    }
    let path = match address {
        Some(address) => remote_plugin(reader, &address, follow, rules).map(Box::new).map(PluginSource::Remote),
        None => reader.path("plugins.path").map(PluginSource::File),
    };
    match (reader.find("plugins.path"), reader.find("plugins.builtin")) {
        (None, None) => {
            let text = "missing: set the `path` of a component, or `builtin = \"passthrough\"`";
            reader.problems.push(ConfigProblem::at(location, "plugins.path", text));
            None
        }
        (Some(_), Some(found)) => {
            let text = "`path` is set too, expected one of them";
            reader.problems.push(ConfigProblem::at(&found.location, "plugins.builtin", text));
            None
        }
        (None, Some(_)) => builtin.map(|()| PluginSource::Builtin),
        (Some(_), None) => path,
    }
}

fn plugin(reader: &mut KeyReader<'_>, name: String, source: PluginSource) -> PluginConfig {
    PluginConfig {
        name,
        sha256: sha256(reader, &source),
        source,
        signed_by: Vec::new(),
        entries: entries(reader),
        config: plugin_config(reader),
        on_failure: reader.choice("plugins.on_failure"),
        attempts: reader.number("plugins.attempts"),
        timeout: reader.duration("plugins.timeout"),
        memory_bytes: reader.size("plugins.memory"),
        limits: limits(reader),
        recycle: recycle(reader),
        instances: reader.choice("plugins.instances"),
        breaker: breaker(reader),
        grants: grants(reader),
        when: when::when(reader),
        trial: swaps::trial(reader),
        bake: swaps::bake(reader),
    }
}

fn sha256(reader: &mut KeyReader<'_>, source: &PluginSource) -> Option<String> {
    let expected = "the file's sha256: 64 hexadecimal digits, as `sha256sum` prints them";
    let sha256 = reader.parsed("plugins.sha256", expected, |found| sha256_digits(plain_text(found)?.trim()));
    if let PluginSource::Remote(remote) = source
        && let RemoteAddress::Web(web) = &remote.address
        && let Some(digest) = &web.sha256
    {
        if let (Some(found), Some(_)) = (reader.find("plugins.sha256"), sha256.filter(|sha256| sha256 != digest)) {
            reader.reject("plugins.sha256", found, "the same digest as behind the # of `path`, or only one of them");
        }
        return Some(digest.clone());
    }
    if let (Some(found), Some(_)) = (reader.find("plugins.sha256"), reader.find("plugins.builtin")) {
        reader.reject("plugins.sha256", found, "none beside `builtin`, which is part of the host");
    }
    sha256
}

fn entries(reader: &mut KeyReader<'_>) -> EntriesAllowed {
    let expected = "a list of entry names, in which `*` stands for anything and `{topic}` for the topic's own name";
    let listed = reader.parsed("plugins.limits.entries", expected, |found| match &found.value {
        Value::List(items) => items.iter().map(|item| EntryPattern::parse(plain_text(item)?)).collect(),
        _ => None,
    });
    listed.map_or_else(EntriesAllowed::default, EntriesAllowed::Listed)
}

fn limits(reader: &mut KeyReader<'_>) -> PluginLimits {
    PluginLimits {
        outputs: reader.number("plugins.limits.outputs"),
        labels: reader.number("plugins.limits.labels"),
        verdict_bytes: reader.size("plugins.limits.verdict"),
        log_lines: reader.number("plugins.limits.log_lines"),
        log_rate: reader.number("plugins.limits.log_rate"),
        http_connections: reader.number("plugins.limits.http_connections"),
        http_bytes: reader.size("plugins.limits.http_size"),
        file_bytes: reader.size("plugins.limits.file_size"),
    }
}

fn recycle(reader: &mut KeyReader<'_>) -> Recycle {
    Recycle {
        calls: reader.number("plugins.recycle.calls"),
        memory_bytes: reader.optional_size("plugins.recycle.memory"),
    }
}

fn breaker(reader: &mut KeyReader<'_>) -> Option<BreakerConfig> {
    let then = reader.optional_choice("plugins.breaker.then");
    let failures = reader.number("plugins.breaker.failures");
    let pause = reader.duration("plugins.breaker.pause");
    if reader.find("plugins.breaker.then").is_none() {
        for key in ["plugins.breaker.failures", "plugins.breaker.pause"] {
            if let Some(found) = reader.find(key) {
                let text = "a breaker that does nothing, set `then` as well, such as \"wait\"";
                reader.problems.push(ConfigProblem::at(&found.location, key, text));
            }
        }
    }
    Some(BreakerConfig { failures, then: then?, pause })
}

fn grants(reader: &mut KeyReader<'_>) -> Grants {
    Grants {
        clocks: reader.boolean("plugins.grants.clocks"),
        random: reader.boolean("plugins.grants.random"),
        environment: environment(reader).unwrap_or_default(),
        directories: directories(reader),
        http: http(reader),
        http_networks: http_networks(reader),
        http_ca: reader.path("plugins.grants.http_ca"),
        own_files: Vec::new(),
        own_secrets: Vec::new(),
        written_by_plugins: Vec::new(),
    }
}

/// A table of values, or a list of names whose values are the host's own.
fn environment(reader: &mut KeyReader<'_>) -> Option<BTreeMap<String, Option<Secret>>> {
    let expected = "a table of texts such as { SITE = \"hall-3\" }, or a list of names in the host's environment";
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    reader.parsed("plugins.grants.environment", expected, |found| match &found.value {
        Value::Table(entries) => {
            let value = |(name, found): &(String, ConfigValue)| match &found.value {
                Value::Text(text) if is_name(name) && !text.contains('\0') => {
                    Some((name.clone(), Some(Secret::new(text.as_str()))))
                }
                _ => None,
            };
            entries.iter().map(value).collect()
        }
        Value::List(names) => {
            let name = |found: &ConfigValue| {
                let name = plain_text(found).filter(|name| is_name(name))?;
                Some((name.to_owned(), None))
            };
            names.iter().map(name).collect()
        }
        _ => None,
    })
}

fn directories(reader: &mut KeyReader<'_>) -> Vec<GrantedDirectory> {
    let expected = "a list of { path = \"models\", guest = \"/models\" }, where `writable = true` allows to write";
    let folder = reader.folder;
    let directories = reader.parsed("plugins.grants.directories", expected, |found| {
        let Value::List(items) = &found.value else { return None };
        items.iter().map(|item| directory(item, folder)).collect::<Option<Vec<_>>>()
    });
    directories.unwrap_or_default()
}

fn directory(item: &ConfigValue, folder: &Path) -> Option<GrantedDirectory> {
    let Value::Table(entries) = &item.value else { return None };
    let find = |wanted: &str| entries.iter().find(|(key, _)| key == wanted).map(|(_, found)| found);
    if entries.iter().any(|(key, _)| !matches!(key.as_str(), "path" | "guest" | "writable")) {
        return None;
    }
    let writable = match find("writable").map(|found| &found.value) {
        None => false,
        Some(Value::Boolean(writable)) => *writable,
        Some(_) => return None,
    };
    let (path, guest) = (plain_text(find("path")?)?, plain_text(find("guest")?)?);
    Some(GrantedDirectory { path: folder.join(path), guest: guest.to_owned(), writable })
}

fn http(reader: &mut KeyReader<'_>) -> Vec<String> {
    let expected = "a list of hosts with their ports, such as [\"example.com:443\"]";
    let target = |found: &ConfigValue| {
        let text = plain_text(found)?.to_ascii_lowercase();
        let (scheme, text) = ["https://", "http://"]
            .iter()
            .find_map(|scheme| Some((*scheme, text.strip_prefix(scheme)?)))
            .unwrap_or(("", &text));
        let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let is_one = has_port && !text.contains([',', '/', '@']) && checks::brokers(text).is_some();
        is_one.then(|| format!("{scheme}{text}"))
    };
    let targets = reader.parsed("plugins.grants.http", expected, |found| match &found.value {
        Value::List(items) => items.iter().map(target).collect::<Option<Vec<_>>>(),
        _ => None,
    });
    targets.unwrap_or_default()
}

fn http_networks(reader: &mut KeyReader<'_>) -> Vec<Network> {
    let expected = "a list of networks or addresses, such as [\"10.0.0.0/8\", \"fd00::/8\"]";
    let networks = reader.parsed("plugins.grants.http_networks", expected, |found| match &found.value {
        Value::List(items) => items.iter().map(|item| plain_text(item)?.parse().ok()).collect::<Option<Vec<_>>>(),
        _ => None,
    });
    networks.unwrap_or_default()
}

/// The plugin's own table as JSON text.
fn plugin_config(reader: &mut KeyReader<'_>) -> String {
    const KEY: &str = "plugins.config";
    let Some(found) = reader.find(KEY) else { return "{}".into() };
    if !matches!(found.value, Value::Table(_)) {
        reader.reject(KEY, found, "a table: [plugins.config]");
    }
    match found.to_json() {
        Ok(json) => json.to_string(),
        Err(problem) => {
            reader.problems.push(ConfigProblem { key: KEY.into(), ..problem });
            "{}".into()
        }
    }
}
