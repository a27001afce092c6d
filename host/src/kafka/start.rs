//! Where a partition begins to be read: after an assignment, for a re-read, when the broker doesn't have the next offset,
//! and where a command only looks at what a host would read.
//!
//! Guarantees: an offset that the broker has is where the partition begins, unless the topic was created again or its log
//! was truncated; a topic that was created again is read from its first record; any other case is decided by
//! `kafka.start` and logged with the number of offsets that are missed. Plain values, no I/O.

use tracing::{error, info, warn};

use crate::config::StartPolicy;
use crate::flow::{CommitMetadata, CommitPoint};
use crate::record::{TopicId, TopicPartition};

/// After a truncation of Kafka's log the records that took the place of truncated ones may begin this far before its end:
/// librdkafka doesn't tell where.
const TRUNCATION: u64 = 100_000;

/// What the brokers say of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The topic's id; `None`: the brokers give none.
    pub topic_id: Option<TopicId>,
    /// How many partitions the topic has.
    pub partitions: usize,
    /// The first offset that is there.
    pub low: u64,
    /// The next offset that a record will get.
    pub high: u64,
}

/// Where to begin.
///
/// `known`: what was committed, or where the present owner wants to go on. `was_out_of_range`: the broker refused the
/// offset when it was read.
pub fn choose_begin(
    source: &TopicPartition,
    known: Option<CommitPoint>,
    facts: &Facts,
    policy: StartPolicy,
    was_out_of_range: bool,
) -> Result<CommitPoint, String> {
    let Facts { topic_id, low, high, .. } = *facts;
    let Some(CommitPoint { offset, metadata }) = known else { return first_begin(source, facts, policy) };
    // Of an offset that was refused, nothing that was known of it holds: asking again would be refused again.
    let leader_epoch = metadata.leader_epoch.filter(|_| !was_out_of_range);
    let metadata = CommitMetadata { leader_epoch, ..metadata };
    let known_id = metadata.topic_id;
    if let (Some(before), Some(now)) = (known_id, topic_id)
        && before != now
    {
        warn!(partition = %source, %before, %now, low, "the topic was deleted and created again; reading it from its begin");
        let metadata = CommitMetadata { topic_id, naming: metadata.naming, ..CommitMetadata::default() };
        return Ok(CommitPoint { offset: low, metadata });
    }
    let same_topic = known_id.is_some() && known_id == topic_id;
    let is_truncated = same_topic && (offset > high || was_out_of_range && offset >= low);
    let known = CommitPoint { offset, metadata: CommitMetadata { topic_id, ..metadata } };
    if is_truncated {
        Ok(truncated_begin(source, known, facts))
    } else if (low..=high).contains(&offset) {
        Ok(known)
    } else {
        missing_begin(source, known, facts, policy)
    }
}

/// Nothing was committed.
fn first_begin(source: &TopicPartition, facts: &Facts, policy: StartPolicy) -> Result<CommitPoint, String> {
    let Facts { topic_id, low, high, .. } = *facts;
    let offset = match policy {
        StartPolicy::Earliest => low,
        StartPolicy::Latest => high,
        StartPolicy::Fail => {
            return Err(format!("{source} has no committed offset, and kafka.start is \"fail\""));
        }
    };
    info!(partition = %source, offset, low, high, "no committed offset; beginning by kafka.start");
    Ok(CommitPoint { offset, metadata: CommitMetadata { topic_id, ..CommitMetadata::default() } })
}

/// Kafka has lost the end of the log, and others may have taken the offsets of what it lost.
fn truncated_begin(source: &TopicPartition, known: CommitPoint, facts: &Facts) -> CommitPoint {
    let Facts { low, high, .. } = *facts;
    let read_to = read_to(&known);
    let CommitPoint { offset, metadata } = known;
    let from = offset.min(high).saturating_sub(TRUNCATION).max(low);
    error!(
        partition = %source, offset, low, high, from,
        "Kafka's log was truncated, as by an unclean leader election; re-reading the end of what is left"
    );
    let durable = metadata.durable.map(|durable| durable.min(from));
    let compare_below = metadata.compare_below.max(Some(read_to));
    let reread_until = Some(read_to);
    CommitPoint {
        offset: from,
        metadata: CommitMetadata { reread_until, compare_below, durable, leader_epoch: None, ..metadata },
    }
}

/// The broker doesn't have the offset, and not because the log was truncated.
fn missing_begin(
    source: &TopicPartition,
    known: CommitPoint,
    facts: &Facts,
    policy: StartPolicy,
) -> Result<CommitPoint, String> {
    let Facts { low, high, .. } = *facts;
    let read_to = read_to(&known);
    let CommitPoint { offset, metadata } = known;
    // The epoch is of an offset further back: the log of that epoch may well end before the new begin.
    let metadata = CommitMetadata { leader_epoch: None, ..metadata };
    if offset < low && low <= read_to {
        // Everything that is missing was processed before.
        return Ok(CommitPoint { offset: low, metadata });
    }
    let missed = low.saturating_sub(read_to);
    let begin = match policy {
        StartPolicy::Earliest => low,
        StartPolicy::Latest => high,
        StartPolicy::Fail => {
            return Err(format!(
                "{source}: offset {offset} isn't there any more ({low} to {high} are; {missed} offsets are lost), and \
                 kafka.start is \"fail\""
            ));
        }
    };
    error!(
        partition = %source, offset, low, high, missed, begin,
        "the offset to read next isn't in the partition any more; going on by kafka.start"
    );
    // What an earlier owner wrote behind the missing offsets is still there, and so is what it said of the store.
    Ok(CommitPoint { offset: begin, metadata })
}

/// Everything below this offset was read before.
fn read_to(known: &CommitPoint) -> u64 {
    let CommitMetadata { reread_until, compare_below, .. } = known.metadata;
    reread_until.or(compare_below).unwrap_or_default().max(known.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: [StartPolicy; 3] = [StartPolicy::Earliest, StartPolicy::Latest, StartPolicy::Fail];

    fn source() -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: 0 }
    }

    fn id(number: u64) -> Option<TopicId> {
        TopicId::from_halves(0, number)
    }

    fn facts(topic_id: Option<TopicId>) -> Facts {
        Facts { topic_id, partitions: 1, low: 10, high: 20 }
    }

    fn point(offset: u64, topic_id: Option<TopicId>) -> CommitPoint {
        CommitPoint { offset, metadata: CommitMetadata { topic_id, durable: Some(3), ..CommitMetadata::default() } }
    }

    #[test]
    fn only_the_policy_chooses_and_only_where_it_must() {
        let begin = |offset: Option<u64>, policy| {
            choose_begin(&source(), offset.map(|offset| point(offset, None)), &facts(id(1)), policy, false)
                .map(|point| point.offset)
        };
        for policy in POLICIES {
            assert_eq!(begin(Some(15), policy), Ok(15));
            assert_eq!(begin(Some(20), policy), Ok(20));
        }
        for committed in [None, Some(9), Some(21)] {
            assert_eq!(begin(committed, StartPolicy::Earliest), Ok(10));
            assert_eq!(begin(committed, StartPolicy::Latest), Ok(20));
            assert!(begin(committed, StartPolicy::Fail).is_err());
        }
        assert!(begin(Some(4), StartPolicy::Fail).unwrap_err().contains("6 offsets are lost"));
    }

    #[test]
    fn a_topic_that_was_created_again_is_read_from_its_begin() {
        for (policy, offset) in POLICIES.into_iter().zip([5, 15, 1000]) {
            let begun = choose_begin(&source(), Some(point(offset, id(1))), &facts(id(2)), policy, false).unwrap();
            assert_eq!((begun.offset, begun.metadata.topic_id, begun.metadata.durable), (10, id(2), None));
        }
    }

    #[test]
    fn a_truncated_log_is_compared_whatever_the_policy() {
        for policy in POLICIES {
            let begin =
                |offset, out| choose_begin(&source(), Some(point(offset, id(1))), &facts(id(1)), policy, out).unwrap();
            let begun = begin(500, true);
            assert_eq!((begun.offset, begun.metadata.compare_below), (10, Some(500)));
            assert_eq!(begin(500, false).offset, 10, "the host was down when it was truncated");
            assert_eq!(begin(15, true).metadata.compare_below, Some(15), "it has grown since");
            assert_eq!(begin(15, false).metadata.compare_below, None);
        }
    }

    #[test]
    fn a_reread_begins_where_the_topic_begins_now() {
        for policy in POLICIES {
            let mut known = point(4, id(1));
            known.metadata.compare_below = Some(12);
            let begun = choose_begin(&source(), Some(known.clone()), &facts(id(1)), policy, false).unwrap();
            assert_eq!((begun.offset, begun.metadata.compare_below), (10, Some(12)));
            // What may have been written wasn't all read.
            known.metadata.reread_until = Some(8);
            let lost = choose_begin(&source(), Some(known), &facts(id(1)), policy, false);
            assert_eq!(lost.is_err(), policy == StartPolicy::Fail, "8 and 9 were never read");
        }
    }
}
