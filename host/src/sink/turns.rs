//! Turns to talk to the store: a number of writers at once, and the topics take turns.
//!
//! Guarantees: a topic with any number of waiting writers doesn't make those of another topic wait for them: between two of its
//! turns each other topic that waits gets one. Writers of one topic get their turns in the order in which they asked. A turn that
//! nobody waits for any more isn't lost. Two that want all turns at once don't wait for each other for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, oneshot};

/// The right to talk to the store. Dropping it gives it to the writer that is next.
#[derive(Debug)]
pub(crate) struct Turn {
    /// `None`: it was passed on already.
    of: Option<Arc<TurnQueue>>,
}

/// Gives out the turns.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    queue: Arc<TurnQueue>,
    at_once: usize,
    /// Held by the one that gathers all turns: two that had a part of them each would wait for each other.
    gathers: Arc<AsyncMutex<()>>,
}

#[derive(Debug)]
struct TurnQueue(Mutex<WaitingWriters>);

#[derive(Debug)]
struct WaitingWriters {
    free: usize,
    /// The topic that is next stands first; none is without a writer.
    topics: VecDeque<(Arc<str>, VecDeque<oneshot::Sender<Turn>>)>,
}

impl Turns {
    /// `at_once`: how many turns there may be at the same time.
    pub fn new(at_once: usize) -> Self {
        let queue = TurnQueue(Mutex::new(WaitingWriters { free: at_once, topics: VecDeque::new() }));
        Self { queue: Arc::new(queue), at_once, gathers: Arc::default() }
    }

    /// Waits for a turn of this topic.
    pub async fn next(&self, topic: &Arc<str>) -> Turn {
        let turn = {
            let mut waiting = self.queue.lock();
            if waiting.free > 0 {
                waiting.free -= 1;
                return Turn::of(&self.queue);
            }
            waiting.enqueue(topic)
        };
        // The sender stays where it is until it sends: nobody drops it before.
        turn.await.unwrap_or_else(|_| Turn { of: None })
    }

    /// Waits for all turns: then everybody who had one is done.
    pub async fn all(&self) -> Vec<Turn> {
        let _gathers = self.gathers.lock().await;
        let nobody: Arc<str> = Arc::from("");
        let mut turns = Vec::new();
        for _ in 0..self.at_once {
            turns.push(self.next(&nobody).await);
        }
        turns
    }
}

impl WaitingWriters {
    fn enqueue(&mut self, topic: &Arc<str>) -> oneshot::Receiver<Turn> {
        let (give, turn) = oneshot::channel();
        match self.topics.iter_mut().find(|(waits, _)| waits == topic) {
            Some((_, writers)) => writers.push_back(give),
            None => self.topics.push_back((Arc::clone(topic), VecDeque::from([give]))),
        }
        turn
    }

    fn dequeue(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (topic, mut writers) = self.topics.pop_front()?;
        let next = writers.pop_front();
        if !writers.is_empty() {
            self.topics.push_back((topic, writers));
        }
        next
    }
}

impl TurnQueue {
    fn lock(&self) -> MutexGuard<'_, WaitingWriters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn of(queue: &Arc<TurnQueue>) -> Self {
        Self { of: Some(Arc::clone(queue)) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.of.take() else { return };
        loop {
            let next = {
                let mut waiting = queue.lock();
                let next = waiting.dequeue();
                if next.is_none() {
                    waiting.free += 1;
                }
                next
            };
            match next.map(|next| next.send(Self::of(&queue))) {
                // That writer has gone, and this turn is still there to be given.
                Some(Err(mut back)) => back.of = None,
                Some(Ok(())) | None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A future's answer, if it has one now.
    macro_rules! now {
        ($future:expr) => {
            match $future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            }
        };
    }

    #[test]
    fn a_topic_does_not_wait_for_all_writers_of_another() {
        let turns = Turns::new(1);
        let (flood, other): (Arc<str>, Arc<str>) = ("flood".into(), "other".into());
        let mut first = pin!(turns.next(&flood));
        let held = now!(first).unwrap();
        let mut writers: Vec<_> = (0..1000).map(|_| Box::pin(turns.next(&flood))).collect();
        assert!(writers.iter_mut().all(|writer| now!(writer).is_none()));
        let mut late = pin!(turns.next(&other));
        assert!(now!(late).is_none());
        drop(held);
        let held = now!(writers[0]).expect("the first that asked");
        drop(held);
        let held = now!(late).expect("the other topic comes second, not behind a thousand");
        assert!(writers[1..].iter_mut().all(|writer| now!(writer).is_none()));
        drop(held);
        assert!(now!(writers[1]).is_some());
    }

    #[test]
    fn two_that_want_all_turns_get_them_one_after_the_other() {
        let turns = Turns::new(2);
        let topic: Arc<str> = "topic".into();
        let (mut one, mut other) = (pin!(turns.next(&topic)), pin!(turns.next(&topic)));
        let (one, other) = (now!(one).unwrap(), now!(other).unwrap());
        let (mut first, mut second) = (pin!(turns.all()), pin!(turns.all()));
        assert!(now!(first).is_none() && now!(second).is_none());
        drop(one);
        assert!(now!(first).is_none() && now!(second).is_none());
        drop(other);
        let held = now!(first).expect("nobody else has a turn");
        assert!(held.len() == 2 && now!(second).is_none());
        drop(held);
        assert_eq!(now!(second).unwrap().len(), 2);
    }

    #[test]
    fn no_turn_is_lost() {
        let turns = Turns::new(2);
        let topic: Arc<str> = "topic".into();
        let mut first: Vec<_> = (0..2).map(|_| Box::pin(turns.next(&topic))).collect();
        let held: Vec<Turn> = first.iter_mut().filter_map(|writer| now!(writer)).collect();
        assert_eq!(held.len(), 2);
        let (mut gone, mut given) = (Box::pin(turns.next(&topic)), Box::pin(turns.next(&topic)));
        assert!(now!(gone).is_none() && now!(given).is_none());
        // One writer ends while it waits, one when it was given its turn and didn't look yet.
        drop(gone);
        drop(held);
        drop(given);
        let mut again: Vec<_> = (0..3).map(|_| Box::pin(turns.next(&topic))).collect();
        let held: Vec<Turn> = again.iter_mut().filter_map(|writer| now!(writer)).collect();
        assert_eq!(held.len(), 2);
    }
}
