//! From raw values to the configuration: each key is read, checked and given its default here, once.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use super::checks;
use super::key_table::{self, Preset};
use super::layers::Layers;
use super::problem::{ConfigLocation, ConfigProblem};
use super::reader::{KeyReader, plain_text};
use super::value::{ConfigValue, Value};
use super::{
    CacheConfig, CacheFolder, Config, DeadLetters, Kafka, Labels, Limits, MemberName, PluginConfig, PluginSource,
    StatusConfig, TracesConfig, attachments, plugins, property_files, remote, store,
};
use crate::record::content_type::{ANY_TOPIC, ContentTypes};
use crate::record::entry_name::{EntriesAllowed, Template, TemplateError};
use crate::record::labels::LabelPattern;

/// librdkafka's properties that the host must own, and why.
pub(super) const OWNED: &[(&str, &str)] = &[
    ("enable.auto.commit", "the host commits an offset itself, once its record is acknowledged"),
    ("auto.commit.enable", "the host commits an offset itself, once its record is acknowledged"),
    ("enable.auto.offset.store", "the host commits an offset itself, once its record is acknowledged"),
    ("auto.offset.reset", "set kafka.start instead"),
    ("group.id", "set kafka.group instead"),
    ("group.instance.id", "set kafka.member instead"),
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("enable.partition.eof", "the host sets it to true, because it needs to know of the end of a partition"),
];

/// librdkafka's properties that name a file. A relative path of the configuration file is relative to its folder.
pub(super) const FILE_PROPERTIES: &[&str] = &[
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "https.ca.location",
    "sasl.kerberos.keytab",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
];

/// One pipeline: everything that is wrong with it, or a configuration in which nothing is. `pipeline`: its name, where the file has several.
pub fn validate(layers: Layers, pipeline: Option<&Arc<str>>) -> Result<Config, Vec<ConfigProblem>> {
    let Layers {
        values,
        properties,
        plugins: tables,
        attachments,
        folder,
        unreadable,
        misspelt,
        files,
        mut problems,
        ..
    } = layers;
    if unreadable {
        return Err(problems);
    }
    let mut reader = KeyReader {
        values: &values,
        folder: &folder,
        misspelt: &misspelt,
        pipeline: pipeline.map(|name| &**name),
        problems: &mut problems,
    };
    let kafka = Kafka {
        brokers: brokers(&mut reader),
        topics: topics(&mut reader),
        group: String::new(),
        member: member(&mut reader),
        start: reader.choice("kafka.start"),
        on_unreadable: reader.choice("kafka.on_unreadable"),
        properties: checked_properties(&properties, &folder, reader.problems),
        property_files: property_files::of(&properties),
    };
    let store = store::store(&mut reader);
    let group = reader.text("kafka.group").unwrap_or_else(|| format!("reduct-sink-{}", store.bucket));
    let token_file = store.token_file.clone().filter(|path| !files.contains(path));
    let trust = Trust { require_sha256: reader.boolean("trust.require_sha256"), signed_by: signed_by(&mut reader) };
    let rules = remote::fetch_rules(&mut reader);
    let mut config = Config {
        pipeline: pipeline.cloned(),
        store,
        dead_letters: dead_letters(&mut reader, &kafka.topics),
        kafka: Kafka { group, ..kafka },
        files: files.into_iter().chain(token_file).collect(),
        limits: limits(&mut reader),
        labels: labels(&mut reader),
        status: status(&mut reader),
        traces: traces(&mut reader),
        cache: cache(&mut reader),
        plugins: plugins::chain(tables, &rules, &folder, &mut problems),
        attachments: attachments::attachments(attachments.unwrap_or_default(), &folder, &mut problems),
    };
    trust.apply(&mut config.plugins, &mut problems);
    limit_entries(&mut config);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Whose plugins are loaded.
struct Trust {
    require_sha256: bool,
    signed_by: Vec<String>,
}

impl Trust {
    fn apply(&self, plugins: &mut [PluginConfig], problems: &mut Vec<ConfigProblem>) {
        for plugin in plugins.iter_mut().filter(|plugin| plugin.source != PluginSource::Builtin) {
            plugin.signed_by.clone_from(&self.signed_by);
            let is_pinned = match &plugin.source {
                // Its digest is that of a manifest, which holds the component's.
                PluginSource::Remote(remote) => plugin.sha256.is_some() || remote.address.has_digest(),
                PluginSource::File(_) | PluginSource::Builtin => plugin.sha256.is_some(),
            };
            if self.require_sha256 && !is_pinned {
                let text = format!("missing for plugin `{}`: `trust.require_sha256` is set", plugin.name);
                problems.push(ConfigProblem { location: None, key: "plugins.sha256".into(), text });
            }
        }
    }
}

fn signed_by(reader: &mut KeyReader<'_>) -> Vec<String> {
    let expected = "a list of public keys of minisign: the second line of the .pub file, which begins with RW";
    let key =
        |item: &ConfigValue| plain_text(item).map(str::trim).filter(|key| checks::is_minisign_key(key)).map(Into::into);
    let keys = reader.parsed("trust.signed_by", expected, |found| match &found.value {
        Value::List(items) => items.iter().map(key).collect::<Option<Vec<String>>>(),
        _ => None,
    });
    keys.unwrap_or_default()
}

/// Gives the plugins that list no entries the default.
fn limit_entries(config: &mut Config) {
    let default = EntriesAllowed::by_default(config.store.entry.as_deref());
    let from_files = config.plugins.iter_mut().filter(|plugin| plugin.source != PluginSource::Builtin);
    for plugin in from_files.filter(|plugin| plugin.entries == EntriesAllowed::Any) {
        plugin.entries = default.clone();
    }
}

/// Tells each plugin with a directory which files are the host's own, and what plugins may write, those of all pipelines.
/// `file`: the configuration file, if there is one.
pub fn keep_own_files(configs: &mut [Config], file: Option<&Path>) {
    // Relative to the present folder, which may be another one when a plugin is loaded.
    let file = file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
    let mut secrets: Vec<PathBuf> = file.into_iter().collect();
    let (mut own, mut writable) = (Vec::new(), Vec::new());
    for config in configs.iter() {
        let cache = match &config.cache.folder {
            CacheFolder::At(folder) => Some(folder.clone()),
            CacheFolder::Default | CacheFolder::Nowhere => None,
        };
        let property_files = FILE_PROPERTIES.iter().filter_map(|name| config.kafka.properties.get(*name));
        let named = property_files.map(PathBuf::from).chain(config.status.token_file.clone());
        secrets.extend(config.files.iter().cloned().chain(cache).chain(named));
        own.extend(config.store.ca.clone());
        own.extend(config.plugins.iter().filter_map(|plugin| plugin.grants.http_ca.clone()));
        let files = config.plugins.iter().filter_map(|plugin| match &plugin.source {
            PluginSource::File(path) => Some(path.clone()),
            PluginSource::Remote(remote) => remote.rules.ca.clone(),
            PluginSource::Builtin => None,
        });
        own.extend(files);
        let directories = config.plugins.iter().flat_map(|plugin| &plugin.grants.directories);
        writable.extend(directories.filter(|one| one.writable).map(|one| one.path.clone()));
    }
    own.splice(0..0, secrets.iter().cloned());
    for plugin in configs.iter_mut().flat_map(|config| &mut config.plugins) {
        if !plugin.grants.directories.is_empty() {
            plugin.grants.own_files.clone_from(&own);
            plugin.grants.own_secrets.clone_from(&secrets);
            plugin.grants.written_by_plugins.clone_from(&writable);
        }
    }
}

fn brokers(reader: &mut KeyReader<'_>) -> String {
    if reader.find("kafka.brokers").is_none() {
        reader.missing("kafka.brokers");
    }
    let expected = "host:port pairs, separated by commas, such as \"127.0.0.1:9092\"";
    reader.parsed("kafka.brokers", expected, |found| checks::brokers(plain_text(found)?)).unwrap_or_default()
}

fn topics(reader: &mut KeyReader<'_>) -> Vec<String> {
    const KEY: &str = "kafka.topics";
    let Some(found) = reader.find(KEY) else {
        reader.missing(KEY);
        return Vec::new();
    };
    let Value::List(items) = &found.value else {
        reader.reject(KEY, found, "a list of topics, such as [\"camera\", \"^sensor-.*\"]");
        return Vec::new();
    };
    if items.is_empty() {
        reader.problems.push(ConfigProblem::at(
            &found.location,
            KEY,
            "found an empty list, expected at least one topic",
        ));
    }
    let mut topics: Vec<String> = Vec::new();
    for item in items {
        let Some(topic) = plain_text(item) else {
            reader.reject(KEY, item, "the name of a topic, or a pattern that begins with ^");
            continue;
        };
        if let Err(expected) = checks::topic(topic) {
            reader.reject(KEY, item, &expected);
        } else if topics.iter().any(|known| known == topic) {
            reader.reject(KEY, item, "each topic once");
        }
        topics.push(topic.to_owned());
    }
    topics
}

fn member(reader: &mut KeyReader<'_>) -> MemberName {
    const EXPECTED: &str = "a name of up to 200 letters, digits, `.`, `_` and `-`, \"machine\" or \"none\"";
    let named = reader.parsed("kafka.member", EXPECTED, |found| match plain_text(found)? {
        "none" => Some(MemberName::Nameless),
        "machine" => Some(MemberName::OfMachine),
        name => checks::member(name).map(MemberName::Chosen),
    });
    named.unwrap_or_default()
}

fn labels(reader: &mut KeyReader<'_>) -> Labels {
    Labels {
        plugins: reader.boolean("labels.plugins"),
        lowercase: reader.boolean("labels.lowercase"),
        include: label_patterns(reader, "labels.include"),
        exclude: label_patterns(reader, "labels.exclude"),
        max_bytes: reader.size("labels.max_bytes"),
        max_count: reader.number("labels.max_count"),
    }
}

fn label_patterns(reader: &mut KeyReader<'_>, key: &str) -> Vec<LabelPattern> {
    const EXPECTED: &str = "a list of labels' names of a-z 0-9 _ . -, in which * stands for any run of characters";
    let Some(found) = reader.find(key) else { return Vec::new() };
    let Value::List(items) = &found.value else {
        reader.reject(key, found, EXPECTED);
        return Vec::new();
    };
    let mut patterns = Vec::new();
    for item in items {
        match plain_text(item).and_then(|text| LabelPattern::parse(text).ok()) {
            Some(pattern) => patterns.push(pattern),
            None => reader.reject(key, item, EXPECTED),
        }
    }
    if items.is_empty() && key == "labels.include" {
        reader.reject(key, found, "at least one name; labels.exclude = [\"*\"] makes no labels of headers");
    }
    patterns
}

pub(super) fn content_types(reader: &mut KeyReader<'_>) -> ContentTypes {
    const KEY: &str = "store.content_types";
    const EXPECTED: &str = "a table of content types by topic, such as { camera = \"image/jpeg\" }";
    let Some(found) = reader.find(KEY) else { return ContentTypes::default() };
    let Value::Table(topics) = &found.value else {
        reader.reject(KEY, found, EXPECTED);
        return ContentTypes::default();
    };
    let mut types = ContentTypes::default();
    for (topic, item) in topics {
        let known = topic == ANY_TOPIC || (checks::topic(topic).is_ok() && !topic.starts_with('^'));
        let text = match &item.value {
            Value::Text(text) if known => text,
            _ => {
                reader.reject(KEY, item, EXPECTED);
                continue;
            }
        };
        match text.parse() {
            Ok(content_type) => drop(types.0.insert(topic.clone(), content_type)),
            Err(_) => {
                let legal = "a content type: printable ASCII without a comma, no space at its ends, at most 255 bytes";
                reader.reject(KEY, item, legal);
            }
        }
    }
    types
}

fn status(reader: &mut KeyReader<'_>) -> StatusConfig {
    const KEY: &str = "status.listen";
    let expected = "one host:port, such as \"127.0.0.1:9640\", or \"\" for none";
    let one = |text: &str| checks::brokers(text).filter(|text| !text.contains(','));
    let is_off =
        reader.find(KEY).is_some_and(|found| matches!(&found.value, Value::Text(text) if text.trim().is_empty()));
    let listen = match is_off {
        true => None,
        false => {
            let listen = reader.parsed(KEY, expected, |found| one(plain_text(found)?));
            listen.or_else(|| Some(default_text(KEY)))
        }
    };
    let expected = "one host:port, such as \"0.0.0.0:9641\"";
    StatusConfig {
        listen,
        probes_listen: reader.parsed("status.probes_listen", expected, |found| one(plain_text(found)?)),
        token_file: reader.path("status.token_file"),
        control: reader.choice("status.control"),
    }
}

fn traces(reader: &mut KeyReader<'_>) -> TracesConfig {
    let expected = "http:// or https://, a host, a port and perhaps a path, such as \"http://127.0.0.1:4318\"";
    TracesConfig { endpoint: reader.parsed("traces.endpoint", expected, |found| checks::url(plain_text(found)?)) }
}

fn cache(reader: &mut KeyReader<'_>) -> CacheConfig {
    const KEY: &str = "cache.path";
    let folder = match reader.find(KEY).map(|found| &found.value) {
        None => CacheFolder::Default,
        Some(Value::Text(text)) if text.trim().is_empty() => CacheFolder::Nowhere,
        Some(_) => reader.path(KEY).map_or(CacheFolder::Default, CacheFolder::At),
    };
    CacheConfig { folder, bytes: reader.size("cache.size") }
}

/// Values may be secret (`sasl.password`): no message shows one.
fn checked_properties(
    properties: &BTreeMap<String, ConfigValue>,
    folder: &Path,
    problems: &mut Vec<ConfigProblem>,
) -> BTreeMap<String, String> {
    let mut checked = BTreeMap::new();
    for (name, found) in properties {
        let mut reject =
            |text: String| problems.push(ConfigProblem::at(&found.location, format!("kafka.properties.{name}"), text));
        let text = match &found.value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            Value::Unknown => continue,
            Value::Datetime(_) | Value::List(_) | Value::Table(_) => {
                reject(format!("found {}, expected a text, a number, true or false", found.value.type_name()));
                continue;
            }
        };
        if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| owned == name) {
            reject(format!("this property can't be set here: {reason}"));
        } else if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_')) {
            reject("not a librdkafka property: their names are letters, digits, `.` and `_`".into());
        } else if text.contains('\0') {
            reject("found a NUL character, which librdkafka can't take".into());
        }
        // `probe` is no file: librdkafka looks for the system's authorities.
        let is_path = FILE_PROPERTIES.contains(&name.as_str()) && text != "probe" && !found.is_hidden();
        let text = match found.location {
            ConfigLocation::File { .. } if is_path => folder.join(&text).to_string_lossy().into_owned(),
            _ => text,
        };
        checked.insert(name.clone(), text);
    }
    checked
}

/// A template for an entry's name, of which only some placeholders may be used.
pub(super) fn template(reader: &mut KeyReader<'_>, key: &str, placeholders: &[&str]) -> Option<String> {
    let found = reader.find(key)?;
    let expected = format!("an entry's name, perhaps with {}", placeholders.join(", "));
    let Some(text) = plain_text(found) else {
        reader.reject(key, found, &expected);
        return None;
    };
    match Template::parse(text) {
        Ok(_) => (),
        Err(TemplateError::UnknownPlaceholder(_)) => reader.reject(key, found, &expected),
        Err(error) => reader.reject(key, found, &format!("an entry's name: {error}")),
    }
    if text.contains("{name}") && !placeholders.contains(&"{name}") {
        reader.reject(key, found, &expected);
    }
    Some(text.to_owned())
}

fn dead_letters(reader: &mut KeyReader<'_>, topics: &[String]) -> DeadLetters {
    const TOPIC: &str = "dead_letters.topic";
    let entry = template(reader, "dead_letters.entry", &["{topic}", "{partition}"]);
    if let (Some(_), Some(found)) = (reader.find("dead_letters.entry"), reader.find(TOPIC)) {
        let text = "dead_letters.entry is set too, expected one of them";
        reader.problems.push(ConfigProblem::at(&found.location, TOPIC, text));
    }
    let expected = "a topic's name: up to 249 letters, digits, `.`, `_` and `-`";
    let name = |text: &str| (!text.starts_with('^') && checks::topic(text).is_ok()).then(|| text.to_owned());
    let topic = reader.parsed(TOPIC, expected, |found| name(plain_text(found)?));
    if let (Some(topic), Some(found)) = (&topic, reader.find(TOPIC))
        && topics.iter().any(|read| checks::topic_is_read(topic, read))
    {
        reader.reject(TOPIC, found, "a topic that isn't among kafka.topics: its records would come around again");
    }
    DeadLetters { entry: entry.unwrap_or_else(|| default_text("dead_letters.entry")), topic }
}

fn limits(reader: &mut KeyReader<'_>) -> Limits {
    let cores = available_parallelism().map_or(1, NonZero::get);
    let workers = reader.optional_number("limits.workers").and_then(|workers| usize::try_from(workers).ok());
    Limits {
        in_flight_records: reader.number("limits.in_flight_records"),
        in_flight_bytes: reader.size("limits.in_flight_bytes"),
        workers: workers.unwrap_or(cores),
        shutdown: reader.duration("limits.shutdown"),
        stuck_after: reader.duration("limits.stuck_after"),
        compile_memory: reader.size("limits.compile_memory"),
        compile_time: reader.duration("limits.compile_time"),
    }
}

/// The default of a key that is a text.
pub(super) fn default_text(key: &str) -> String {
    match key_table::row(key).map(|row| row.preset) {
        Some(Preset::Text(text)) => text.into(),
        _ => String::new(),
    }
}
