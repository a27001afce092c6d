//! Which requests to ReductStore wait for their answers, since when, and since when the store has answered nothing.
//!
//! Guarantees: a request is listed from its begin until its answer, its failure or the end of the caller that waits for it; a store that hangs
//! is told from one that is slow at a large request by the time that the request's size allows. A lock and an entry of a map for each
//! request, of which each carries up to thousands of records. No I/O.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connections::SLOWEST;
use super::problems::{STORE, WriteProblem};
use super::request_times::StoreOperation;
use super::store::{Store, StoreError};

/// A request without a payload that has no answer for longer isn't merely slow.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct OpenRequests(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    open: BTreeMap<u64, OpenRequest>,
    /// When the store answered last, whatever it said.
    answered: Option<Instant>,
    /// When the first request began of those that it hasn't answered since.
    unanswered_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct OpenRequest {
    begun: Instant,
    /// How long it may take; `None`: what it asks for can take any time.
    allowed: Option<Duration>,
}

/// A request that waits for its answer. Without an [`Self::answered`] it ends as one that nobody waits for any more.
pub(super) struct RequestUnderWay<'a> {
    of: &'a OpenRequests,
    number: u64,
    begun: Instant,
}

impl OpenRequests {
    /// Begins a request that carries `bytes` bytes; `None`: what it asks for can take any time.
    pub(super) fn begin(&self, bytes: Option<u64>) -> RequestUnderWay<'_> {
        self.begin_at(Instant::now(), bytes)
    }

    pub(super) fn begin_at(&self, begun: Instant, bytes: Option<u64>) -> RequestUnderWay<'_> {
        let allowed = bytes.map(|bytes| ANSWERED_WITHIN + Duration::from_secs(bytes / SLOWEST));
        let mut known = self.lock();
        known.next += 1;
        let number = known.next;
        known.open.insert(number, OpenRequest { begun, allowed });
        drop(known);
        RequestUnderWay { of: self, number, begun }
    }

    /// How long the oldest request has waited for its answer.
    pub fn oldest(&self, now: Instant) -> Option<Duration> {
        self.lock().open.values().map(|open| now.saturating_duration_since(open.begun)).max()
    }

    /// When the oldest request was begun that has no answer though it should have one by now.
    pub fn overdue_since(&self, now: Instant) -> Option<Instant> {
        let is_overdue = |open: &&OpenRequest| {
            open.allowed.is_some_and(|allowed| now.saturating_duration_since(open.begun) > allowed)
        };
        self.lock().open.values().filter(is_overdue).map(|open| open.begun).min()
    }

    /// When the first request began that the store hasn't answered, if it has answered nothing since.
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.lock().unanswered_since
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestUnderWay<'_> {
    /// Takes the answer, or that there was none.
    pub fn answered<T>(self, answer: &Result<T, StoreError>) {
        let mut known = self.of.lock();
        if matches!(answer, Err(StoreError::Unavailable(_))) {
            let begun = known.answered.map_or(self.begun, |at| at.max(self.begun));
            known.unanswered_since = Some(known.unanswered_since.map_or(begun, |since| since.min(begun)));
        } else {
            (known.answered, known.unanswered_since) = (Some(Instant::now()), None);
        }
    }
}

impl Drop for RequestUnderWay<'_> {
    fn drop(&mut self) {
        self.of.lock().open.remove(&self.number);
    }
}

impl Store {
    /// That a request has had no answer for long, while it may still get one.
    pub fn hang(&self) -> Option<WriteProblem> {
        let now = Instant::now();
        let since = self.open.overdue_since(now)?;
        let (url, patience) = (&self.config.url, self.config.timeout.as_secs());
        let waited = now.saturating_duration_since(since).as_secs();
        let message = format!(
            "ReductStore at {url} has not answered a request for {waited} s (store.timeout is {patience} s); {}; nothing is lost, records \
             wait in Kafka",
            StoreError::HANGS_REMEDY
        );
        Some(WriteProblem { code: STORE, since, entries: 0, message })
    }

    pub(super) async fn timed<T>(
        &self,
        operation: StoreOperation,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let _slot = match operation {
            StoreOperation::Query | StoreOperation::Read => self.read_slot().await,
            StoreOperation::Write | StoreOperation::Remove => None,
        };
        self.measured(operation, None, request).await
    }

    /// Times a write of `bytes` bytes.
    pub(super) async fn timed_write<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.measured(StoreOperation::Write, Some(bytes), request).await
    }

    /// `bytes`: see [`OpenRequests::begin`].
    async fn measured<T>(
        &self,
        operation: StoreOperation,
        bytes: Option<u64>,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (begun, waiting) = (Instant::now(), self.open.begin(bytes));
        let answer = request.await;
        waiting.answered(&answer);
        self.times.took(operation, begun.elapsed(), answer.is_ok());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_hang_is_told_from_a_large_request() {
        let (requests, start) = (OpenRequests::default(), Instant::now());
        assert_eq!((requests.oldest(start), requests.overdue_since(start)), (None, None));
        let large = requests.begin_at(start, Some(SLOWEST * 20));
        let small = requests.begin_at(start + seconds(5), Some(0));
        let search = requests.begin_at(start, None);
        let at = |s| (requests.oldest(start + seconds(s)), requests.overdue_since(start + seconds(s)));
        assert_eq!(at(4), (Some(seconds(4)), None));
        assert_eq!(at(16), (Some(seconds(16)), Some(start + seconds(5))), "the small one");
        small.answered(&Ok(()));
        assert_eq!(at(17), (Some(seconds(17)), None), "the large one has its time");
        assert_eq!(at(31).1, Some(start));
        drop(large);
        assert_eq!(at(500), (Some(seconds(500)), None), "a search can take any time");
        drop(search);
        assert_eq!(at(500), (None, None));
    }

    #[test]
    fn an_outage_begins_with_the_first_request_that_has_no_answer() {
        let (requests, start) = (OpenRequests::default(), Instant::now());
        let away = || Err::<(), _>(StoreError::Unavailable("away".into()));
        let begin = |s| requests.begin_at(start + seconds(s), Some(0));
        begin(0).answered(&away());
        let second = begin(3);
        second.answered(&away());
        assert_eq!(requests.unanswered_since(), Some(start));
        begin(4).answered(&Err::<(), _>(StoreError::Full("quota".into())));
        assert_eq!(requests.unanswered_since(), None, "a refusal is an answer");
        // A request from before the store's last answer.
        begin(0).answered(&away());
        assert!(requests.unanswered_since().is_some_and(|since| since >= start), "from that answer on");
    }
}
