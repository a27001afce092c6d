//! Joins what many writers ask of the store at one time into few requests. Where records are spread over thousands of
//! entries, each writer has only a few at a time, and a request costs the host more than the records in it.
//!
//! Guarantees: a part waits only while other requests of its kind are under way, and not for those that take long: these
//! make room for others, up to [`MOST_SLOW`]; a request takes each part once, and no more than fits; every part is
//! answered, also where the request panics (with `None`).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{BatchLimits, Shared};

/// How many such requests there may be beside the others.
pub(super) const MOST_SLOW: usize = 16;

/// What one writer has to ask.
pub(super) trait Part: Sized + Send + 'static {
    type Answer: Send + 'static;
    /// Joined requests of this kind that are under way at once.
    const AT_ONCE: usize;
    /// A request that takes longer than this makes room for another one: an entry that fails may let it wait for its time-out.
    const SLOW: Duration = Duration::from_secs(1);

    /// Where parts of this kind wait.
    fn queue(shared: &Shared) -> &Joint<Self>;

    /// What it takes of a request.
    fn size(&self) -> BatchLimits;

    /// What one request takes.
    fn most(shared: &Shared) -> BatchLimits;

    /// Asks the store, and answers each part as soon as its answer is known.
    fn ask(shared: Arc<Shared>, parts: Vec<Self>, waiting: Askers<Self::Answer>) -> impl Future<Output = ()> + Send;
}

/// Those who wait for the answers of one request, in the order of their parts. Dropping it answers the rest with `None`.
pub(super) struct Askers<A>(Vec<Option<oneshot::Sender<A>>>);

impl<A> Askers<A> {
    /// Answers the part at this place.
    pub fn answer(&mut self, at: usize, answer: A) {
        if let Some(sender) = self.0.get_mut(at).and_then(Option::take) {
            // A writer that doesn't wait any more ended with its runtime.
            let _ = sender.send(answer);
        }
    }

    /// Answers all parts in their order.
    pub fn answer_all(&mut self, answers: impl IntoIterator<Item = A>) {
        answers.into_iter().enumerate().for_each(|(at, answer)| self.answer(at, answer));
    }
}

/// A part, and who waits for its answer.
type WaitingPart<P> = (P, oneshot::Sender<<P as Part>::Answer>);

/// The parts of one kind.
pub(super) struct Joint<P: Part>(Mutex<PartQueue<P>>);

struct PartQueue<P: Part> {
    waiting: VecDeque<WaitingPart<P>>,
    under_way: usize,
    /// Requests beside those under way, which make none wait.
    slow: usize,
}

impl<P: Part> Default for Joint<P> {
    fn default() -> Self {
        Self(Mutex::new(PartQueue { waiting: VecDeque::new(), under_way: 0, slow: 0 }))
    }
}

impl<P: Part> Joint<P> {
    fn lock(&self) -> MutexGuard<'_, PartQueue<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a part. `true`: another request begins.
    fn push(&self, part: WaitingPart<P>) -> bool {
        let mut queue = self.lock();
        queue.waiting.push_back(part);
        let begins = queue.under_way < P::AT_ONCE;
        queue.under_way += usize::from(begins);
        begins
    }

    /// The next parts that fit into one request; none are left: one request fewer is under way.
    fn next(&self, most: BatchLimits) -> Vec<WaitingPart<P>> {
        let mut queue = self.lock();
        let mut taken = Vec::new();
        let (mut records, mut bytes, mut header_bytes) = (0, 0, 0);
        while let Some((part, _)) = queue.waiting.front() {
            let size = part.size();
            records += size.records;
            bytes += size.bytes;
            header_bytes += size.header_bytes;
            let is_full = records > most.records || bytes > most.bytes || header_bytes > most.header_bytes;
            if is_full && !taken.is_empty() {
                break;
            }
            taken.extend(queue.waiting.pop_front());
        }
        if taken.is_empty() {
            queue.under_way = queue.under_way.saturating_sub(1);
        }
        taken
    }

    /// A request takes long: those that wait needn't wait for it any more. `None`: too many take long already.
    /// `Some(true)`: another request begins in its place.
    fn make_room(&self) -> Option<bool> {
        let mut queue = self.lock();
        if queue.slow >= MOST_SLOW {
            return None;
        }
        queue.slow += 1;
        let begins = !queue.waiting.is_empty();
        if !begins {
            queue.under_way = queue.under_way.saturating_sub(1);
        }
        Some(begins)
    }

    fn slow_ended(&self) {
        let mut queue = self.lock();
        queue.slow = queue.slow.saturating_sub(1);
    }
}

/// Asks together with others. `None`: the request failed within the client.
pub(super) async fn ask<P: Part>(shared: &Arc<Shared>, part: P) -> Option<P::Answer> {
    let (sender, answer) = oneshot::channel();
    if P::queue(shared).push((part, sender)) {
        tokio::spawn(ask_for_all::<P>(Arc::clone(shared)));
    }
    answer.await.ok()
}

/// A task that begins another one of its kind has to be of a named type.
type AskingTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Asks for what waits until nothing does.
fn ask_for_all<P: Part>(shared: Arc<Shared>) -> AskingTask {
    Box::pin(async move {
        loop {
            // An answer to many writers wakes all of them. Those that are ready now ask first.
            tokio::task::yield_now().await;
            let taken = P::queue(&shared).next(P::most(&shared));
            if taken.is_empty() {
                return;
            }
            let (parts, senders): (Vec<P>, Vec<_>) =
                taken.into_iter().map(|(part, sender)| (part, Some(sender))).unzip();
            // In a task of its own: a panic in it drops the senders, and nothing else.
            let mut request = tokio::spawn(P::ask(Arc::clone(&shared), parts, Askers(senders)));
            let mut was_slow = false;
            // Where too many take long, another one of them may have ended since.
            while tokio::time::timeout(P::SLOW, &mut request).await.is_err() {
                let place = P::queue(&shared).make_room();
                if place == Some(true) {
                    tokio::spawn(ask_for_all::<P>(Arc::clone(&shared)));
                }
                if place.is_some() {
                    was_slow = true;
                    let _ = request.await;
                    break;
                }
            }
            if was_slow {
                P::queue(&shared).slow_ended();
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct OfSize(usize, u64);

    impl Part for OfSize {
        type Answer = ();
        const AT_ONCE: usize = 1;

        fn queue(_: &Shared) -> &Joint<Self> {
            unreachable!("the test has the queue")
        }

        fn size(&self) -> BatchLimits {
            BatchLimits { records: self.0, bytes: self.1, header_bytes: 0 }
        }

        fn most(_: &Shared) -> BatchLimits {
            unreachable!("the test says it")
        }

        async fn ask(_: Arc<Shared>, _: Vec<Self>, _: Askers<()>) {
            unreachable!("nothing is asked")
        }
    }

    #[test]
    fn a_request_takes_what_fits_in_order_and_a_part_that_never_fits_alone() {
        let joint = Joint::default();
        for part in [OfSize(2, 1), OfSize(3, 1), OfSize(1, 90), OfSize(9, 1), OfSize(1, 200), OfSize(1, 1)] {
            joint.lock().waiting.push_back((part, oneshot::channel().0));
        }
        joint.lock().under_way = 1;
        let most = BatchLimits { records: 5, bytes: 100, header_bytes: 0 };
        let next = || joint.next(most).into_iter().map(|(part, _)| part).collect::<Vec<_>>();
        assert_eq!(next(), [OfSize(2, 1), OfSize(3, 1)]);
        assert_eq!(next(), [OfSize(1, 90)]);
        assert_eq!(next(), [OfSize(9, 1)]);
        assert_eq!(next(), [OfSize(1, 200)]);
        assert_eq!(next(), [OfSize(1, 1)]);
        assert_eq!(next(), []);
        assert_eq!(joint.lock().under_way, 0, "the next part begins a request");
    }

    #[test]
    fn each_is_answered_when_its_answer_is_known_and_the_rest_at_the_end() {
        let (senders, mut answers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        let mut askers = Askers(senders.into_iter().map(Some).collect());
        askers.answer(1, "known");
        assert_eq!(answers[1].try_recv(), Ok("known"));
        assert_eq!(answers[0].try_recv(), Err(oneshot::error::TryRecvError::Empty));
        askers.answer_all(["first", "too late"]);
        assert_eq!(answers[0].try_recv(), Ok("first"));
        drop(askers);
        assert_eq!(answers[2].try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn what_waits_is_asked_for_beside_a_request_that_takes_long() {
        let joint = Joint::default();
        let part = || (OfSize(1, 1), oneshot::channel().0);
        let most = BatchLimits { records: 5, bytes: 100, header_bytes: 0 };
        assert!(joint.push(part()), "nothing is under way");
        assert_eq!(joint.next(most).len(), 1);
        assert!(!joint.push(part()), "it waits");
        assert_eq!(joint.make_room(), Some(true), "another request takes its place");
        assert_eq!(joint.next(most).len(), 1);
        assert_eq!(joint.make_room(), Some(false), "nothing waits");
        for _ in 2..MOST_SLOW {
            assert!(joint.push(part()));
            assert_eq!(joint.next(most).len(), 1);
            assert_eq!(joint.make_room(), Some(false));
        }
        assert!(joint.push(part()));
        assert_eq!(joint.next(most).len(), 1);
        assert_eq!(joint.make_room(), None, "too many take long");
        assert!(!joint.push(part()), "it waits for that one");
        joint.slow_ended();
        assert_eq!(joint.make_room(), Some(true));
    }
}
