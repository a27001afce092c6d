//! What the sink keeps between its writers and the recovery.

use super::*;
use crate::record::Identity;

fn sink(runtime: Handle) -> Sink {
    let variables = [("BROKERS", "127.0.0.1:1"), ("TOPICS", "camera"), ("URL", "http://127.0.0.1:1"), ("BUCKET", "b")];
    let environment =
        variables.map(|(name, value)| (format!("REDUCT_SINK_{name}").into(), value.into())).into_iter().collect();
    let config = config::load(config::Sources { environment, ..config::Sources::default() });
    let config = config.config.unwrap().only().unwrap();
    let store = Store::new(&config.store).unwrap();
    Sink::new(store, &config.store, &config.labels, Arc::default(), Arc::default(), None, runtime)
}

#[tokio::test]
async fn partitions_beside_a_removal_are_kept_until_they_can_be_reread_and_nothing_is_committed_before() {
    let sink = sink(Handle::current());
    sink.remember(10);
    let entry = EntryName::parse("shared").unwrap();
    let of = |partition| TopicPartition { topic: "camera".into(), partition };
    let written = |partition| Written {
        time_us: 1,
        identity: Identity { source: of(partition), topic_id: None, offset: 1, index: None },
        sketch: 0,
        found: false,
    };
    sink.0.remember(&entry, &mut vec![written(0), written(1)]);
    sink.0.removed_beside_others(&entry, |source| *source == of(0));
    assert!(!sink.gate().is_open() && sink.gate().is_removal_unexplained());
    let neighbours = sink.take_neighbours();
    assert_eq!(neighbours, HashSet::from([of(1)]), "the writer re-reads its own partitions itself");
    // This host doesn't read it at the moment.
    sink.keep_neighbours(neighbours);
    sink.gate().resolve(sink.gate().failures());
    assert!(sink.gate().is_open() && !sink.gate().is_removal_unexplained());
    assert_eq!(sink.take_neighbours(), HashSet::from([of(1)]), "it is found by the next look");
    assert!(sink.take_neighbours().is_empty());
    // An entry of one partition has no others.
    sink.0.removed_beside_others(&entry, |_| true);
    assert!(sink.gate().is_open());
}
