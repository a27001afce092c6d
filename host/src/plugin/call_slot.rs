//! When the plugin call that a thread is in has to be over.
//!
//! Every call ends at its deadline: [`super::host_calls`] and the engine's clock see to that. This is for what nobody
//! foresaw: a thread that doesn't come back from a call anyway is noticed here, so that somebody else can do its work.
//!
//! Guarantees: costs a thread two stores in memory of its own a call; a thread that nobody watches pays for none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// How long after a call's deadline its thread is given up. It covers what follows a call: checking the answer, and
/// ending the instance.
const GRACE: Duration = Duration::from_secs(10);
const AT_REST: u64 = 0;
const NO_STAGE: usize = usize::MAX;

static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static WATCHED: RefCell<Option<Arc<CallSlot>>> = const { RefCell::new(None) };
}

/// For how long somebody has to see it before a thread counts as hanging.
const SEEN_FOR: Duration = Duration::from_secs(5);
/// Looks that are further apart than this say nothing: the process was stopped, or its machine, in between.
const LOOKS_APART: Duration = Duration::from_secs(1);

/// Looks at a thread again and again. A thread that was stopped with the whole process is past its deadline when both go
/// on, and comes back at once: that is no hanging thread.
#[derive(Debug, Default)]
pub(crate) struct CallWatch {
    /// When the thread was seen past its deadline: first and last, in looks that follow each other.
    seen: Option<(Instant, Instant)>,
}

impl CallWatch {
    /// The call in which the thread hangs; `None`: it doesn't.
    pub fn look(&mut self, slot: &CallSlot, now: Instant) -> Option<Overdue> {
        let overdue = slot.overdue(now);
        self.seen = match (overdue, self.seen) {
            (None, _) => None,
            (Some(_), Some((first, last))) if now.duration_since(last) <= LOOKS_APART => Some((first, now)),
            (Some(_), _) => Some((now, now)),
        };
        overdue.filter(|_| self.seen.is_some_and(|(first, last)| last.duration_since(first) >= SEEN_FOR))
    }
}

/// What a watched thread says of itself.
#[derive(Debug)]
pub(crate) struct CallSlot {
    /// In milliseconds since [`FIRST`]; 0: the thread is in no call.
    deadline: AtomicU64,
    /// The plugin's place in the chain; [`NO_STAGE`]: the thread isn't asking about a record.
    stage: AtomicUsize,
}

/// What a thread does that doesn't come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It asks the plugin at this place of the chain about a record.
    Record(usize),
    /// It starts an instance.
    Start,
}

impl Default for CallSlot {
    fn default() -> Self {
        Self { deadline: AtomicU64::new(AT_REST), stage: AtomicUsize::new(NO_STAGE) }
    }
}

impl CallSlot {
    /// The calls of this thread are noted here from now on.
    pub fn watch_this_thread(self: &Arc<Self>) {
        LazyLock::force(&FIRST);
        WATCHED.with_borrow_mut(|watched| *watched = Some(Arc::clone(self)));
    }

    /// The thread has come back from all calls.
    pub fn rest(&self) {
        self.stage.store(NO_STAGE, Ordering::Relaxed);
        self.deadline.store(AT_REST, Ordering::Relaxed);
    }

    /// The call that should have been over for a while; `None`: all is well.
    pub fn overdue(&self, now: Instant) -> Option<Overdue> {
        let deadline = self.deadline.load(Ordering::Relaxed);
        let is_over = deadline != AT_REST && since_first(now) > deadline.saturating_add(millis(GRACE));
        is_over.then(|| match self.stage.load(Ordering::Relaxed) {
            NO_STAGE => Overdue::Start,
            stage => Overdue::Record(stage),
        })
    }
}

/// Notes that this thread begins a call that has to be over at the deadline.
pub(super) fn begins(deadline: Instant) {
    WATCHED.with_borrow(|watched| {
        if let Some(slot) = watched {
            slot.deadline.store(since_first(deadline).max(1), Ordering::Relaxed);
        }
    });
}

/// Notes which plugin of the chain this thread's next calls are to.
pub(crate) fn calls_stage(at: usize) {
    WATCHED.with_borrow(|watched| {
        if let Some(slot) = watched {
            slot.stage.store(at, Ordering::Relaxed);
        }
    });
}

fn since_first(moment: Instant) -> u64 {
    millis(moment.saturating_duration_since(*FIRST))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_overdue_when_it_does_not_come_back() {
        let slot = Arc::new(CallSlot::default());
        let after = |time| Instant::now() + time;
        slot.watch_this_thread();
        assert_eq!(slot.overdue(after(GRACE * 100)), None, "it never called anything");
        calls_stage(3);
        begins(after(Duration::from_secs(1)));
        assert_eq!(slot.overdue(after(GRACE)), None);
        assert_eq!(slot.overdue(after(GRACE + Duration::from_secs(2))), Some(Overdue::Record(3)));
        begins(after(Duration::from_secs(60)));
        assert_eq!(slot.overdue(after(GRACE + Duration::from_secs(2))), None, "another call");
        slot.rest();
        assert_eq!(slot.overdue(after(GRACE * 100)), None);
        begins(after(Duration::from_secs(1)));
        assert_eq!(slot.overdue(after(GRACE + Duration::from_secs(2))), Some(Overdue::Start));
    }

    #[test]
    fn a_thread_that_was_stopped_with_the_process_does_not_hang() {
        let (slot, mut watch) = (Arc::new(CallSlot::default()), CallWatch::default());
        slot.watch_this_thread();
        begins(Instant::now());
        // The process stands still for a minute, and again.
        let mut now = Instant::now();
        for _ in 0..5 {
            now += Duration::from_secs(60);
            assert_eq!(watch.look(&slot, now), None);
        }
        let looks = (1..).map(|look| now + Duration::from_millis(100) * look);
        let noticed = looks.take(100).position(|now| watch.look(&slot, now).is_some());
        assert_eq!(noticed, Some(49), "it is noticed after five seconds of looking");
        slot.rest();
        assert_eq!(watch.look(&slot, now), None);
    }

    #[test]
    fn a_thread_that_nobody_watches_notes_nothing() {
        begins(Instant::now());
        calls_stage(1);
    }
}
