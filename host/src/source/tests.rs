//! The source against librdkafka's mock cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::{Owner, PartitionReader, Source};
use crate::config::{Kafka, StartPolicy};
use crate::kafka::client::client_config;
use crate::record::TopicPartition;

/// Owns what it is given, and has settled five records of it.
#[derive(Default)]
struct Settled {
    feeds: Mutex<Vec<PartitionReader>>,
    stopping: AtomicBool,
}

impl Owner for Settled {
    fn assigned(&self, feed: PartitionReader, _: usize) {
        self.feeds.lock().unwrap().push(feed);
    }
    fn revoked(&self, _: &[TopicPartition], _: bool) -> Vec<(TopicPartition, u64)> {
        self.feeds.lock().unwrap().clear();
        Vec::new()
    }
    fn assigning(&self) {}
    fn company_refused(&self, _: &str, _: usize) -> Option<String> {
        None
    }
    fn positions(&self) -> Vec<(TopicPartition, u64)> {
        let has_it = !self.feeds.lock().unwrap().is_empty();
        has_it.then(|| (TopicPartition { topic: "t".into(), partition: 0 }, 5)).into_iter().collect()
    }
    fn is_shaken(&self) -> bool {
        false
    }
    fn is_rewinding(&self, _: &TopicPartition) -> bool {
        false
    }
    fn mark(&self, _: &TopicPartition, _: u64) -> Option<String> {
        None
    }
    fn begin(&self, _: &TopicPartition, _: u64, _: &str) -> Option<u64> {
        None
    }
    fn failed(&self, reason: String) {
        panic!("{reason}");
    }
    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
    fn membership_doubted(&self) -> bool {
        false
    }
    fn membership_confirmed(&self) {}
}

/// As in a rebalance, which refuses what is committed in its midst, and nothing new comes after it.
#[test]
fn a_commit_that_was_refused_is_sent_again_though_nothing_was_settled_since() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let config = Kafka {
        brokers: cluster.bootstrap_servers(),
        topics: vec!["t".into()],
        group: "group".into(),
        start: StartPolicy::Earliest,
        properties: Default::default(),
    };
    let producer: BaseProducer = client_config(&config).create().unwrap();
    for _ in 0..10 {
        producer.send(BaseRecord::<(), str>::to("t").payload("payload")).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    cluster
        .request_errors(RDKafkaApiKey::OffsetCommit, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE]);
    let owner = Arc::new(Settled::default());
    let source = Source::new(&config, 1, Arc::clone(&owner) as Arc<dyn Owner>).unwrap();
    let running = std::thread::spawn(move || source.run());
    let view: BaseConsumer = client_config(&config).create().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", 0);
        let committed = view.committed_offsets(list, Duration::from_secs(10)).unwrap();
        if committed.find_partition("t", 0).unwrap().offset() == Offset::Offset(5) {
            break;
        }
        assert!(Instant::now() < deadline, "it was never committed");
        std::thread::sleep(Duration::from_millis(50));
    }
    owner.stopping.store(true, Ordering::SeqCst);
    running.join().unwrap();
}
