//! What a writer does that shows in no answer of the store.

use super::*;
use crate::flow::Begin;
use crate::sink::tests::{item, partition_of, sink_at};

/// A topic whose records come last must not pay for another one's, nor let it have two turns.
#[tokio::test]
async fn a_turn_is_charged_to_the_topic_whose_record_waits_for_longest() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let (_sender, inbox) = mpsc::unbounded_channel();
    let mut writer = Writer::new(EntryName::parse("shared").unwrap(), Arc::clone(sink.shared()), inbox);
    let (first, last) = (partition_of("first", 0, Begin::default()), partition_of("last", 0, Begin::default()));
    assert_eq!(&*writer.topic(), "", "nothing waits");
    writer.accept(Work::Write(item(&first, "shared", 1)));
    (1..4).for_each(|offset| writer.accept(Work::Write(item(&last, "shared", offset))));
    assert_eq!(&*writer.topic(), "first");
    let written = writer.pending.pop_front().unwrap();
    assert_eq!(&*writer.topic(), "last");
    writer.pending.clear();
    writer.unverified.push(written);
    assert_eq!(&*writer.topic(), "first", "it is to be read back");
}

/// Thousands of others that wait must not be gone through for each batch, nor a record that was taken away be kept.
#[tokio::test]
async fn records_of_a_partition_that_was_taken_away_are_dropped_and_no_others() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let (_sender, inbox) = mpsc::unbounded_channel();
    let mut writer = Writer::new(EntryName::parse("shared").unwrap(), Arc::clone(sink.shared()), inbox);
    let (stays, goes) = (partition_of("stays", 0, Begin::default()), partition_of("goes", 0, Begin::default()));
    for offset in 1..4 {
        writer.accept(Work::Write(item(&stays, "shared", offset)));
        writer.accept(Work::Write(item(&goes, "shared", offset)));
    }
    let waiting = |writer: &mut Writer| {
        writer.drop_taken_away();
        (writer.pending.len(), writer.waiting_states.len())
    };
    assert_eq!(waiting(&mut writer), (6, 2));
    goes.end();
    assert_eq!(waiting(&mut writer), (3, 1));
    assert!(writer.pending.iter().all(|pending| Arc::ptr_eq(pending.state(), &stays)));
    stays.end();
    assert_eq!(waiting(&mut writer), (0, 0));
}
