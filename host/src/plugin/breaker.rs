//! The circuit breaker of a plugin's version, shared by all workers: a plugin that fails on everything isn't asked about
//! everything.
//!
//! Guarantees: it opens after the configured number of failed calls in a row and says so once; while it is open, one call
//! a pause is let through as a probe, and the first that succeeds closes it. While all is well it costs a load.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config;

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Admitted,
    /// Not before this time is over.
    Refused(Duration),
}

pub(crate) struct Breaker {
    config: Option<config::BreakerConfig>,
    /// `name@digest`, for the log.
    mark: String,
    /// Failed calls in a row.
    failures: AtomicU32,
    open: AtomicBool,
    /// When the next probe is due; looked at only while it is open.
    probe_at: Mutex<Option<Instant>>,
}

impl Breaker {
    pub fn new(config: Option<config::BreakerConfig>, mark: String) -> Self {
        let (failures, open) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { config, mark, failures, open, probe_at: Mutex::new(None) }
    }

    /// What is to become of records that aren't let through.
    pub fn then(&self) -> config::WhileOpen {
        self.config.map_or(config::WhileOpen::DeadLetter, |config| config.then)
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// To be asked before each call; `now` is only asked for while it is open.
    pub fn admit(&self, now: impl FnOnce() -> Instant) -> Admission {
        let Some(config) = self.config.filter(|_| self.is_open()) else { return Admission::Admitted };
        let now = now();
        let mut probe_at = self.probe_at.lock().unwrap_or_else(PoisonError::into_inner);
        match *probe_at {
            Some(at) if now < at => Admission::Refused(at - now),
            _ => {
                *probe_at = Some(now + config.pause);
                Admission::Admitted
            }
        }
    }

    pub fn succeeded(&self) {
        // Written only where it changes something: all workers read it.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.is_open() && self.open.swap(false, Relaxed) {
            let plugin = &self.mark;
            tracing::info!(plugin, "the plugin's circuit breaker closed: a record was tried, and it did well");
        }
    }

    pub fn failed(&self, reason: &str, now: impl FnOnce() -> Instant) {
        let Some(config) = self.config else { return };
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < config.failures || self.is_open() {
            return;
        }
        *self.probe_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now() + config.pause);
        if !self.open.swap(true, Relaxed) {
            let (plugin, then, pause) = (&self.mark, config.then, config.pause);
            tracing::error!(
                plugin,
                failures,
                reason,
                ?then,
                ?pause,
                "the plugin's circuit breaker opened: it failed too often in a row; after each pause a record is tried",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WhileOpen;

    const PAUSE: Duration = Duration::from_secs(30);

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_probe() {
        let config = config::BreakerConfig { failures: 3, then: WhileOpen::Skip, pause: PAUSE };
        let breaker = Breaker::new(Some(config), "a@b".into());
        let start = Instant::now();
        let at = |seconds: u64| move || start + Duration::from_secs(seconds);
        for _ in 0..2 {
            breaker.failed("no", at(0));
        }
        breaker.succeeded();
        for _ in 0..2 {
            breaker.failed("no", at(0));
        }
        assert_eq!(breaker.admit(at(0)), Admission::Admitted, "not three in a row");
        breaker.failed("no", at(0));
        assert_eq!(breaker.admit(at(10)), Admission::Refused(Duration::from_secs(20)));
        assert_eq!(breaker.admit(at(30)), Admission::Admitted, "a probe");
        assert_eq!(breaker.admit(at(31)), Admission::Refused(Duration::from_secs(29)), "one at a time");
        breaker.failed("no", at(32));
        assert!(breaker.is_open());
        assert_eq!(breaker.admit(at(61)), Admission::Admitted);
        breaker.succeeded();
        assert_eq!((breaker.is_open(), breaker.admit(at(61))), (false, Admission::Admitted));
        breaker.failed("no", at(62));
        assert!(!breaker.is_open(), "it counts from the beginning");
    }

    #[test]
    fn without_a_configuration_it_never_opens() {
        let breaker = Breaker::new(None, "a@b".into());
        for _ in 0..1000 {
            breaker.failed("no", Instant::now);
        }
        assert_eq!(breaker.admit(Instant::now), Admission::Admitted);
    }
}
