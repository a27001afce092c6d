//! What two pipelines of one process must not share: a consumer group, entries of a bucket, and dead letters.
//!
//! Guarantees: two pipelines that could write one entry are refused, unless the store is written in two ways of which the
//! configuration doesn't tell that they are the same (another name of the machine). What a pattern of topics or of a
//! plugin's choice can name is taken for everything that it can match.

use std::collections::BTreeSet;

use url::{Host, Url};

use super::key_table::PIPELINES;
use super::problem::{ConfigLocation, ConfigProblem};
use super::{Config, PluginSource};
use crate::record::entry_name::{EntriesAllowed, topic_segment};

/// What two of the pipelines share that they must not. `locations`: where each pipeline stands in the file.
pub(super) fn conflicts(configs: &[Config], locations: &[ConfigLocation]) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    for (number, (config, location)) in configs.iter().zip(locations).enumerate() {
        for earlier in configs.iter().take(number) {
            let (one, other) = (name(earlier), name(config));
            if config.kafka.group == earlier.kafka.group && share_brokers(earlier, config) {
                let text = format!(
                    "pipelines {one} and {other} have the same consumer group {:?}, so that each would get a part of the \
                     records of both; set group in [{PIPELINES}.{other}.kafka]",
                    config.kafka.group
                );
                problems.push(ConfigProblem::at(location, format!("{PIPELINES}.{other}.kafka.group"), text));
            }
            let dead_letters = config.dead_letters.topic.as_ref();
            if dead_letters.is_some()
                && dead_letters == earlier.dead_letters.topic.as_ref()
                && share_brokers(earlier, config)
            {
                let text = format!(
                    "pipelines {one} and {other} have the same topic of dead letters; a replay would send those of both through \
                     the chain of one. Set topic in [{PIPELINES}.{other}.dead_letters]"
                );
                problems.push(ConfigProblem::at(location, format!("{PIPELINES}.{other}.dead_letters.topic"), text));
            }
            if let Some((mine, theirs)) = common_entries(earlier, config) {
                let text = format!(
                    "pipelines {one} and {other} can write one entry of bucket {:?}: {mine} of the one, {theirs} of the \
                     other; two writers of an entry harm each other's records, and a replay would take the dead letters of \
                     both. Give them buckets of their own, or a store.entry and a dead_letters.entry that begin differently, \
                     such as \"{other}-dead/{{topic}}/{{partition}}\"",
                    config.store.bucket
                );
                problems.push(ConfigProblem::at(location, format!("{PIPELINES}.{other}.store.bucket"), text));
            }
        }
    }
    problems
}

/// What two of the pipelines share that may be meant.
pub(super) fn warnings(configs: &[Config]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (number, config) in configs.iter().enumerate() {
        for earlier in configs.iter().take(number) {
            if config.kafka.group == earlier.kafka.group && !share_brokers(earlier, config) {
                warnings.push(format!(
                    "pipelines {} and {} have the same consumer group {:?}; unless their brokers are of different clusters, set \
                     kafka.group in one of them",
                    name(earlier),
                    name(config),
                    config.kafka.group
                ));
            }
            if let (Some(topic), Some(same)) = (&config.dead_letters.topic, &earlier.dead_letters.topic)
                && topic == same
                && !share_brokers(earlier, config)
            {
                warnings.push(format!(
                    "pipelines {} and {} have the same topic of dead letters, {topic:?}; unless their brokers are of different \
                     clusters, set dead_letters.topic in one of them",
                    name(earlier),
                    name(config)
                ));
            }
        }
    }
    warnings
}

/// What these two must not have in common if their brokers are of one cluster.
pub(super) fn shared_in_a_cluster(one: &Config, other: &Config) -> Vec<String> {
    let mut shared = Vec::new();
    if one.kafka.group == other.kafka.group {
        shared.push(format!("the consumer group {:?}", one.kafka.group));
    }
    if let Some(topic) =
        one.dead_letters.topic.as_ref().filter(|topic| Some(*topic) == other.dead_letters.topic.as_ref())
    {
        shared.push(format!("the topic of dead letters {topic:?}"));
    }
    shared
}

fn name(config: &Config) -> &str {
    config.pipeline.as_deref().unwrap_or_default()
}

/// Whether a broker of the one is named by the other, too.
fn share_brokers(one: &Config, other: &Config) -> bool {
    let brokers = |config: &Config| -> BTreeSet<String> {
        let address = |broker: &str| {
            let address = broker.split_once("://").map_or(broker, |(_, address)| address);
            let address = address.to_ascii_lowercase().replace("localhost", "127.0.0.1").replace("[::1]", "127.0.0.1");
            // Kafka's own port.
            if address.contains(':') { address } else { format!("{address}:9092") }
        };
        config.kafka.brokers.split(',').map(address).collect()
    };
    !brokers(one).is_disjoint(&brokers(other))
}

/// Patterns of the two that can name one entry of one bucket.
fn common_entries(one: &Config, other: &Config) -> Option<(String, String)> {
    let writes = |config: &Config| !config.store.discard;
    let is_same_bucket = one.store.bucket == other.store.bucket && store(one) == store(other);
    if !(writes(one) && writes(other) && is_same_bucket) {
        return None;
    }
    let (ones, others) = (entries(one), entries(other));
    let pairs = ones.iter().flat_map(|mine| others.iter().map(move |theirs| (mine, theirs)));
    let meeting = pairs.into_iter().find(|(mine, theirs)| can_meet(mine.as_bytes(), theirs.as_bytes()));
    meeting.map(|(mine, theirs)| (mine.clone(), theirs.clone()))
}

/// The store's address, with one name for this machine.
fn store(config: &Config) -> String {
    let Ok(url) = Url::parse(&config.store.url) else { return config.store.url.clone() };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unspecified(),
        None => false,
    };
    let host = if is_here { "localhost".into() } else { url.host_str().unwrap_or_default().to_ascii_lowercase() };
    format!("{host}:{}{}", url.port_or_known_default().unwrap_or_default(), url.path())
}

/// All names of entries that a pipeline can write, in which `*` stands for anything.
fn entries(config: &Config) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for topic in &config.kafka.topics {
        let topic = if topic.starts_with('^') { "*".to_owned() } else { topic_segment(topic) };
        for name in names(config, &topic) {
            match &config.store.entry {
                Some(template) => {
                    all.insert(rendered(template, &name, &topic));
                }
                None => {
                    all.insert(format!("{name}/*"));
                    all.insert(name);
                }
            }
        }
    }
    if config.dead_letters.topic.is_none() {
        // As a replay looks for them: whatever their topic is.
        all.insert(rendered(&config.dead_letters.entry, "*", "*"));
    }
    all
}

fn rendered(template: &str, name: &str, topic: &str) -> String {
    template.replace("{name}", name).replace("{topic}", topic).replace("{partition}", "*")
}

/// What stands for `{name}`: the topic, or what a plugin may choose.
fn names(config: &Config, topic: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::from([topic.to_owned()]);
    for plugin in config.plugins.iter().filter(|plugin| plugin.source != PluginSource::Builtin) {
        match &plugin.entries {
            EntriesAllowed::Any => drop(names.insert("*".into())),
            EntriesAllowed::OfTopic => drop(names.insert(format!("{topic}/*"))),
            EntriesAllowed::Listed(patterns) => {
                names.extend(patterns.iter().map(|pattern| pattern.to_string().replace("{topic}", topic)));
            }
        }
    }
    names
}

/// Whether there is a text that both patterns match.
fn can_meet(one: &[u8], other: &[u8]) -> bool {
    // Row by row: whether what is left of `one` can meet what is left of `other` from each place on.
    let mut below = vec![false; other.len() + 1];
    for at in (0..=one.len()).rev() {
        let mut row = vec![false; other.len() + 1];
        for beside in (0..=other.len()).rev() {
            let (mine, theirs) = (one.get(at), other.get(beside));
            let right = row.get(beside + 1).copied().unwrap_or_default();
            let down = below.get(beside).copied().unwrap_or_default();
            let across = below.get(beside + 1).copied().unwrap_or_default();
            let meets = match (mine, theirs) {
                (None, None) => true,
                // A star that stands for nothing more, or for one more character of the other.
                (Some(b'*'), Some(_)) => down || right,
                (Some(_), Some(b'*')) => right || down,
                (Some(b'*'), None) => down,
                (None, Some(b'*')) => right,
                (Some(mine), Some(theirs)) => mine == theirs && across,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if let Some(place) = row.get_mut(beside) {
                *place = meets;
            }
        }
        below = row;
    }
    below.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_the_same_with_and_without_kafkas_own_port() {
        let config = |brokers: &str| {
            let text = format!("[kafka]\nbrokers = \"{brokers}\"\ntopics = [\"t\"]\n[store]\nbucket = \"b\"\n");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("sink.toml");
            std::fs::write(&path, text).unwrap();
            let file = Some((path, ConfigLocation::Flag("--config")));
            let sources = crate::config::Sources { file, ..Default::default() };
            crate::config::load(sources).config.unwrap().only().unwrap()
        };
        for (one, other, same) in [
            ("kafka", "kafka:9092", true),
            ("kafka", "SASL_SSL://KAFKA:9092", true),
            ("kafka", "kafka:9093", false),
            ("localhost", "127.0.0.1:9092", true),
            ("a:1,b:2", "c:3,b:2", true),
            ("a:1,b:2", "a:2,b:1", false),
        ] {
            assert_eq!(share_brokers(&config(one), &config(other)), same, "{one} and {other}");
        }
    }

    #[test]
    fn patterns_meet_where_one_name_fits_both() {
        for (one, other) in [
            ("camera", "camera"),
            ("camera/*", "camera/0"),
            ("*", "anything/at/all"),
            ("*", "*"),
            ("a*c", "ab*"),
            ("*/0", "cam/*"),
            ("*b*", "a*c"),
            ("", "*"),
        ] {
            assert!(can_meet(one.as_bytes(), other.as_bytes()), "{one} and {other}");
            assert!(can_meet(other.as_bytes(), one.as_bytes()), "{other} and {one}");
        }
        for (one, other) in
            [("camera", "camera2"), ("camera/*", "camera2/*"), ("a/*", "b/*"), ("a*c", "ab"), ("", "a*")]
        {
            assert!(!can_meet(one.as_bytes(), other.as_bytes()), "{one} and {other}");
            assert!(!can_meet(other.as_bytes(), one.as_bytes()), "{other} and {one}");
        }
    }
}
