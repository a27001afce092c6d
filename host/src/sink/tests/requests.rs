//! What the sink believes of the store's answers, and how long a request counts as under way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::super::parts::SMALL;
use super::super::store::Write;
use super::fake_store::{FakeRequest, FakeStore, failed};
use super::*;

/// After a kill the store can name a newest record that it has lost: it answers 404, and has others.
#[tokio::test]
async fn an_entry_whose_newest_record_is_lost_is_not_taken_for_empty() {
    let is_shown = AtomicBool::new(false);
    let store = FakeStore::start(move |asked: &FakeRequest| {
        let json = || vec![("content-type".into(), "application/json".into())];
        let bucket = || {
            serde_json::json!({
                "info": {
                    "name": "b", "entry_count": 1, "size": 9, "oldest_record": 5, "latest_record": 12, "is_provisioned": false,
                    "status": "READY",
                },
                "settings": { "quota_type": "NONE", "quota_size": 0, "max_block_size": 64_000_000, "max_block_records": 8 },
                "entries": [{
                    "name": "a", "size": 9, "record_count": 3, "block_count": 1, "oldest_record": 5, "latest_record": 12,
                    "status": "READY",
                }],
            })
        };
        match asked.line.split_once("/b/b") {
            Some((_, "")) if asked.is("GET") => Some((200, json(), bucket().to_string())),
            Some((_, "/a/q")) => Some((200, json(), "{\"id\":1}".into())),
            // The first query asks whether there is anything, the second for what is newer than that.
            Some((_, path)) if path.starts_with("/a/batch") && !is_shown.swap(true, Ordering::SeqCst) => {
                let headers = [("x-reduct-time-9", "7,text/plain"), ("x-reduct-last", "true")];
                Some((200, headers.map(|(name, value)| (name.into(), value.into())).into(), String::new()))
            }
            Some((_, path)) if path.starts_with("/a/batch") => Some((204, Vec::new(), String::new())),
            Some((_, "/a")) => Some(failed(404, "Record 12 not found in block b/a/5")),
            _ => None,
        }
    })
    .await;
    let sink = sink_at(&store.url, Arc::default(), Arc::default());
    let newest = async |name: &str| sink.store().newest_of(&EntryName::parse(name).unwrap()).await;
    assert_eq!(newest("a").await, Ok(Some(12)));
    assert_eq!(newest("new").await, Ok(None));
}

/// The writer of a request can end before its answer comes. A partition that is taken back meanwhile must wait for the answer, or the
/// next owner meets the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_under_way_until_it_is_answered_whatever_becomes_of_its_writer() {
    for is_shared in [true, false] {
        let (asked, may_answer) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (noted, released) = (Arc::clone(&asked), Arc::clone(&may_answer));
        let store = FakeStore::start(move |request: &FakeRequest| {
            if !request.written_entries().is_empty() {
                noted.store(true, Ordering::SeqCst);
                // Otherwise the thread could keep the task to itself that was woken last: the writer that is to end.
                tokio::task::block_in_place(|| {
                    while !released.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }
            None
        })
        .await;
        let sink = sink_at(&store.url, Arc::default(), Arc::default());
        let state = partition(0, Begin::default());
        let write = Write {
            timestamp_us: 7,
            labels: HashMap::from([("a".into(), "b".into())]),
            content_type: None,
            payload: "x".into(),
        };
        let (entry, batch, under_way) = (EntryName::parse("a").unwrap(), vec![write], vec![state.request()]);
        let shared = Arc::clone(sink.shared());
        let writer = tokio::spawn(async move {
            if is_shared {
                joint::ask(&shared, WritePart { entry, batch, under_way }).await;
            } else {
                let _ = shared.store.write(&entry, batch, under_way).await;
            }
        });
        until("the request", || asked.load(Ordering::SeqCst)).await;
        writer.abort();
        assert!(writer.await.is_err_and(|error| error.is_cancelled()));
        assert!(!state.wait_answered(Duration::from_millis(50)), "the store is at work on it");
        may_answer.store(true, Ordering::SeqCst);
        until("the answer", || state.wait_answered(Duration::ZERO)).await;
    }
}

/// If the store crashes while a later request of the same turn is under way, the recovery compares what is remembered.
#[tokio::test]
async fn a_record_is_remembered_before_it_is_acknowledged() {
    let read = Arc::new(OnceLock::<(Sink, Arc<PartitionState>)>::new());
    let at_the_request = Arc::new(Mutex::new(Vec::new()));
    let (of_judge, noted) = (Arc::clone(&read), Arc::clone(&at_the_request));
    let store = FakeStore::start(move |asked: &FakeRequest| {
        if let Some((sink, state)) = of_judge.get().filter(|_| !asked.written_entries().is_empty()) {
            noted.lock().unwrap().push((state.position(), sink.lowest_at_risk().get(&state.source).copied()));
        }
        None
    })
    .await;
    let sink = || sink_at(&store.url, Arc::default(), Arc::default());
    let earlier = sink();
    earlier.submit(item(&partition(0, Begin::default()), "a", 0));
    until("the first record", || earlier.counters().written == 1).await;
    let (later, state) = (sink(), partition(0, Begin { written_before: 1, ..Begin::default() }));
    later.remember_blocks(5);
    assert!(read.set((later.clone(), Arc::clone(&state))).is_ok());
    // Both come to one turn, which finds the first and writes the second.
    (0..2).for_each(|offset| later.submit(item(&state, "a", offset)));
    until("both", || state.position() == 2).await;
    assert_eq!(*at_the_request.lock().unwrap(), [(1, Some(0))]);
}

/// A part whose request lasts until the test lets it go.
struct Lasts;

static LASTING: std::sync::LazyLock<Joint<Lasts>> = std::sync::LazyLock::new(Joint::default);
static BEGUN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
static LET_GO: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

impl joint::Part for Lasts {
    type Answer = ();
    const AT_ONCE: usize = 1;
    const SLOW: Duration = Duration::from_millis(20);

    fn queue(_: &Shared) -> &Joint<Self> {
        &LASTING
    }

    fn size(&self) -> BatchLimits {
        BatchLimits { records: 1, bytes: 0, header_bytes: 0 }
    }

    fn most(_: &Shared) -> BatchLimits {
        BatchLimits { records: 1, bytes: 0, header_bytes: 0 }
    }

    async fn ask(_: Arc<Shared>, parts: Vec<Self>, mut waiting: joint::Askers<()>) {
        BEGUN.fetch_add(1, Ordering::SeqCst);
        LET_GO.acquire().await.unwrap().forget();
        waiting.answer_all(parts.iter().map(|_| ()));
    }
}

/// When one that takes long ends, the next one that takes long makes room in its turn.
#[tokio::test]
async fn room_is_made_as_soon_as_there_may_be_another_slow_request() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let most = joint::MOST_SLOW;
    let begun = |wanted: usize| move || BEGUN.load(Ordering::SeqCst) == wanted;
    // One more than may be slow: it takes long too, and can't make room.
    let mut asked: Vec<_> = Vec::new();
    for part in 0..=most {
        let shared = Arc::clone(sink.shared());
        asked.push(tokio::spawn(async move { joint::ask(&shared, Lasts).await }));
        until(&format!("request {part}"), begun(part + 1)).await;
    }
    // It has asked for room in vain by now.
    tokio::time::sleep(<Lasts as joint::Part>::SLOW * 10).await;
    let shared = Arc::clone(sink.shared());
    asked.push(tokio::spawn(async move { joint::ask(&shared, Lasts).await }));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(begun(most + 1)(), "it waits");
    // The first slow one ends; the others still take long.
    LET_GO.add_permits(1);
    until("the one that waits", begun(most + 2)).await;
    LET_GO.add_permits(most + 1);
    for asked in asked {
        asked.await.unwrap();
    }
}

/// A process that is stopped still has its connections accepted by its system.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_named_by_what_it_does_and_since_its_first_request_without_an_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&format!("http://{}", listener.local_addr().unwrap()));
    config.store.timeout = Duration::from_secs(1);
    let store = Store::new(&config.store).unwrap();
    let sink = Sink::new(store, &config.store, &config.labels, Arc::default(), Arc::default(), None, Handle::current());
    let state = partition(0, Begin::default());
    sink.submit(item(&state, "a", 5));
    until("the problem", || !sink.problems().is_empty()).await;
    let told = sink.problems().remove(0);
    let text =
        format!("ReductStore at {} accepts connections but has not answered for 1 s (store.timeout)", config.store.url);
    assert!(told.message.contains(&text) && told.message.contains("see whether its process"), "{}", told.message);
    assert!(
        told.since.elapsed() >= config.store.timeout,
        "since its begin, and not since its failure: {:?}",
        told.since.elapsed()
    );
    drop(listener);
}

/// A request may take `store.timeout`, or more if it is large: nobody should have to wait for that to learn why nothing moves.
#[tokio::test]
async fn a_request_without_an_answer_is_a_problem_before_it_fails() {
    let sink = sink_at("http://127.0.0.1:1", Arc::default(), Arc::default());
    let Some(since) = Instant::now().checked_sub(Duration::from_secs(12)) else { return };
    let waiting = sink.store().open_requests().begin_at(since, Some(0));
    assert!(sink.oldest_request().is_some_and(|oldest| oldest >= Duration::from_secs(12)));
    let [problem] = sink.problems().try_into().unwrap();
    assert_eq!((problem.code, problem.since), ("store", since));
    assert!(
        problem.message.starts_with("ReductStore at http://127.0.0.1:1 has not answered a request for 12 s"),
        "{}",
        problem.message
    );
    drop(waiting);
    assert!(sink.problems().is_empty() && sink.oldest_request().is_none());
}

/// Where queries are costly, records are looked at one by one. If each waited for the answer to the one before, an entry with late records
/// would be written at half its speed.
#[tokio::test(flavor = "multi_thread")]
async fn single_records_are_looked_at_side_by_side_where_queries_are_costly() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asked, at_most) = (Arc::clone(&now), Arc::clone(&most));
    let store = FakeStore::start(move |request: &FakeRequest| {
        tokio::task::block_in_place(|| {
            if request.line.ends_with("/q") {
                std::thread::sleep(Duration::from_millis(100));
            } else if request.is("HEAD") {
                at_most.fetch_max(asked.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
                asked.fetch_sub(1, Ordering::SeqCst);
            }
        });
        None
    })
    .await;
    let sink = verifying_sink_at(&store.url);
    let state = partition(0, Begin::default());
    // More than what shares a request with other entries.
    let records = 3 * SMALL as u64;
    (0..records).for_each(|offset| sink.submit(item(&state, "a", offset)));
    until("the records to be acknowledged", || state.position() == records).await;
    let most = most.load(Ordering::SeqCst);
    assert!(most > 1 && most <= 8, "{most} at the same time");
}
