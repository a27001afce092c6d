//! Whether the group refuses to let this host in, as far as librdkafka tells.
//!
//! librdkafka raises the same error where the brokers refuse to name the group's coordinator and where the coordinator refuses the
//! member, and of neither refusal it says when it ends.
//!
//! Guarantees: a refusal that isn't repeated is forgotten after [`HOLDS`], so that it can't hide for ever what else is wrong. A plain
//! value.

use std::time::{Duration, Instant};

/// How long one refusal holds. While the coordinator refuses the member, librdkafka 2.12.1 tries again two to three seconds after each
/// attempt, and raises the error each time (`rkcg_join_intvl` of one second, and one more of backoff, in `rd_kafka_cgrp_handle_JoinGroup`).
/// That the brokers refuse to name the coordinator it raises only once (`rd_kafka_cgrp_handle_FindCoordinator`); while that lasts, the
/// observer, which asks for the coordinator itself, tells it.
const HOLDS: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct GroupRefusal {
    is_newer_protocol: bool,
    /// When the last refusal was raised; `None`: it is over.
    last: Option<Instant>,
}

impl GroupRefusal {
    /// Nothing was refused yet.
    pub fn new(is_newer_protocol: bool) -> Self {
        Self { is_newer_protocol, last: None }
    }

    /// librdkafka raised the error. With the newer protocol that is only about the coordinator, because it gives up for good where the
    /// coordinator refuses the member; and nothing would tell the end of it to a host that gets no partition.
    pub fn raised(&mut self, now: Instant) {
        self.last = (!self.is_newer_protocol).then_some(now);
    }

    /// The group has let this host in.
    pub fn end(&mut self) {
        self.last = None;
    }

    /// Whether the group refuses this host.
    pub fn holds(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < HOLDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_holds_while_it_is_repeated_and_until_the_host_is_let_in() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut refusal = GroupRefusal::new(false);
        assert!(!refusal.holds(start));
        for at in [0, 3, 6, 9, 12, 15] {
            refusal.raised(later(at));
            assert!(refusal.holds(later(at + 3)));
        }
        assert!(!refusal.holds(later(25)), "that the coordinator isn't named is raised only once");
        refusal.raised(later(26));
        refusal.end();
        assert!(!refusal.holds(later(26)));
    }

    #[test]
    fn with_the_newer_protocol_the_error_says_nothing_that_is_not_told_elsewhere() {
        let start = Instant::now();
        let mut refusal = GroupRefusal::new(true);
        refusal.raised(start);
        assert!(!refusal.holds(start));
    }
}
