//! Knows under which topic ids librdkafka fetches at present. A topic that was deleted and created again can grow beyond the offset that is
//! read next before anybody asks the brokers for its id; librdkafka then reads on at that offset, in another topic.
//!
//! librdkafka 2.12 fetches by id, and tells the id only in a line of its log, before the first fetch with it. Brokers
//! before Kafka 3.1 know no fetches by id; there the ids are only compared every few seconds.
//!
//! Guarantees: a record that was fetched under another id than the reader's is never taken for one of the reader's topic.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::record::TopicId;

/// The part of librdkafka's log that names ids, as the property `debug` calls it.
pub(super) const DEBUG: &str = "metadata";
/// What these lines call that part, and what stands around the ids.
const FACILITY: &str = "METADATA";
const BEFORE_NAME: &str = "Topic ";
const BEFORE_OLD: &str = " changed id from ";
const BEFORE_NEW: &str = " to ";

/// The ids by topic. See the module.
#[derive(Debug, Default)]
pub(super) struct TopicIds {
    /// How often an id changed.
    changes: AtomicU64,
    ids: Mutex<HashMap<String, TopicId>>,
}

impl TopicIds {
    /// Takes note of a line of librdkafka's log.
    pub fn hear(&self, facility: &str, line: &str) {
        if facility == FACILITY
            && let Some((topic, id)) = changed(line)
        {
            self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), id);
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether the brokers still answer (`told`) with the id that the topic had before, while librdkafka fetches by another one already.
    pub fn is_outdated(&self, topic: &str, before: Option<TopicId>, told: Option<TopicId>) -> bool {
        before.is_some() && before == told && self.of(topic).is_some_and(|fetched| Some(fetched) != before)
    }

    /// How often an id changed until now. Ask after a record was taken from librdkafka.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// The id under which the topic is fetched; `None`: not known.
    pub fn of(&self, topic: &str) -> Option<TopicId> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied()
    }
}

/// The topic of which a line says that it has another id now, and that id.
fn changed(line: &str) -> Option<(&str, TopicId)> {
    let (names, ids) = line.split_once(BEFORE_OLD)?;
    // The thread's name stands before it, and no topic has a space.
    let (_, topic) = names.rsplit_once(BEFORE_NAME)?;
    let (_, new) = ids.split_once(BEFORE_NEW)?;
    // librdkafka writes base64 with its usual letters.
    let new = new.trim().replace('+', "-").replace('/', "_");
    Some((topic, new.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rdkafka::ClientConfig;
    use rdkafka::client::ClientContext;
    use rdkafka::config::RDKafkaLogLevel;
    use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::kafka::admin;

    #[derive(Default)]
    struct IdsHeard(TopicIds);

    impl ClientContext for IdsHeard {
        fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
            self.0.hear(facility, message);
        }
    }

    impl ConsumerContext for IdsHeard {}

    /// Holds for the version of librdkafka that is compiled in.
    #[test]
    fn librdkafka_tells_the_id_under_which_it_fetches() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("camera.1", 1, 1).unwrap();
        let consumer: BaseConsumer<IdsHeard> = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "group")
            .set("debug", DEBUG)
            .set_log_level(RDKafkaLogLevel::Debug)
            .create_with_context(IdsHeard::default())
            .unwrap();
        consumer.subscribe(&["camera.1"]).unwrap();
        let asked = Instant::now();
        while consumer.context().0.changes() == 0 && asked.elapsed() < Duration::from_secs(300) {
            consumer.poll(Duration::from_millis(50));
        }
        let ids = admin::topic_ids(&consumer, &["camera.1"], Duration::from_secs(300)).unwrap();
        assert_eq!(consumer.context().0.of("camera.1"), Some(ids["camera.1"]));
    }

    #[test]
    fn other_lines_tell_nothing() {
        let ids = TopicIds::default();
        let line = "[thrd:main]: Topic camera changed id from AAAAAAAAAAAAAAAAAAAAAA to AAECAwQFBgf7/woLDA0ODw";
        ids.hear("FETCH", line);
        ids.hear("METADATA", "Topic camera [0] Leader 1 Epoch 0");
        assert_eq!((ids.changes(), ids.of("camera")), (0, None));
        ids.hear("METADATA", line);
        let new = ids.of("camera");
        assert_eq!(new.unwrap().to_string(), "AAECAwQFBgf7_woLDA0ODw");
        let old = TopicId::from_halves(0, 1);
        let outdated = [(old, old), (old, new), (new, new), (None, old)]
            .map(|(before, told)| ids.is_outdated("camera", before, told));
        assert_eq!(outdated, [true, false, false, false]);
    }
}
