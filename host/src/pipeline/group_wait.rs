//! Whether the group has given out its partitions, as far as this host can know it.
//!
//! With the newer group protocol nobody tells a host that it gets no partition.
//!
//! Guarantees: that a host has no partition counts as known when the group has said so, or, with the newer protocol, when it got none for
//! as long as the group may have waited for a host that was killed, and [`HEARTBEATS`] more; the host waits for the group's word only
//! where there will be one. How long the group waits is what the brokers say, or their default as long as they haven't said it. While the
//! host finishes the records of partitions that it gives back, it isn't known what it has. A plain value.

use std::time::Instant;

use crate::kafka::group::GroupTimes;

/// After how many heartbeats behind a session's end a member has heard of its new partitions.
const HEARTBEATS: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct GroupWait {
    /// With the newer protocol, how long the group waits for its members.
    times: Option<GroupTimes>,
    /// Since when the group is to give out its partitions; `None`: it has.
    since: Option<Instant>,
    /// Partitions are being given back: they are the host's no more, and their records are still being written.
    gives_back: bool,
}

impl GroupWait {
    /// The host is about to join.
    pub fn new(is_newer_protocol: bool) -> Self {
        Self { times: is_newer_protocol.then(GroupTimes::default), since: Some(Instant::now()), gives_back: false }
    }

    /// The brokers say how long they wait. `true`: it wasn't known.
    pub fn learn(&mut self, times: GroupTimes) -> bool {
        self.times.as_mut().is_some_and(|known| std::mem::replace(known, times) != times)
    }

    /// The group has given out its partitions (`done`), or is about to give them out.
    pub fn given_out(&mut self, done: bool, now: Instant) {
        self.since = (!done).then_some(now);
    }

    /// The host begins to give back partitions, or has given them back.
    pub fn gives_back(&mut self, begins: bool) {
        self.gives_back = begins;
    }

    /// Since when the host waits for the group's word; `None`: it has it, or won't get any.
    pub fn awaited_since(&self) -> Option<Instant> {
        self.since.filter(|_| self.times.is_none())
    }

    /// Whether it is known which partitions the host has. `unable_at`: when the group was last unable to give any, because Kafka was away
    /// or the host could not join; sessions begin again when it comes back.
    pub fn is_assignment_known(&self, now: Instant, unable_at: Option<Instant>) -> bool {
        if self.gives_back {
            return false;
        }
        let Some(since) = self.since else { return true };
        let since = unable_at.map_or(since, |unable_at| unable_at.max(since));
        let longest = |times: GroupTimes| times.session.saturating_add(times.heartbeat.saturating_mul(HEARTBEATS));
        self.times.is_some_and(|times| now.saturating_duration_since(since) >= longest(times))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn with_the_newer_protocol_it_is_not_known_at_once_that_a_host_has_no_partition() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut wait = GroupWait::new(true);
        wait.given_out(false, start);
        let is_known = |wait: &GroupWait, seconds| wait.is_assignment_known(later(seconds), None);
        assert_eq!(wait.awaited_since(), None, "nobody will tell it");
        assert!(!is_known(&wait, 50), "the group may have waited for a host that was killed for 45 s");
        assert!(is_known(&wait, 60));
        let after_an_absence = |seconds| wait.is_assignment_known(later(seconds), Some(later(30)));
        assert!(
            !after_an_absence(89) && after_an_absence(90),
            "the group waits the whole time again when Kafka is back"
        );
        assert!(wait.is_assignment_known(later(60), start.checked_sub(Duration::from_secs(1))), "before it waited");
        wait.given_out(true, later(1));
        assert!(is_known(&wait, 1));
        wait.given_out(false, later(70));
        assert!(!is_known(&wait, 71), "it has lost what it had");
    }

    #[test]
    fn a_longer_session_of_the_brokers_is_waited_out() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut wait = GroupWait::new(true);
        wait.given_out(false, start);
        let times = GroupTimes { session: Duration::from_secs(180), heartbeat: Duration::from_secs(20) };
        assert!(wait.learn(times) && !wait.learn(times));
        assert!(!wait.is_assignment_known(later(239), None) && wait.is_assignment_known(later(240), None));
        let mut wait = GroupWait::new(false);
        assert!(!wait.learn(times), "the host chooses its session itself");
        assert_eq!(wait.awaited_since().is_some(), wait.since.is_some());
    }

    #[test]
    fn otherwise_the_group_says_it() {
        let start = Instant::now();
        let mut wait = GroupWait::new(false);
        wait.given_out(false, start);
        assert_eq!(wait.awaited_since(), Some(start));
        assert!(!wait.is_assignment_known(start + Duration::from_secs(600), None));
        wait.given_out(true, start);
        assert!(wait.awaited_since().is_none() && wait.is_assignment_known(start, None));
    }

    #[test]
    fn while_records_of_partitions_that_are_given_back_are_written_a_lag_of_0_is_not_known() {
        let now = Instant::now();
        for is_newer_protocol in [false, true] {
            let mut wait = GroupWait::new(is_newer_protocol);
            wait.given_out(true, now);
            wait.gives_back(true);
            assert!(!wait.is_assignment_known(now, None));
            wait.gives_back(false);
            assert!(wait.is_assignment_known(now, None));
        }
    }
}
