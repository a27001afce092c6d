//! Writers that share requests, and one of them fails.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::batch_limits::BatchLimits;
use super::super::joint::{self, Askers, Joint, Part};
use super::fake_store::{FakeAnswer, FakeRequest, FakeStore, failed};
use super::*;

const ENTRIES: [&str; 3] = ["a", "b", "bad"];

/// One partition for each entry.
fn partitions() -> Vec<Arc<PartitionState>> {
    (0..3).map(|number| partition(number, Begin::default())).collect()
}

fn submit(sink: &Sink, partitions: &[Arc<PartitionState>], offset: u64) {
    // In one go: the writers are woken by it, and come to their requests one after the other before any is sent.
    partitions.iter().zip(ENTRIES).for_each(|(state, entry)| sink.submit(item(state, entry, offset)));
}

async fn until_written(sink: &Sink, records: u64) {
    until(&format!("{records} records"), || sink.counters().written == records).await;
}

/// While it is on, whatever writes to the entry `bad` is answered like this.
async fn store_that_fails_at_bad(answer: fn(&FakeRequest) -> FakeAnswer) -> (FakeStore, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&fails);
    let judge = move |asked: &FakeRequest| {
        let is_meant = now.load(Ordering::SeqCst) && asked.written_entries().contains(&"bad");
        is_meant.then(|| answer(asked))
    };
    (FakeStore::start(judge).await, fails)
}

#[tokio::test]
async fn an_entry_that_fails_harms_none_that_it_shares_a_request_with() {
    for status in [503, 507, 403, 500] {
        let (store, fails) = match status {
            503 => store_that_fails_at_bad(|_| failed(503, "busy")).await,
            507 => store_that_fails_at_bad(|_| failed(507, "no space")).await,
            403 => store_that_fails_at_bad(|_| failed(403, "not this entry")).await,
            _ => store_that_fails_at_bad(|_| failed(500, "something broke")).await,
        };
        let sink = sink_at(&store.url, Arc::default(), Arc::default());
        let partitions = partitions();
        submit(&sink, &partitions, 0);
        until_written(&sink, 3).await;
        fails.store(true, Ordering::SeqCst);
        submit(&sink, &partitions, 1);
        until_written(&sink, 5).await;
        until("the problem of the entry that fails", || !sink.problems().is_empty()).await;
        let problems = sink.problems();
        assert!(problems.len() == 1 && problems[0].entries == 1, "{status}: {problems:?}");
        assert!(problems[0].message.contains("(entry bad)"), "{status}: {problems:?}");
        let shared = |writes: &[Vec<String>]| writes.iter().filter(|entries| entries.len() > 1).count();
        assert!(store.writes().contains(&ENTRIES.map(str::to_owned).to_vec()), "{status}: {:?}", store.writes());
        let before = store.writes().len();
        // It fails alone from now on.
        submit(&sink, &partitions[..2], 2);
        until_written(&sink, 7).await;
        for entries in &store.writes()[before..] {
            assert!(entries.len() == 1 || !entries.contains(&"bad".to_owned()), "{status}: {entries:?}");
        }
        assert_eq!(sink.counters().dead_letters, 0, "{status}");
        fails.store(false, Ordering::SeqCst);
        until_written(&sink, 8).await;
        until("the problem to end", || sink.problems().is_empty()).await;
        let before = shared(&store.writes());
        submit(&sink, &partitions, 3);
        until_written(&sink, 11).await;
        assert!(shared(&store.writes()) > before, "{status}: they share again");
    }
}

/// The store takes the request, and says of one record in it that it wasn't written.
#[tokio::test]
async fn what_is_said_of_one_record_concerns_its_entry_only() {
    let answer = |asked: &FakeRequest| {
        let at = asked.written_entries().iter().position(|entry| *entry == "bad").unwrap();
        let name = match asked.header("x-reduct-entries") {
            Some(_) => {
                let of_entry = format!("x-reduct-{at}-");
                let header = asked.headers.iter().find(|(name, _)| name.starts_with(&of_entry)).unwrap();
                header.0.replace("x-reduct-", "x-reduct-error-")
            }
            None => format!("x-reduct-error-{}", asked.written_times()[0]),
        };
        (200, vec![(name, "507,no space".into())], String::new())
    };
    let (store, fails) = store_that_fails_at_bad(answer).await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    let partitions = partitions();
    submit(&sink, &partitions, 0);
    until_written(&sink, 3).await;
    fails.store(true, Ordering::SeqCst);
    submit(&sink, &partitions, 1);
    until_written(&sink, 5).await;
    until("the problem of the entry that fails", || !sink.problems().is_empty()).await;
    assert!(sink.problems()[0].message.contains("(entry bad)"), "{:?}", sink.problems());
    fails.store(false, Ordering::SeqCst);
    until_written(&sink, 6).await;
    assert_eq!(sink.counters().dead_letters, 0);
}

/// Something before the store lets no request for several entries pass.
#[tokio::test]
async fn where_no_shared_request_passes_each_entry_is_written_by_itself() {
    let judge = |asked: &FakeRequest| asked.line.contains("/io/").then(|| (400, Vec::new(), String::new()));
    let store = FakeStore::start(judge).await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    let partitions = partitions();
    for round in 0..20 {
        submit(&sink, &partitions, round);
        until_written(&sink, 3 * (round + 1)).await;
    }
    assert_eq!((sink.counters().dead_letters, sink.problems().len()), (0, 0));
    assert!(!sink.0.sharing.is_on(), "it isn't tried each time");
    assert_eq!(sink.0.limits().header_bytes, BATCH_HEADER_BYTES, "large batches of one entry aren't made smaller");
}

/// Shared writes pass, and shared reads don't.
#[tokio::test]
async fn where_no_shared_read_passes_each_entry_is_read_back_by_itself_and_writes_go_on_together() {
    let is_shared_read = |asked: &FakeRequest| asked.line.contains("/io/") && asked.line.ends_with("/q");
    let store = FakeStore::start(move |asked| is_shared_read(asked).then(|| failed(503, "busy"))).await;
    let sink = verifying_sink_at(&store.url);
    // Of one partition: what is of several is never read back together.
    let state = partition(0, Begin::default());
    for round in 0..20 {
        (0..3).zip(ENTRIES).for_each(|(n, entry)| sink.submit(item(&state, entry, 3 * round + n)));
        until_written(&sink, 3 * (round + 1)).await;
    }
    assert!(!sink.0.sharing_reads.is_on(), "it isn't tried each time");
    let reads = store.asked().iter().filter(|asked| is_shared_read(asked)).count();
    assert!((8..20).contains(&reads), "{reads}");
    assert!(sink.0.sharing.is_on() && store.writes().last().unwrap().len() > 1, "{:?}", store.writes());
    assert_eq!((sink.gate().failures(), sink.problems().len()), (0, 0), "each entry shows its records");
}

/// A part whose request panics.
struct Breaks;

static BREAKING: std::sync::LazyLock<Joint<Breaks>> = std::sync::LazyLock::new(Joint::default);

impl Part for Breaks {
    type Answer = ();
    const AT_ONCE: usize = 1;

    fn queue(_: &Shared) -> &Joint<Self> {
        &BREAKING
    }

    fn size(&self) -> BatchLimits {
        BatchLimits { records: 1, bytes: 0, header_bytes: 0 }
    }

    fn most(shared: &Shared) -> BatchLimits {
        shared.limits()
    }

    async fn ask(_: Arc<Shared>, _: Vec<Self>, _: Askers<()>) {
        panic!("the test wants it")
    }
}

#[tokio::test]
async fn a_shared_request_that_panics_is_answered_and_stops_no_other() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    for _ in 0..3 {
        assert_eq!(joint::ask(&sink.0, Breaks).await, None);
    }
}

#[tokio::test]
async fn an_entry_whose_writer_panicked_gets_another_one() {
    let store = FakeStore::start(|_| None).await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    // What a writer leaves in the registry that didn't retire.
    let (sender, inbox) = mpsc::unbounded_channel();
    drop(inbox);
    sink.0.writers().insert(EntryName::parse("a").unwrap(), sender);
    sink.submit(item(&partition(0, Begin::default()), "a", 0));
    until_written(&sink, 1).await;
}
