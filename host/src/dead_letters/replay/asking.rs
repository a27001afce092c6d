//! What a replay asks Kafka, and what it commits there, without keeping a stop waiting.
//!
//! Guarantees: a replay asks on one thread, one question after the other; one that is told to stop waits for no answer to a question, and
//! for that to a commit [`COMMITTED_WITHIN`] at most. What it doesn't wait for any more may still be carried out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::ReplayError;
use crate::config::threads;

/// How often the stop is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a stop waits for a commit: brokers that are well take some milliseconds. Without it the next replay finds that the letters
/// are done with.
const COMMITTED_WITHIN: Duration = Duration::from_secs(1);

type ReplayQuestion = Box<dyn FnOnce() + Send>;

/// The thread that asks. It ends when it has answered and nobody can ask any more, so that a stop leaves it behind.
#[derive(Clone)]
pub(super) struct ReplayQuestions {
    thread: Sender<ReplayQuestion>,
    stop: Arc<AtomicBool>,
}

impl ReplayQuestions {
    /// Starts the thread. `stop` ends the waiting for its answers.
    pub fn start(stop: Arc<AtomicBool>) -> Result<Self, ReplayError> {
        let (thread, inbox) = channel::<ReplayQuestion>();
        threads::spawn("replay-questions", move || inbox.into_iter().for_each(|question| question()))
            .map_err(|error| ReplayError::Failed(format!("no thread for the questions to Kafka: {error}")))?;
        Ok(Self { thread, stop })
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Asks, and gives the answer up where the stop comes before it ([`ReplayError::Stopped`]).
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce() -> T + Send + 'static) -> Result<T, ReplayError> {
        self.answer(question, Duration::ZERO)
    }

    /// The same for what shall be carried out before the stop, if the brokers answer soon.
    pub fn commit<T: Send + 'static>(&self, commit: impl FnOnce() -> T + Send + 'static) -> Result<T, ReplayError> {
        self.answer(commit, COMMITTED_WITHIN)
    }

    /// `patience`: for how long after the stop the answer is waited for.
    fn answer<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
        patience: Duration,
    ) -> Result<T, ReplayError> {
        let panicked = || ReplayError::Failed("a question to Kafka panicked; the log says where".into());
        let (tell, told) = channel();
        let question = move || drop(tell.send(question()));
        self.thread.send(Box::new(question)).map_err(|_| panicked())?;
        let mut stopped: Option<Instant> = None;
        loop {
            match told.recv_timeout(TICK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(panicked()),
                Err(RecvTimeoutError::Timeout) if !self.is_stopped() => {}
                Err(RecvTimeoutError::Timeout) => {
                    if stopped.get_or_insert_with(Instant::now).elapsed() >= patience {
                        return Err(ReplayError::Stopped);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::chain::{Chain, SharedChain};
    use crate::config;
    use crate::dead_letters::replay::{ReplaySummary, count, dry_run};
    use crate::plugin::Runtime;
    use crate::record::InputRecord;
    use crate::sink::store::Store;

    #[test]
    fn a_stop_waits_for_no_answer() {
        let stop = Arc::new(AtomicBool::new(false));
        let questions = ReplayQuestions::start(Arc::clone(&stop)).unwrap();
        assert_eq!(questions.ask(|| 7).unwrap(), 7);
        let (keep, never) = channel::<u8>();
        stop.store(true, Ordering::SeqCst);
        assert!(matches!(questions.ask(move || never.recv()), Err(ReplayError::Stopped)));
        assert!(matches!(questions.commit(|| 7), Err(ReplayError::Stopped)), "the thread is still at the question");
        drop(keep);
    }

    #[test]
    fn a_stop_waits_a_moment_for_a_commit() {
        let stop = Arc::new(AtomicBool::new(true));
        let questions = ReplayQuestions::start(Arc::clone(&stop)).unwrap();
        let soon = || thread::sleep(TICK * 3);
        assert!(questions.commit(soon).is_ok());
        assert!(matches!(questions.ask(soon), Err(ReplayError::Stopped)));
    }

    #[test]
    fn one_thread_asks_all_questions() {
        let questions = ReplayQuestions::start(Arc::default()).unwrap();
        let asked = || questions.ask(|| thread::current().id()).unwrap();
        let first = asked();
        assert!(first != thread::current().id() && (0..5).all(|_| asked() == first));
        for _ in 0..2 {
            let answer = questions.ask(|| -> u8 { panic!("as if") });
            assert!(matches!(answer, Err(ReplayError::Failed(_))), "{answer:?}");
        }
    }

    /// A broker that takes connections and says nothing.
    #[test]
    fn a_replay_that_is_told_to_stop_does_not_fail_because_kafka_is_away() {
        let broker = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = broker.local_addr().unwrap().to_string();
        let variables = [("BROKERS", &*address), ("TOPICS", "t"), ("BUCKET", "b")];
        let environment =
            variables.map(|(name, value)| (format!("REDUCT_SINK_{name}").into(), value.into())).into_iter().collect();
        let sources = config::Sources { environment, ..config::Sources::default() };
        let mut config = config::load(sources).config.unwrap().only().unwrap().clone();
        config.dead_letters.topic = Some("letters".into());
        let chain = Chain::new(SharedChain::load(Runtime::new().unwrap(), &config.plugins).unwrap()).unwrap();
        let tokio = tokio::runtime::Runtime::new().unwrap();
        let store = Store::new(&config.store).unwrap();
        let (stop, not_asked) = (Arc::new(AtomicBool::new(true)), Arc::new(|_: &InputRecord| None));
        let counted = count(&config, &store, tokio.handle(), Arc::clone(&stop));
        assert!(matches!(counted, Err(ReplayError::Stopped)), "{counted:?}");
        let told = dry_run(&config, chain, &store, tokio.handle(), stop, not_asked, &mut |_| {});
        assert_eq!(told.unwrap(), ReplaySummary::default());
    }
}
