//! Whether we may use our consumer group, and how many members it has.
//!
//! A command asks the coordinator to describe the group, which tells most ([`may_use`], [`members`]). A running host asks for a
//! committed offset ([`answers`]) and lists the groups ([`members_beside`]): where a connection breaks at the wrong moment,
//! describing a group aborts the whole process (librdkafka 2.12, issue 4605).
//!
//! Guarantees: members that can't be counted are an error, and never taken for none; a group that has no coordinator for a moment
//! isn't taken for one that can't be used: right after the brokers' start, and while another broker becomes its coordinator, the
//! question is asked again until its time is over.

use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{ClientContext, TopicPartitionList};
use thiserror::Error;

use super::admin::{self, AskError, GroupDescription};
use super::client::{Reports, told};
use crate::record::TopicPartition;

/// How long to wait before the question is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Why the group can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GroupError {
    /// A right is missing.
    #[error("we may not use it; allow the principal READ and DESCRIBE on this group")]
    Denied,
    /// Nobody can count the members.
    #[error(
        "the brokers name none of its members, although this host is one; allow the principal DESCRIBE on the group, and let no member \
         have group.protocol = \"consumer\", with which they never do"
    )]
    Unnamed,
    /// Anything else that the coordinator says.
    #[error("its coordinator says: {0}")]
    Other(String),
}

/// The consumer group as its coordinator sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupState {
    /// It gives its partitions out again, and waits for its members.
    pub is_rebalancing: bool,
    /// How many members it has.
    pub members: usize,
}

/// How long the group waits for its members, with the newer protocol. By default as long as the brokers do unless they are configured
/// otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupTimes {
    /// How long for one that says nothing.
    pub session: Duration,
    /// How far the members' heartbeats are apart, with which they learn of their partitions.
    pub heartbeat: Duration,
}

impl Default for GroupTimes {
    fn default() -> Self {
        Self { session: Duration::from_secs(45), heartbeat: Duration::from_secs(5) }
    }
}

/// Asks whether we may join the group and commit in it. An error that may pass is returned after this time.
pub fn may_use<C: ClientContext>(client: &Client<C>, group: &str, within: Duration) -> Result<(), GroupError> {
    ask_until_settled(within, ASK_AGAIN_AFTER, |left| admin::describe_group(client, group, left)).map(drop)
}

/// How many members the group has, whichever protocol they speak. An error that may pass is returned after this time. Not for a running
/// host.
pub(super) fn members<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    within: Duration,
) -> Result<usize, GroupError> {
    // Who counts the members need not be allowed to become one.
    let ask =
        |left| admin::describe_group(client, group, left).map(|group| GroupDescription { may_read: None, ..group });
    ask_until_settled(within, ASK_AGAIN_AFTER, ask)
}

/// How many members the group of a running host has. That host is one of them: an answer without any tells nothing. Brokers list no
/// members that speak the newer protocol, and librdkafka 2.12 drops the error of one broker when another one answers.
pub fn members_beside<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    group: &str,
    within: Duration,
) -> Result<usize, GroupError> {
    let list = client.fetch_group_list(Some(group), within).map_err(|error| GroupError::Other(told(&error)))?;
    match list.groups().iter().map(|group| group.members().len()).sum() {
        0 => Err(GroupError::Unnamed),
        members => Ok(members),
    }
}

/// Asks whether the group's coordinator answers. `client` has the group's id and doesn't join it. `source`: a partition of a
/// topic that is read.
pub(super) fn answers(
    client: &BaseConsumer<Reports>,
    source: &TopicPartition,
    within: Duration,
) -> Result<(), GroupError> {
    let mut list = TopicPartitionList::new();
    list.add_partition(&source.topic, source.partition.cast_signed());
    // librdkafka waits for the coordinator by itself.
    client.committed_offsets(list, within).map(drop).map_err(|error| match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::GroupAuthorizationFailed) => GroupError::Denied,
        _ => GroupError::Other(told(&error)),
    })
}

/// What the brokers say of the group's members; `None`: they don't say it. They list all groups for it.
pub(super) fn state(client: &BaseConsumer<Reports>, group: &str, within: Duration) -> Option<GroupState> {
    let list = client.fetch_group_list(Some(group), within).ok()?;
    let group = list.groups().first()?;
    // The states between two generations: `PreparingRebalance`, and `CompletingRebalance` (before Kafka 2.4 `AwaitingSync`).
    let is_rebalancing = group.state().ends_with("Rebalance") || group.state() == "AwaitingSync";
    Some(GroupState { is_rebalancing, members: group.members().len() })
}

fn ask_until_settled(
    within: Duration,
    ask_again_after: Duration,
    mut ask: impl FnMut(Duration) -> Result<GroupDescription, AskError>,
) -> Result<usize, GroupError> {
    let started = Instant::now();
    loop {
        let may_pass = match ask(within.saturating_sub(started.elapsed())) {
            Ok(group) => match (group.error, group.may_read) {
                (Some(RDKafkaErrorCode::GroupAuthorizationFailed), _) | (None, Some(false)) => {
                    return Err(GroupError::Denied);
                }
                // A group that nobody has used yet.
                (None | Some(RDKafkaErrorCode::GroupIdNotFound), _) => return Ok(group.members),
                (Some(code), _) => code.to_string(),
            },
            Err(error) if error.code == RDKafkaErrorCode::GroupAuthorizationFailed => return Err(GroupError::Denied),
            Err(error) => error.reason,
        };
        // The next question needs some time for its answer, too.
        if started.elapsed() + ask_again_after * 2 >= within {
            return Err(GroupError::Other(may_pass));
        }
        std::thread::sleep(ask_again_after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn says(error: Option<RDKafkaErrorCode>, may_read: Option<bool>) -> Result<GroupDescription, AskError> {
        Ok(GroupDescription { error, may_read, members: 2 })
    }

    /// The answers one after the other, the last one again and again. Returns the result and how often it was asked.
    fn asked(within: Duration, answers: &[Result<GroupDescription, AskError>]) -> (Result<usize, GroupError>, usize) {
        let mut count = 0;
        let result = ask_until_settled(within, Duration::from_millis(1), |left| {
            assert!(left <= within);
            count += 1;
            answers[(count - 1).min(answers.len() - 1)].clone()
        });
        (result, count)
    }

    #[test]
    fn a_coordinator_that_is_not_there_yet_is_waited_for() {
        let moves = says(Some(RDKafkaErrorCode::NotCoordinator), None);
        let loads = says(Some(RDKafkaErrorCode::CoordinatorLoadInProgress), None);
        assert_eq!(asked(LONG, &[moves.clone(), loads, says(None, Some(true))]), (Ok(2), 3));
        let away = Err(AskError { code: RDKafkaErrorCode::CoordinatorNotAvailable, reason: "none".into() });
        assert_eq!(asked(LONG, &[away, says(Some(RDKafkaErrorCode::GroupIdNotFound), None)]), (Ok(2), 2));
        let (result, count) = asked(Duration::from_millis(30), &[moves]);
        let Err(GroupError::Other(reason)) = result else { panic!("{result:?}") };
        assert!(reason.contains("NotCoordinator") && count > 1, "{reason} after {count} questions");
    }

    #[test]
    fn a_missing_right_is_told_at_once() {
        let denied = says(Some(RDKafkaErrorCode::GroupAuthorizationFailed), None);
        let code = RDKafkaErrorCode::GroupAuthorizationFailed;
        for answer in [denied, says(None, Some(false)), Err(AskError { code, reason: "no".into() })] {
            assert_eq!(asked(LONG, &[answer]), (Err(GroupError::Denied), 1));
        }
    }
}
