//! Where commands that only look at topics begin: `run --dry-run` and `plugin capture`. `source::start` decides it for a
//! running host, which also knows the topic's id and what was committed beside the offset.
//!
//! Guarantees: a committed offset that the broker has is always where it begins; any other case is decided by the
//! configured policy and told with the number of offsets that are missed; nothing is chosen in silence.

use rdkafka::topic_partition_list::Offset;
use tracing::{info, warn};

use crate::config::StartPolicy;
use crate::record::TopicPartition;

/// Where to begin, or why not to, from the committed offset (if any) and the first and next offset the broker has.
pub fn start(
    source: &TopicPartition,
    committed: Option<u64>,
    (low, high): (u64, u64),
    policy: StartPolicy,
) -> Result<u64, String> {
    let by_policy = match policy {
        StartPolicy::Earliest => Some(low),
        StartPolicy::Latest => Some(high),
        StartPolicy::Fail => None,
    };
    match (committed, by_policy) {
        (Some(committed), _) if (low..=high).contains(&committed) => Ok(committed),
        (None, Some(start)) => {
            info!(partition = %source, start, low, high, "no committed offset; beginning by kafka.start");
            Ok(start)
        }
        (None, None) => Err(format!("{source} has no committed offset, and kafka.start is \"fail\"")),
        (Some(committed), by_policy) => {
            let missed = low.saturating_sub(committed);
            match by_policy {
                Some(start) => {
                    warn!(
                        partition = %source, committed, low, high, missed, start,
                        "the committed offset isn't in the partition any more; going on by kafka.start"
                    );
                    Ok(start)
                }
                None => Err(format!(
                    "{source}: the committed offset {committed} isn't there any more ({low} to {high} are; {missed} \
                     offsets are lost), and kafka.start is \"fail\""
                )),
            }
        }
    }
}

/// The offset of a committed position, if there is one.
pub fn committed(offset: Offset) -> Option<u64> {
    match offset {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_policy_chooses_and_only_where_it_must() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let start = |committed, policy| start(&source, committed, (10, 20), policy);
        for policy in [StartPolicy::Earliest, StartPolicy::Latest, StartPolicy::Fail] {
            assert_eq!(start(Some(15), policy), Ok(15));
            assert_eq!(start(Some(20), policy), Ok(20));
        }
        for committed in [None, Some(9), Some(21)] {
            assert_eq!(start(committed, StartPolicy::Earliest), Ok(10));
            assert_eq!(start(committed, StartPolicy::Latest), Ok(20));
            assert!(start(committed, StartPolicy::Fail).is_err());
        }
        assert!(start(Some(4), StartPolicy::Fail).unwrap_err().contains("6 offsets are lost"));
    }
}
