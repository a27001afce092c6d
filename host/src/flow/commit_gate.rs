//! Whether acknowledgements of the store may be believed: after a failed request the store may have restarted, and then
//! it may have lost records that it had acknowledged.
//!
//! Guarantees: from the moment a writer reports a failure, the gate is closed until the store has answered a question for its
//! uptime that was asked after that failure, if only with an error that a running store gives. A plain value without I/O.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the module. Shared by the writers, which close it, the recovery, which opens it, and every [`super::PartitionState`]: while it is
/// closed, its commit point is what had been acknowledged before the last look at the store, or the begin of a re-read that is owed.
#[derive(Debug, Default)]
pub struct CommitGate {
    failures: AtomicU64,
    /// The number of the last failure that was a removal.
    removal: AtomicU64,
    resolved: AtomicU64,
}

impl CommitGate {
    /// Takes note that a request to the store failed. Call it before the request is repeated.
    pub fn report_failure(&self) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes note that a record is removed, which may harm others that were acknowledged before.
    pub fn report_removal(&self) {
        let number = self.failures.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        self.removal.fetch_max(number, Ordering::SeqCst);
    }

    /// Whether a removal isn't explained yet: then even what had been acknowledged before the last look must not be committed.
    pub fn is_removal_unexplained(&self) -> bool {
        self.removal.load(Ordering::SeqCst) > self.resolved.load(Ordering::SeqCst)
    }

    /// How many failures there were. Ask before looking at the store's uptime.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// Takes note that the first `failures` failures are explained: the store did not restart, or all partitions are being re-read.
    pub fn resolve(&self, failures: u64) {
        self.resolved.fetch_max(failures, Ordering::SeqCst);
    }

    /// Whether all failures are explained.
    pub fn is_open(&self) -> bool {
        self.failures() == self.resolved.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_during_the_look_keeps_it_closed() {
        let gate = CommitGate::default();
        assert!(gate.is_open());
        gate.report_failure();
        let failures = gate.failures();
        gate.report_failure();
        gate.resolve(failures);
        assert!(!gate.is_open());
        gate.resolve(gate.failures());
        assert!(gate.is_open());
    }
}
