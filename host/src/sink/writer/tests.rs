//! What a writer does that shows in no answer of the store.

use super::*;
use crate::flow::Begin;
use crate::sink::tests::fake_store::FakeStore;
use crate::sink::tests::{item, partition_of, sink_at, verifying_sink_at};

/// A topic whose records come last must not pay for another one's, nor let it have two turns.
#[tokio::test]
async fn a_turn_is_charged_to_the_topic_whose_record_waits_for_longest() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let (_sender, inbox) = mpsc::unbounded_channel();
    let mut writer = Writer::new(EntryName::parse("shared").unwrap(), Arc::clone(sink.shared()), inbox);
    let (first, last) = (partition_of("first", 0, Begin::default()), partition_of("last", 0, Begin::default()));
    assert_eq!(&*writer.topic(), "", "nothing waits");
    writer.accept(Work::Write(Box::new(item(&first, "shared", 1))));
    (1..4).for_each(|offset| writer.accept(Work::Write(Box::new(item(&last, "shared", offset)))));
    assert_eq!(&*writer.topic(), "first");
    let written = writer.pending.pop_front().unwrap();
    assert_eq!(&*writer.topic(), "last");
    writer.pending.clear();
    writer.unverified.push(written);
    assert_eq!(&*writer.topic(), "first", "it is to be read back");
}

/// There are thousands of them where records are spread over as many entries, and most of them wait.
#[tokio::test]
async fn a_writer_that_waits_takes_little_memory() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let (_sender, inbox) = mpsc::unbounded_channel();
    let writer = Box::new(Writer::new(EntryName::parse("e").unwrap(), Arc::clone(sink.shared()), inbox));
    let (size, task) = (size_of::<Writer>(), size_of_val(&writer.run()));
    assert!(size + task < 2_500, "{size} B and {task} B");
    // The queue has room for 32 at least.
    assert!(size_of::<Work>() <= 16, "{} B", size_of::<Work>());
}

/// A device that sends a record every few minutes must not cost a question about its entry each time.
#[tokio::test]
async fn an_idle_writer_stays_unless_it_knows_much_or_holds_a_partition_that_was_taken_away() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let (_sender, inbox) = mpsc::unbounded_channel();
    let mut writer = Writer::new(EntryName::parse("e").unwrap(), Arc::clone(sink.shared()), inbox);
    let state = partition_of("camera", 0, Begin::default());
    writer.states.insert(state.source.clone(), Arc::clone(&state));
    (0..50).for_each(|n| writer.occupied.occupy(n * 10));
    assert!(!writer.knows_much(), "what it wrote");
    writer.occupied.doubt(70);
    assert!(writer.knows_much(), "a microsecond to which a request may have written");
    writer.occupied = OccupiedTimestamps::default();
    assert!(!writer.knows_much());
    writer.pending.reserve(500);
    writer.unverified.reserve(500);
    writer.give_back_buffers();
    assert!(writer.pending.capacity() >= 500, "there will be more of them soon");
    writer.release_memory();
    assert_eq!((writer.pending.capacity(), writer.unverified.capacity()), (0, 0), "it was idle for a while");
    state.end();
    assert!(writer.knows_much());
}

/// Thousands of others that wait must not be gone through for each batch, nor a record that was taken away be kept.
#[tokio::test]
async fn records_of_a_partition_that_was_taken_away_are_dropped_and_no_others() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let (_sender, inbox) = mpsc::unbounded_channel();
    let mut writer = Writer::new(EntryName::parse("shared").unwrap(), Arc::clone(sink.shared()), inbox);
    let (stays, goes) = (partition_of("stays", 0, Begin::default()), partition_of("goes", 0, Begin::default()));
    for offset in 1..4 {
        writer.accept(Work::Write(Box::new(item(&stays, "shared", offset))));
        writer.accept(Work::Write(Box::new(item(&goes, "shared", offset))));
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

/// A late request of another host wrote record 6, which is dropped now. It mustn't be counted in place of record 5, which the store lost.
#[tokio::test]
async fn a_record_of_somebody_else_that_was_seen_does_not_stand_for_one_that_is_missing() {
    let store = FakeStore::start(|_| None).await;
    let sink = verifying_sink_at(&store.url);
    let entry = EntryName::parse("e").unwrap();
    let (_sender, inbox) = mpsc::unbounded_channel();
    let mut writer = Writer::new(entry.clone(), Arc::clone(sink.shared()), inbox);
    let state = partition_of("camera", 0, Begin::default());
    let sent = |offset| {
        let prepared = Prepared::new(item(&state, "e", offset), &sink.shared().mapping).unwrap();
        let mut record = PendingWrite::new(prepared);
        record.time_us = Some(offset);
        record
    };
    let [five, mut six, mut seven] = [5, 6, 7].map(sent);
    let held = [six.take_write().unwrap(), seven.take_write().unwrap()].into();
    assert!(sink.shared().store.write(&entry, held, Vec::new()).await.unwrap().is_empty());
    let page = sink.shared().store.heads(&entry, 6..7, place::HEADS).await.unwrap();
    assert_eq!(page.seen.iter().filter_map(|seen| seen.identity.as_ref()).map(|seen| seen.offset).max(), Some(7));
    let records = [five, seven];
    assert!(writer.missing(&records).await.unwrap().iter().all(|is_missing| !is_missing), "a count alone shows two");
    writer.note_strangers(page.seen.get(..1).unwrap());
    assert_eq!(writer.missing(&records).await.unwrap(), [true, false]);
}
