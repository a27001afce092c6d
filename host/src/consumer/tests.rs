//! Runs the group's consumer against librdkafka's mock cluster.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::{Beginning, ConsumerEnd, GroupConsumer, GroupHandler, Member, PartitionReader, Polled};
use crate::config::Kafka;
use crate::flow::{Begin, Budget, CommitPoint, PartitionState};
use crate::kafka::client::client_config;
use crate::kafka::client_files::ClientFiles;
use crate::record::TopicPartition;
use crate::record::entry_name::Naming;

/// Takes every partition that it is given, as if the first five records of each were acknowledged.
#[derive(Default)]
struct Acknowledged {
    readers: Mutex<Vec<PartitionReader>>,
    states: Mutex<Vec<Arc<PartitionState>>>,
    failed: Mutex<Option<String>>,
    waiting: Mutex<BTreeMap<TopicPartition, String>>,
    stopping: AtomicBool,
    /// While it is held, the polling thread waits.
    polling: Mutex<()>,
    probes: Mutex<Vec<(TopicPartition, u64)>>,
    denied: AtomicUsize,
    /// For each call of `revoked`, whether the partitions were lost.
    revoked: Mutex<Vec<bool>>,
}

impl GroupHandler for Acknowledged {
    fn given_out(&self, _: bool) {}

    fn awaits_begin(&self, source: &TopicPartition) {
        self.waiting.lock().unwrap().insert(source.clone(), "asked".into());
    }
    fn cannot_begin(&self, source: &TopicPartition, reason: &str) {
        self.waiting.lock().unwrap().insert(source.clone(), reason.to_owned());
    }
    fn make_state(
        &self,
        source: &TopicPartition,
        Beginning { point, .. }: Beginning,
    ) -> Result<Arc<PartitionState>, String> {
        let naming = Naming::default_for(1, false);
        let dead_letters = naming.derived.clone();
        let (budget, begin) = (Arc::new(Budget::new(100, 100)), Begin { point, ..Begin::default() });
        let state = PartitionState::new(source.clone(), naming, &dead_letters, budget, begin).unwrap();
        state.skip_to(5);
        Ok(Arc::new(state))
    }
    fn skipped(&self, _: &TopicPartition, _: std::ops::Range<u64>, _: &str) {}
    fn begin_reading(&self, reader: PartitionReader, state: &Arc<PartitionState>) {
        self.waiting.lock().unwrap().remove(&state.source);
        self.readers.lock().unwrap().push(reader);
        self.states.lock().unwrap().push(Arc::clone(state));
    }
    fn revoked(
        &self,
        _: &[TopicPartition],
        states: &[Arc<PartitionState>],
        lost: bool,
    ) -> Vec<(TopicPartition, CommitPoint)> {
        self.revoked.lock().unwrap().push(lost);
        states.iter().for_each(|state| state.end());
        Vec::new()
    }
    fn commit_point(&self, state: &PartitionState) -> Option<CommitPoint> {
        state.commit_point()
    }
    fn group_denied(&self) {
        self.denied.fetch_add(1, Ordering::SeqCst);
    }
    fn committed(&self, _: Result<(), String>) {}
    fn requires_sole_member(&self, _: &str, _: usize) -> Option<String> {
        None
    }
    fn failed(&self, reason: String) {
        *self.failed.lock().unwrap() = Some(reason);
    }
    fn should_stop(&self) -> bool {
        drop(self.polling.lock().unwrap());
        self.stopping.load(Ordering::SeqCst)
    }
    fn time_to_leave(&self) -> Duration {
        Duration::from_secs(10)
    }
    fn take_probes(&self) -> Vec<(TopicPartition, u64)> {
        std::mem::take(&mut *self.probes.lock().unwrap())
    }
    fn look_for_doubt(&self) -> bool {
        false
    }
    fn membership_confirmed(&self) {}
    fn unreadable(&self, _: &TopicPartition, _: u64, _: &str) {}
}

fn config(cluster: &MockCluster<'_, DefaultProducerContext>) -> Kafka {
    Kafka::for_test(cluster.bootstrap_servers(), &["t"])
}

/// A thread in which the consumer runs until its handler is told to stop.
fn run(config: &Kafka, partitions: usize, handler: &Arc<Acknowledged>) -> JoinHandle<ConsumerEnd> {
    let consumer = consumer_of(config, partitions, handler);
    std::thread::spawn(move || consumer.run())
}

fn consumer_of(config: &Kafka, partitions: usize, handler: &Arc<Acknowledged>) -> GroupConsumer {
    let handler = Arc::clone(handler) as Arc<dyn GroupHandler>;
    let files = Arc::new(ClientFiles::new(config));
    let mut consumer = GroupConsumer::new(config, &Member::default(), partitions, files, handler).unwrap();
    consumer.skipping.fetch_again_after = Duration::from_millis(500);
    consumer
}

/// Produces ten records to each partition of the topic.
fn produce(config: &Kafka, partitions: i32) {
    let producer: BaseProducer = client_config(config).create().unwrap();
    for number in 0..10 * partitions {
        let record = BaseRecord::<(), str>::to("t").payload("payload").partition(number % partitions);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(300)).unwrap();
}

fn wait_for(what: &str, mut is_done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A consumer that has read the ten records of the topic's only partition.
fn read_to_the_end(config: &Kafka) -> (Arc<Acknowledged>, JoinHandle<ConsumerEnd>) {
    produce(config, 1);
    let handler = Arc::new(Acknowledged::default());
    let running = run(config, 1, &handler);
    wait_for("the last record was not read", || is_offset(poll_last(&handler), 9));
    (handler, running)
}

/// Runs the consumer until it has stopped. It must not have failed.
fn stop_here(handler: &Acknowledged, consumer: GroupConsumer) {
    handler.stopping.store(true, Ordering::SeqCst);
    consumer.run();
    assert_eq!(*handler.failed.lock().unwrap(), None);
}

/// Has librdkafka write nothing to its log, whose lines come in the queue of the rebalances.
#[expect(unsafe_code, reason = "rdkafka's safe wrapper sets the level only before the client is made")]
fn say_nothing(consumer: &GroupConsumer) {
    // SAFETY: the client is alive.
    unsafe { rdkafka::bindings::rd_kafka_set_log_level(consumer.consumer.client().native_ptr(), 0) }
}

/// Stops the consumer, which must not have failed.
fn stop(handler: &Acknowledged, running: JoinHandle<ConsumerEnd>) {
    handler.stopping.store(true, Ordering::SeqCst);
    running.join().unwrap();
    assert_eq!(*handler.failed.lock().unwrap(), None);
}

/// What the partition that was begun last yields; `None`: none was begun yet.
fn poll_last(handler: &Acknowledged) -> Option<Polled> {
    handler.readers.lock().unwrap().last_mut().map(PartitionReader::poll)
}

/// What the partition yields; `None`: it wasn't begun yet.
fn poll_at(handler: &Acknowledged, partition: u32) -> Option<Polled> {
    let mut readers = handler.readers.lock().unwrap();
    readers.iter_mut().rfind(|reader| reader.source.partition == partition).map(PartitionReader::poll)
}

fn is_offset(polled: Option<Polled>, offset: u64) -> bool {
    matches!(polled, Some(Polled::Record(record)) if record.offset == offset)
}

fn committed(view: &BaseConsumer, partition: i32) -> Offset {
    let mut list = TopicPartitionList::new();
    list.add_partition("t", partition);
    let committed = view.committed_offsets(list, Duration::from_secs(300)).unwrap();
    committed.find_partition("t", partition).unwrap().offset()
}

/// A rebalance refuses commits that are sent meanwhile, and perhaps no record comes after it.
#[test]
fn a_commit_that_was_refused_is_sent_again_though_nothing_was_acknowledged_since() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let config = config(&cluster);
    produce(&config, 1);
    cluster
        .request_errors(RDKafkaApiKey::OffsetCommit, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE]);
    let handler = Arc::new(Acknowledged::default());
    let running = run(&config, 1, &handler);
    let view: BaseConsumer = client_config(&config).create().unwrap();
    wait_for("it was never committed", || committed(&view, 0) == Offset::Offset(5));
    stop(&handler, running);
}

/// A host that may describe the group but not read it gets an answer to each question about the group, and isn't let in.
#[test]
fn a_group_that_does_not_let_the_host_in_is_told_and_joined_when_it_does() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let config = config(&cluster);
    produce(&config, 1);
    let denied = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 1000];
    cluster.request_errors(RDKafkaApiKey::JoinGroup, &denied);
    let handler = Arc::new(Acknowledged::default());
    let running = run(&config, 1, &handler);
    // A single refusal would not show that librdkafka repeats it.
    wait_for("it was not told again and again", || handler.denied.load(Ordering::SeqCst) >= 3);
    cluster.clear_request_errors(RDKafkaApiKey::JoinGroup);
    let view: BaseConsumer = client_config(&config).create().unwrap();
    wait_for("it was never committed", || committed(&view, 0) == Offset::Offset(5));
    stop(&handler, running);
}

/// With a replication factor of 1.
#[test]
fn a_broker_that_is_away_holds_up_neither_the_partitions_of_others_nor_a_stop() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    cluster.coordinator(MockCoordinator::Group("group".into()), 1).unwrap();
    for partition in 0..2 {
        cluster.partition_leader("t", partition, Some(partition + 1)).unwrap();
    }
    let config = config(&cluster);
    produce(&config, 2);
    cluster.broker_down(2).unwrap();
    let handler = Arc::new(Acknowledged::default());
    let running = run(&config, 2, &handler);
    let view: BaseConsumer = client_config(&config).create().unwrap();
    wait_for("the healthy partition was never committed", || committed(&view, 0) == Offset::Offset(5));
    let away = TopicPartition { topic: "t".into(), partition: 1 };
    let reason = || handler.waiting.lock().unwrap().get(&away).cloned();
    wait_for("nothing was said of the other one", || {
        reason().is_some_and(|reason| ["no leader", "begins and ends"].iter().any(|it| reason.contains(it)))
    });
    cluster.broker_up(2).unwrap();
    wait_for("the other one was never committed", || committed(&view, 1) == Offset::Offset(5));
    cluster.broker_down(2).unwrap();
    stop(&handler, running);
}

/// Kafka deletes an unreadable batch before the host has paused the partition: librdkafka stops reading it and refuses to seek.
#[test]
fn a_partition_that_librdkafka_stopped_reading_at_an_unreadable_batch_is_read_again() {
    for strategy in ["range", "cooperative-sticky"] {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut config = config(&cluster);
        config.properties.insert("partition.assignment.strategy".into(), strategy.into());
        let (handler, running) = read_to_the_end(&config);
        let poll = || poll_last(&handler);
        let polling = handler.polling.lock().unwrap();
        cluster.request_errors(
            RDKafkaApiKey::Fetch,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_MSG, RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE],
        );
        // Both answers have come then: librdkafka waits for half a second after the first.
        let heard = Instant::now() + Duration::from_secs(3);
        while Instant::now() < heard {
            assert!(matches!(poll(), Some(Polled::Nothing)));
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(polling);
        produce(&config, 1);
        wait_for("nothing was read behind the batch", || is_offset(poll(), 10));
        stop(&handler, running);
    }
}

/// A rebalance has dropped the event that says so.
#[test]
fn a_partition_that_librdkafka_stopped_reading_unnoticed_is_read_again_when_its_end_is_looked_for() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let config = config(&cluster);
    let (handler, running) = read_to_the_end(&config);
    let poll = || poll_last(&handler);
    cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]);
    wait_for("librdkafka did not stop", || matches!(poll(), Some(Polled::OutOfRange)));
    produce(&config, 1);
    let source = TopicPartition { topic: "t".into(), partition: 0 };
    handler.probes.lock().unwrap().push((source, 20));
    wait_for("nothing more was read", || is_offset(poll(), 10));
    stop(&handler, running);
}

/// In an eager group the other partitions are assigned again, too, and librdkafka forgets in which of them it looked for a truncated log.
#[test]
fn a_truncated_log_is_noticed_though_another_partition_is_assigned_again() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let mut config = config(&cluster);
    config.properties.insert("partition.assignment.strategy".into(), "range".into());
    produce(&config, 2);
    let handler = Arc::new(Acknowledged::default());
    let running = run(&config, 2, &handler);
    wait_for("the partitions were not begun", || handler.states.lock().unwrap().len() == 2);
    let polling = handler.polling.lock().unwrap();
    let find = |partition| {
        let states = handler.states.lock().unwrap();
        Arc::clone(states.iter().rfind(|state| state.source.partition == partition).unwrap())
    };
    // As if offsets 10 and 11 had been read under the leader's first epoch, and lost in an unclean election since.
    let truncated = find(1);
    for offset in 5..12 {
        truncated.receive_under(offset, 1, Some(0)).unwrap().acknowledge();
    }
    cluster.partition_leader("t", 1, Some(1)).unwrap();
    produce(&config, 2);
    // Kafka has nothing there: librdkafka stops reading the partition, which can only be assigned again then.
    find(0).skip_to(30);
    handler.probes.lock().unwrap().push((find(0).source.clone(), 40));
    drop(polling);
    wait_for("librdkafka did not stop", || matches!(poll_at(&handler, 0), Some(Polled::OutOfRange)));
    wait_for("the new leader's records were not read", || is_offset(poll_at(&handler, 1), 19));
    find(0).begin_again();
    wait_for("the truncation was not noticed", || match poll_at(&handler, 1) {
        Some(Polled::Record(record)) => panic!("offset {} was read behind the truncation", record.offset),
        polled => matches!(polled, Some(Polled::OutOfRange)),
    });
    stop(&handler, running);
}

/// librdkafka takes an assignment for the answer to a rebalance that it has announced.
#[test]
fn nothing_is_assigned_while_a_rebalance_was_not_heard_of() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let mut config = config(&cluster);
    // The mock cluster gives members that long to join a group again, even if all have.
    config.properties.insert("session.timeout.ms".into(), "6000".into());
    let handler = Arc::new(Acknowledged::default());
    let consumer = consumer_of(&config, 2, &handler);
    say_nothing(&consumer);
    wait_for("the group gave out nothing, or librdkafka goes on telling something", || {
        consumer.poll(Duration::from_millis(10));
        handler.waiting.lock().unwrap().len() == 2 && consumer.may_assign(0)
    });
    let other_handler = Arc::new(Acknowledged::default());
    let other = run(&config, 2, &other_handler);
    wait_for("the group took nothing back", || !consumer.may_assign(0));
    assert!(handler.revoked.lock().unwrap().is_empty());
    wait_for("a partition is not given back, or nothing can be assigned any more", || {
        consumer.poll(Duration::from_millis(10));
        *handler.revoked.lock().unwrap() == [false] && consumer.may_assign(0)
    });
    stop_here(&handler, consumer);
    stop(&other_handler, other);
}

/// After an assignment librdkafka would no longer say that partitions were lost.
#[test]
fn nothing_is_assigned_while_it_was_not_heard_of_lost_partitions() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let mut config = config(&cluster);
    config.properties.insert("partition.assignment.strategy".into(), "range".into());
    let handler = Arc::new(Acknowledged::default());
    let consumer = consumer_of(&config, 1, &handler);
    wait_for("the group gave out nothing", || {
        consumer.poll(Duration::from_millis(10));
        !handler.waiting.lock().unwrap().is_empty()
    });
    cluster.request_errors(RDKafkaApiKey::Heartbeat, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    wait_for("nothing was lost", || consumer.consumer.assignment_lost());
    assert!(!consumer.may_assign(u32::MAX));
    wait_for("nothing can be assigned any more", || {
        consumer.poll(Duration::from_millis(10));
        consumer.may_assign(u32::MAX)
    });
    assert_eq!(*handler.revoked.lock().unwrap(), [true]);
    stop_here(&handler, consumer);
}

/// The log was truncated since the end was asked for, or a replica answers that lags behind. Otherwise what comes later at the offsets
/// between would be taken for records that were read before.
#[test]
fn no_offset_is_skipped_behind_the_end_that_was_found() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let config = config(&cluster);
    let (handler, running) = read_to_the_end(&config);
    let poll = || poll_last(&handler);
    for state in handler.states.lock().unwrap().iter() {
        state.skip_to(10);
    }
    let source = TopicPartition { topic: "t".into(), partition: 0 };
    handler.probes.lock().unwrap().push((source, 20));
    let mut found = None;
    wait_for("the end was not told", || {
        if let Some(Polled::NothingBefore(end)) = poll() {
            found = Some(end);
        }
        found.is_some()
    });
    assert_eq!(found, Some(10));
    produce(&config, 1);
    wait_for("nothing more was read", || is_offset(poll(), 10));
    stop(&handler, running);
}
