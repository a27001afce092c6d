//! What a replay asks Kafka, without keeping a stop waiting.
//!
//! Guarantees: a replay that is told to stop waits for no answer of a broker; nothing that it asks so changes anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::ReplayError;
use crate::config::threads;

/// How often the stop is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Asks on a thread of its own, which is left behind where the stop comes before the answer ([`ReplayError::Stopped`]).
pub(super) fn ask<T: Send + 'static>(
    stop: &AtomicBool,
    question: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReplayError> {
    let (tell, told) = channel();
    threads::spawn("replay-question", move || drop(tell.send(question())))
        .map_err(|error| ReplayError::Failed(format!("no thread for a question to Kafka: {error}")))?;
    loop {
        match told.recv_timeout(TICK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::SeqCst) => return Err(ReplayError::Stopped),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(ReplayError::Failed("a question to Kafka panicked; the log says where".into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::chain::{Chain, SharedChain};
    use crate::config;
    use crate::dead_letters::replay::{ReplaySummary, count, dry_run};
    use crate::plugin::Runtime;
    use crate::record::InputRecord;
    use crate::sink::store::Store;

    #[test]
    fn a_stop_waits_for_no_answer() {
        let stop = AtomicBool::new(false);
        assert_eq!(ask(&stop, || 7).unwrap(), 7);
        assert!(matches!(ask(&stop, || -> u8 { panic!("as if") }), Err(ReplayError::Failed(_))));
        let (keep, never) = channel::<u8>();
        stop.store(true, Ordering::SeqCst);
        assert!(matches!(ask(&stop, move || never.recv()), Err(ReplayError::Stopped)));
        drop(keep);
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
        let counted = count(&config, &store, tokio.handle(), &stop);
        assert!(matches!(counted, Err(ReplayError::Stopped)), "{counted:?}");
        let told = dry_run(&config, chain, &store, tokio.handle(), stop, not_asked, &mut |_| {});
        assert_eq!(told.unwrap(), ReplaySummary::default());
    }
}
