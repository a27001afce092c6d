//! What the sink keeps between its writers and the recovery; and what the tests of writers need.

mod company;
pub(super) mod fake_store;
mod removals;
mod requests;

use super::recent::Written;
use super::*;
use crate::flow::{Begin, Budget, PartitionState};
use crate::record::entry_name::Naming;
use crate::record::{Identity, InputRecord};

pub(super) fn config(url: &str) -> config::Config {
    let variables = [("BROKERS", "127.0.0.1:1"), ("TOPICS", "camera"), ("URL", url), ("BUCKET", "b")];
    let environment =
        variables.map(|(name, value)| (format!("REDUCT_SINK_{name}").into(), value.into())).into_iter().collect();
    let config = config::load(config::Sources { environment, ..config::Sources::default() });
    config.config.unwrap().only().unwrap().clone()
}

/// A sink that takes records for written when the store has acknowledged them.
pub(super) fn sink_at(url: &str, attachments: Arc<Attachments>, membership: Arc<Membership>) -> Sink {
    let mut config = config(url);
    config.store.verify_writes = false;
    let store = Store::new(&config.store).unwrap();
    Sink::new(store, &config.store, &config.labels, attachments, membership, None, Handle::current())
}

/// A sink that reads back what it writes.
pub(super) fn verifying_sink_at(url: &str) -> Sink {
    let config = config(url);
    let store = Store::new(&config.store).unwrap();
    Sink::new(store, &config.store, &config.labels, Arc::default(), Arc::default(), None, Handle::current())
}

/// A partition that is read from `begin` on.
pub(super) fn partition(number: u32, begin: Begin) -> Arc<PartitionState> {
    partition_of("camera", number, begin)
}

/// The same of this topic.
pub(super) fn partition_of(topic: &str, number: u32, begin: Begin) -> Arc<PartitionState> {
    let naming = Naming::default_for(3, false);
    let dead_letters = naming.derived.clone();
    let source = TopicPartition { topic: topic.into(), partition: number };
    let budget = Arc::new(Budget::new(1_000, 1 << 20));
    Arc::new(PartitionState::new(source, naming, &dead_letters, budget, begin).unwrap())
}

/// The record of a partition at this offset, with the offset in microseconds as its time.
pub(super) fn item(state: &Arc<PartitionState>, entry: &str, offset: u64) -> Item {
    let input = InputRecord {
        source: state.source.clone(),
        topic_id: None,
        offset,
        timestamp_ms: None,
        key: None,
        headers: Vec::new(),
        payload: Some("payload".into()),
    };
    let ack = state.receive(offset, 7).unwrap();
    Item { record: OutputRecord::unchanged(Arc::new(input)), entry: EntryName::parse(entry).unwrap(), ack }
}

/// Waits until this is so.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

#[tokio::test]
async fn partitions_beside_a_removal_are_kept_until_they_can_be_reread_and_nothing_is_committed_before() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    sink.remember_blocks(5);
    let entry = EntryName::parse("shared").unwrap();
    let of = |partition| TopicPartition { topic: "camera".into(), partition };
    let written = |partition| Written {
        time_us: 1,
        identity: Identity { source: of(partition), topic_id: None, offset: 1, index: None },
        sketch: 0,
        found: false,
    };
    sink.0.remember(&entry, [written(0), written(1)]);
    sink.0.require_reread_beside(&entry, |source| *source == of(0));
    assert!(!sink.gate().is_open() && sink.gate().is_removal_unexplained());
    let harmed_by_removal = sink.take_harmed_by_removal();
    assert_eq!(harmed_by_removal, HashSet::from([of(1)]), "the writer re-reads its own partitions itself");
    // This host doesn't read it at the moment.
    sink.keep_harmed_by_removal(harmed_by_removal);
    sink.gate().resolve(sink.gate().failures());
    assert!(sink.gate().is_open() && !sink.gate().is_removal_unexplained());
    assert_eq!(sink.take_harmed_by_removal(), HashSet::from([of(1)]), "it is found by the next look");
    assert!(sink.take_harmed_by_removal().is_empty());
    // An entry of one partition has no others.
    sink.0.require_reread_beside(&entry, |_| true);
    assert!(sink.gate().is_open());
}
