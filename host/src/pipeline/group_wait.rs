//! Whether the group has given out its partitions, as far as this host can know it.
//!
//! With the newer group protocol nobody tells a host that it gets no partition.
//!
//! Guarantees: that a host has no partition counts as known when the group has said so, or, with the newer protocol, when it got none for
//! [`NONE_AFTER`]; the host waits for the group's word only where there will be one. A plain value.

use std::time::{Duration, Instant};

/// With the newer protocol, a host that got no partition for this long gets none.
const NONE_AFTER: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug)]
pub(super) struct GroupWait {
    is_newer_protocol: bool,
    /// Since when the group is to give out its partitions; `None`: it has.
    since: Option<Instant>,
}

impl GroupWait {
    /// The host is about to join.
    pub fn new(is_newer_protocol: bool) -> Self {
        Self { is_newer_protocol, since: Some(Instant::now()) }
    }

    /// The group has given out its partitions; or, not `done`, it is about to.
    pub fn given_out(&mut self, done: bool, now: Instant) {
        self.since = (!done).then_some(now);
    }

    /// Since when the host waits for the group's word; `None`: it has it, or won't get any.
    pub fn awaited_since(&self) -> Option<Instant> {
        self.since.filter(|_| !self.is_newer_protocol)
    }

    /// Whether it is known which partitions the host has.
    pub fn is_assignment_known(&self, now: Instant) -> bool {
        let is_over = |since| self.is_newer_protocol && now.saturating_duration_since(since) >= NONE_AFTER;
        self.since.is_none_or(is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_the_newer_protocol_it_is_not_known_at_once_that_a_host_has_no_partition() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut wait = GroupWait::new(true);
        wait.given_out(false, start);
        assert_eq!(wait.awaited_since(), None, "nobody will tell it");
        assert!(!wait.is_assignment_known(later(3)) && wait.is_assignment_known(later(20)));
        wait.given_out(true, later(1));
        assert!(wait.is_assignment_known(later(1)));
        wait.given_out(false, later(50));
        assert!(!wait.is_assignment_known(later(51)), "it has lost what it had");
    }

    #[test]
    fn otherwise_the_group_says_it() {
        let start = Instant::now();
        let mut wait = GroupWait::new(false);
        wait.given_out(false, start);
        assert_eq!(wait.awaited_since(), Some(start));
        assert!(!wait.is_assignment_known(start + Duration::from_secs(600)));
        wait.given_out(true, start);
        assert!(wait.awaited_since().is_none() && wait.is_assignment_known(start));
    }
}
