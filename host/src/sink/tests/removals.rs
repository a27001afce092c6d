//! A host that was suspended must not remove what its successor has written meanwhile; no dead letter goes that may be the last copy.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::fake_store::{FakeAnswer, FakeRequest, FakeStore, failed};
use super::*;
use crate::flow::membership::testing;
use crate::flow::store_start::Started;
use crate::flow::{CommitMetadata, CommitPoint, StoredOutput};
use crate::record::labels;

/// Long enough for a request that would be sent.
const MEANWHILE: Duration = Duration::from_millis(500);

/// Runs a writer up to its look at the record that it would remove, and suspends the process there. `moves_on`: another host
/// gets the partition meanwhile. Answers with whether the record was removed.
async fn removes_after_a_suspension(
    begin: Begin,
    moves_on: bool,
    look: fn(&FakeRequest) -> Option<FakeAnswer>,
    other: fn(&FakeRequest) -> Option<FakeAnswer>,
) -> bool {
    let (clocks, membership) = testing::watched();
    let membership = Arc::new(membership);
    let has_looked = Arc::new(AtomicBool::new(false));
    let looked = Arc::clone(&has_looked);
    let store = FakeStore::start(move |asked: &FakeRequest| {
        let answer = look(asked);
        if answer.is_some() && !looked.swap(true, Ordering::SeqCst) {
            clocks.advance(60_000, 60_000, 60_000);
        }
        answer.or_else(|| other(asked))
    })
    .await;
    let sink = sink_at(&store.url, Arc::default(), Arc::clone(&membership));
    let state = partition(0, begin);
    sink.submit(item(&state, "a", 5));
    until("the look", || has_looked.load(Ordering::SeqCst)).await;
    tokio::time::sleep(MEANWHILE).await;
    let removals = || store.asked().iter().filter(|asked| asked.is("DELETE")).count();
    assert_eq!(removals(), 0, "nobody knows whether the partition is still this host's");
    if moves_on {
        state.end();
    }
    membership.confirm();
    if !moves_on {
        until("the removal", || removals() > 0).await;
    }
    tokio::time::sleep(MEANWHILE).await;
    removals() > 0
}

/// The record's microsecond is occupied by an unfinished record.
fn unfinished(asked: &FakeRequest) -> Option<FakeAnswer> {
    (asked.is("HEAD") && asked.line.contains("?ts=")).then(|| failed(425, "still being written"))
}

fn conflict(asked: &FakeRequest) -> Option<FakeAnswer> {
    let error = |time: u64| (format!("x-reduct-error-{time}"), "409,already exists".to_owned());
    let times: Vec<u64> = asked.written_times().into_iter().filter(|time| *time == 5).collect();
    (!times.is_empty()).then(|| (200, times.into_iter().map(error).collect(), String::new()))
}

fn occupied(asked: &FakeRequest) -> Option<FakeAnswer> {
    conflict(asked).or_else(|| query(asked))
}

/// The record is there with other bytes.
fn damaged(asked: &FakeRequest) -> Option<FakeAnswer> {
    let is_read = asked.is("GET") && asked.line.contains("/batch?q=");
    let own = || {
        let record = OutputRecord::unchanged(Arc::clone(&item(&partition(0, Begin::default()), "a", 5).record.input));
        let labels: Vec<String> =
            labels::own_labels(&record).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("7,text/plain,{}", labels.join(","))
    };
    is_read.then(|| {
        let headers = vec![("x-reduct-time-5".into(), own()), ("x-reduct-last".into(), "true".into())];
        (200, headers, "damaged".into())
    })
}

/// The entry is known to have had a record at a later time, so that the writer looks.
fn query(asked: &FakeRequest) -> Option<FakeAnswer> {
    match (asked.is("HEAD"), asked.is("POST") && asked.line.ends_with("/q")) {
        (true, _) if asked.line.ends_with("/a") => {
            let headers = [("x-reduct-time", "9"), ("content-type", "text/plain")];
            Some((200, headers.map(|(name, value)| (name.into(), value.into())).into(), String::new()))
        }
        (true, _) if asked.line.contains("/batch?q=") => Some((204, Vec::new(), String::new())),
        (_, true) => Some((200, vec![("content-type".into(), "application/json".into())], "{\"id\":1}".into())),
        _ => None,
    }
}

#[tokio::test]
async fn a_suspended_host_removes_no_unfinished_record_of_its_successor() {
    assert!(removes_after_a_suspension(Begin::default(), false, unfinished, occupied).await, "else it is removed");
    assert!(!removes_after_a_suspension(Begin::default(), true, unfinished, occupied).await);
}

/// A removal can take the whole block with it, and the dead letters of what an earlier replay wrote there are gone.
#[tokio::test]
async fn a_replay_passes_over_unfinished_records_when_nothing_can_finish_them_any_more() {
    let store = FakeStore::start(|asked: &FakeRequest| unfinished(asked).or_else(|| occupied(asked))).await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    let asked = |what: fn(&FakeRequest) -> bool| store.asked().iter().filter(|asked| what(asked)).count();
    let state = Arc::into_inner(partition(0, Begin::default())).unwrap().for_letter_alone();
    sink.submit(item(&Arc::new(state), "a", 5));
    until("some attempts", || asked(|asked| asked.written_times().contains(&5)) > 3).await;
    assert_eq!(asked(|asked| asked.written_times().contains(&6)), 0, "an earlier process may have left a request");
    *sink.shared().failed_request.lock().unwrap() = None;
    until("a write behind it", || asked(|asked| asked.written_times().contains(&6)) > 0).await;
    assert_eq!(asked(|asked| asked.is("DELETE")), 0);
}

/// A partition whose records are compared with what is there.
fn compares() -> Begin {
    let metadata = CommitMetadata { reread_until: Some(9), compare_below: Some(9), ..CommitMetadata::default() };
    Begin { point: CommitPoint { offset: 5, metadata }, ..Begin::default() }
}

#[tokio::test]
async fn a_record_whose_removal_fails_at_first_is_repaired_once() {
    let tried = Arc::new(AtomicUsize::new(0));
    let removals = Arc::clone(&tried);
    let store = FakeStore::start(move |asked: &FakeRequest| match removals.load(Ordering::SeqCst) {
        _ if asked.is("DELETE") => {
            (removals.fetch_add(1, Ordering::SeqCst) == 0).then(|| failed(500, "the block is busy"))
        }
        2.. if asked.line.contains("/batch?q=") => Some((204, Vec::new(), String::new())),
        2.. => query(asked),
        _ => damaged(asked).or_else(|| query(asked)),
    })
    .await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    sink.submit(item(&partition(0, compares()), "a", 5));
    until("the write", || store.asked().iter().any(|asked| asked.written_times().contains(&5))).await;
    assert_eq!((tried.load(Ordering::SeqCst), sink.counters().repaired), (2, 1));
}

#[tokio::test]
async fn a_suspended_host_removes_no_damaged_record_that_its_successor_may_have_written_again() {
    assert!(removes_after_a_suspension(compares(), false, damaged, query).await, "else it is removed");
    assert!(!removes_after_a_suspension(compares(), true, damaged, query).await);
}

/// The record of [`damaged`], as the chain makes it with these bytes.
fn output(payload: &[u8], found: bool) -> StoredOutput {
    let record = OutputRecord::unchanged(Arc::clone(&item(&partition(0, Begin::default()), "a", 5).record.input));
    let (identity, checksum) = (record.identity(), crate::sink::store::checksum(payload));
    StoredOutput { entry: EntryName::parse("a").unwrap(), time_us: 5, identity, checksum, found }
}

/// Its dead letter may be the last good copy.
#[tokio::test]
async fn what_was_found_and_differs_is_told_from_what_is_whole() {
    let store = FakeStore::start(|asked: &FakeRequest| damaged(asked).or_else(|| query(asked))).await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    let missing = StoredOutput { time_us: 6, ..output(b"damaged", true) };
    let outputs = [output(b"payload", true), output(b"payload", false), output(b"damaged", true), missing];
    let shown = sink.shows(&outputs[0].entry, &outputs).await.unwrap();
    let whole = ShownOutput::Whole;
    assert_eq!(shown, [ShownOutput::Differs, ShownOutput::Differs, whole, ShownOutput::Missing]);
}

/// A store that was started ten seconds ago.
fn started_lately(asked: &FakeRequest) -> Option<FakeAnswer> {
    let info = serde_json::json!({
        "version": "1", "bucket_count": 1, "usage": 0, "uptime": 10, "oldest_record": 0, "latest_record": 0,
        "defaults": { "bucket": {} },
    });
    let info = info.to_string();
    let headers = vec![("content-type".into(), "application/json".into())];
    asked.line.ends_with("/info").then_some((200, headers, info))
}

#[tokio::test]
async fn no_letter_is_removed_after_another_start_of_the_store() {
    let store = FakeStore::start(started_lately).await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    let removals = || store.asked().iter().filter(|asked| asked.is("DELETE")).count();
    let (entry, state) = (EntryName::parse("a").unwrap(), partition(0, Begin::default()));
    let remove = |start| sink.remove_letters(&entry, vec![Arc::clone(&state)], vec![5], start);
    let now = sink.store_started().await.unwrap();
    let refused = remove(Started { from: now.from - 60_000, to: now.to - 60_000 }).await.unwrap_err();
    assert!(refused.contains("started again") && removals() == 0, "{refused}");
    let refused = remove(now).await.unwrap_err();
    assert!(refused.contains("may be at work") && removals() == 0, "an earlier process may have left one: {refused}");
    *sink.shared().failed_request.lock().unwrap() = None;
    remove(now).await.unwrap();
    assert_eq!(removals(), 1);
    sink.partition_begins();
    assert!(remove(now).await.is_err() && removals() == 1, "an earlier host may have left one");
}
