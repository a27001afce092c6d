//! Every key of the configuration, with the environment variable and the flag that can set it. This table is what the
//! file is checked against, what the environment is read by, and what the documentation is tested for.

use super::problem::Place;

/// What every variable of the environment begins with.
pub const PREFIX: &str = "REDUCT_SINK_";
/// `REDUCT_SINK_PROPERTY_SASL_PASSWORD` sets librdkafka's `sasl.password`.
pub const PROPERTY_PREFIX: &str = "REDUCT_SINK_PROPERTY_";
/// Variables that are no keys of the file: the command line reads them.
pub const COMMAND_LINE: [&str; 3] = ["REDUCT_SINK_CONFIG", "REDUCT_SINK_LOG_LEVEL", "REDUCT_SINK_LOG_FORMAT"];

#[derive(Debug)]
pub struct Key {
    /// Table and name, such as `store.tls.ca`.
    pub path: &'static str,
    /// The variable's name behind [`PREFIX`].
    pub env: Option<&'static str>,
    pub flag: Option<&'static str>,
}

pub const KEYS: &[Key] = &[
    key("kafka.brokers", Some("BROKERS"), Some("--brokers")),
    key("kafka.topics", Some("TOPICS"), Some("--topic")),
    key("kafka.group", Some("GROUP"), Some("--group")),
    key("kafka.start", Some("START"), Some("--start")),
    key("kafka.properties", None, Some("--property")),
    key("store.url", Some("URL"), Some("--url")),
    key("store.token", Some("TOKEN"), Some("--token")),
    key("store.token_file", Some("TOKEN_FILE"), None),
    key("store.bucket", Some("BUCKET"), Some("--bucket")),
    key("store.entry", Some("ENTRY"), Some("--entry")),
    key("store.timeout", Some("TIMEOUT"), None),
    key("store.batch_records", Some("BATCH_RECORDS"), None),
    key("store.batch_bytes", Some("BATCH_BYTES"), None),
    key("store.discard", Some("DISCARD"), Some("--discard")),
    key("store.verify_writes", Some("VERIFY_WRITES"), None),
    key("store.shared_entries", Some("SHARED_ENTRIES"), None),
    key("store.tls.ca", Some("TLS_CA"), None),
    key("store.tls.verify", Some("TLS_VERIFY"), None),
    key("store.create.max_block_records", Some("MAX_BLOCK_RECORDS"), None),
    key("store.create.max_block_size", Some("MAX_BLOCK_SIZE"), None),
    key("store.create.quota_type", Some("QUOTA_TYPE"), None),
    key("store.create.quota_size", Some("QUOTA_SIZE"), None),
    key("labels.plugins", Some("LABEL_PLUGINS"), None),
    key("limits.in_flight_records", Some("IN_FLIGHT_RECORDS"), None),
    key("limits.in_flight_bytes", Some("IN_FLIGHT_BYTES"), None),
    key("limits.workers", Some("WORKERS"), None),
    key("limits.shutdown", Some("SHUTDOWN"), None),
    key("limits.stuck_after", Some("STUCK_AFTER"), None),
    key("status.listen", Some("STATUS_LISTEN"), Some("--status")),
    key("cache.path", Some("CACHE_PATH"), None),
    key("cache.size", Some("CACHE_SIZE"), None),
    key("status.control", Some("STATUS_CONTROL"), None),
    key("dead_letters.entry", Some("DEAD_LETTERS_ENTRY"), None),
    key("dead_letters.topic", Some("DEAD_LETTERS_TOPIC"), None),
    key("plugins", Some("PLUGINS"), Some("--plugin")),
    key("plugins.name", None, None),
    key("plugins.path", None, None),
    key("plugins.builtin", None, None),
    key("plugins.sha256", None, None),
    key("plugins.on_failure", None, None),
    key("plugins.attempts", None, None),
    key("plugins.timeout", None, None),
    key("plugins.memory", None, None),
    key("plugins.limits.outputs", None, None),
    key("plugins.limits.labels", None, None),
    key("plugins.limits.verdict", None, None),
    key("plugins.limits.log_lines", None, None),
    key("plugins.limits.log_rate", None, None),
    key("plugins.limits.file_size", None, None),
    key("plugins.recycle.calls", None, None),
    key("plugins.recycle.memory", None, None),
    key("plugins.breaker.then", None, None),
    key("plugins.breaker.failures", None, None),
    key("plugins.breaker.pause", None, None),
    key("plugins.grants.clocks", None, None),
    key("plugins.grants.random", None, None),
    key("plugins.grants.environment", None, None),
    key("plugins.grants.directories", None, None),
    key("plugins.grants.http", None, None),
    key("plugins.when.topics", None, None),
    key("plugins.when.headers", None, None),
    key("plugins.when.min_size", None, None),
    key("plugins.when.max_size", None, None),
    key("plugins.trial.mode", None, None),
    key("plugins.trial.records", None, None),
    key("plugins.trial.within", None, None),
    key("plugins.trial.every", None, None),
    key("plugins.trial.max_failures", None, None),
    key("plugins.trial.max_slowdown", None, None),
    key("plugins.watch.mode", None, None),
    key("plugins.watch.window", None, None),
    key("plugins.watch.max_failures", None, None),
    key("plugins.watch.max_slowdown", None, None),
    key("plugins.config", None, None),
];

const fn key(path: &'static str, env: Option<&'static str>, flag: Option<&'static str>) -> Key {
    Key { path, env, flag }
}

/// What a path of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Value(&'static Key),
    Table,
    /// `[kafka.properties]`, whose names librdkafka knows.
    Properties,
    /// `[[plugins]]`.
    Plugins,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Key {}

pub fn kind(path: &str) -> Option<Kind> {
    match path {
        "kafka.properties" => return Some(Kind::Properties),
        "plugins" => return Some(Kind::Plugins),
        _ => (),
    }
    let value = KEYS.iter().find(|key| key.path == path).map(Kind::Value);
    value.or_else(|| KEYS.iter().any(|key| below(key.path, path).is_some()).then_some(Kind::Table))
}

/// The key of a table that a misspelt one resembles; `table` is empty at the top of the file.
pub fn misspelt(table: &str, name: &str) -> Option<&'static str> {
    nearest(name, children(table).into_iter())
}

/// Says what would be right instead of a key that isn't known.
pub fn suggest(table: &str, name: &str) -> String {
    if let Some(near) = misspelt(table, name) {
        return format!("unknown key, did you mean `{near}`?");
    }
    if kind(name).is_some() {
        return "unknown key, it belongs at the top of the file, before the first [table]".into();
    }
    let elsewhere = KEYS.iter().filter_map(|key| key.path.rsplit_once('.')).find(|(_, leaf)| *leaf == name);
    if let Some((owner, _)) = elsewhere {
        return format!("unknown key, it belongs in {}", shown(owner));
    }
    let names = children(table).join(", ");
    format!("unknown key, {} takes {names}", shown(table))
}

/// A table as it stands in a file.
fn shown(table: &str) -> String {
    match table {
        "" => "a configuration".into(),
        "plugins" => "[[plugins]]".into(),
        table => format!("[{table}]"),
    }
}

/// The known name that a misspelt one resembles most, if it resembles one at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    let distances = known.map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= (candidate.len() / 3).max(1)).then_some(candidate)
}

/// Every variable that means something to the host.
pub fn variables() -> impl Iterator<Item = String> {
    let keys = KEYS.iter().filter_map(|key| key.env).map(|env| format!("{PREFIX}{env}"));
    keys.chain(COMMAND_LINE.map(String::from))
}

/// How a missing key can be set.
pub fn ways_to_set(path: &str, example: &str) -> String {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let mut ways = format!("set `{name} = {example}` in [{table}] of the configuration file");
    if let Some(key) = KEYS.iter().find(|key| key.path == path) {
        if let Some(env) = key.env {
            ways.push_str(&format!(", or {}", Place::Environment(format!("{PREFIX}{env}"))));
        }
        if let Some(flag) = key.flag {
            ways.push_str(&format!(", or {flag}"));
        }
    }
    ways
}

/// The names directly in a table, each once, in the order of [`KEYS`].
fn children(table: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS {
        let Some(name) = below(key.path, table).and_then(|rest| rest.split('.').next()) else { continue };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What of a path is left inside a table.
fn below<'a>(path: &'a str, table: &str) -> Option<&'a str> {
    if table.is_empty() { Some(path) } else { path.strip_prefix(table)?.strip_prefix('.') }
}
