//! Which problem is the cause of what else is seen, and what a host waits for that has no partitions.
//!
//! Guarantees: a problem that names a topic, a partition or a plugin explains nothing of any other. Plain values, no I/O.

use std::time::Duration;

use crate::kafka::group::GroupState;
use crate::kafka::observer::Finding;

/// Whether Kafka can't be asked at all.
pub fn has_kafka_gone(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| ["kafka.unreachable", "kafka.refused", "kafka.advertised"].contains(&finding.code))
}

/// Whether the group gives this host no partitions because of this problem.
pub fn keeps_from_joining(code: &str) -> bool {
    ["kafka.group-denied", "kafka.coordinator"].contains(&code)
}

/// Whether all partitions may stand still because of this problem. Those that name a topic, a partition or a plugin explain no
/// other partition.
pub fn stops_everything(code: &str) -> bool {
    const ALL: [&str; 8] = [
        "kafka.unreachable",
        "kafka.refused",
        "kafka.advertised",
        "kafka.coordinator",
        "kafka.group-denied",
        "store",
        "membership",
        "host.failed",
    ];
    ALL.contains(&code)
}

/// What the host waits for where the group hasn't given out its partitions.
pub fn waits_for_group(waits: Duration, session: Duration, group: Option<GroupState>) -> String {
    let (waits, session) = (waits.as_secs(), session.as_secs());
    let why = match group {
        Some(GroupState { is_rebalancing: true, members }) => format!(
            "because the group waits for the answers of its {members} members, and a host that was killed counts as one until its session is \
             over"
        ),
        Some(GroupState { members, .. }) => {
            format!("and the group, which has {members} members, doesn't give them out at present")
        }
        None => "because the group's coordinator hasn't answered yet".to_owned(),
    };
    // After that it is something else that takes the time.
    let bound = if waits <= session { format!(", up to {session} s (session.timeout.ms)") } else { String::new() };
    format!("waits for the group to give it partitions, for {waits} s now{bound}, {why}")
}
