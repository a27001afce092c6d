//! Commits offsets to the group.
//!
//! Guarantees: only commit points of partitions that the group has given to this host are sent, by the polling thread,
//! except the last commit, which the thread `leaving` sends; one that goes back, or whose metadata alone has changed, is
//! sent as well; one that was refused is sent again. The group's coordinator refuses the commits of a host that is no longer a member.

use std::collections::{HashMap, HashSet};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{error, warn};

use super::commit_queue::{CommitAnswer, CommitQueue};
use super::group::GroupContext;
use crate::flow::CommitPoint;
use crate::record::TopicPartition;

/// Why the group refused a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CommitRefusal {
    pub reason: String,
    /// Whether all partitions concerned were given up since the commit was sent. Then the refusal says nothing about the partitions that
    /// the host has now.
    pub is_past: bool,
}

/// The commits that were sent, and their answers. See the module.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// What was sent last for each partition, and wasn't refused.
    sent: HashMap<TopicPartition, CommitPoint>,
    /// The commits that aren't answered yet, by number.
    unanswered: HashMap<usize, HashSet<TopicPartition>>,
    last_number: usize,
}

impl Commits {
    /// Takes note of what the group has committed for a partition.
    pub fn known(&mut self, source: &TopicPartition, committed: CommitPoint) {
        self.sent.insert(source.clone(), committed);
    }

    /// What was sent last and wasn't refused.
    pub fn sent(&self) -> Vec<(TopicPartition, CommitPoint)> {
        self.sent.iter().map(|(source, point)| (source.clone(), point.clone())).collect()
    }

    /// Forgets these partitions, which belong to other hosts from now on.
    pub fn forget(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|source| drop(self.sent.remove(source)));
        for sent in self.unanswered.values_mut() {
            for source in partitions {
                sent.remove(source);
            }
        }
    }

    /// Sends what has changed, without waiting for the answer.
    pub fn send_changed(&mut self, queue: &CommitQueue, points: Vec<(TopicPartition, CommitPoint)>) {
        let changed = self.changed(points);
        if !changed.is_empty() {
            self.send(queue, changed);
        }
    }

    /// Sends these commit points. Returns the number that the answer will carry; `None`: they couldn't be sent.
    pub fn send(&mut self, queue: &CommitQueue, points: Vec<(TopicPartition, CommitPoint)>) -> Option<usize> {
        self.last_number += 1;
        match queue.send(&list(&points), self.last_number) {
            Ok(()) => {
                self.unanswered.insert(self.last_number, points.iter().map(|(source, _)| source.clone()).collect());
                self.sent.extend(points);
                Some(self.last_number)
            }
            Err(error) => {
                warn!(%error, "can't commit; trying again");
                None
            }
        }
    }

    /// Takes note of an answer. `Err`: the group refused at least one offset, which is sent again.
    pub fn answered(&mut self, answer: &CommitAnswer) -> Result<(), CommitRefusal> {
        let sent = self.unanswered.remove(&answer.number).unwrap_or_default();
        let Some((partition, code)) = answer.refused.first() else { return Ok(()) };
        let mut is_past = true;
        for (partition, _) in &answer.refused {
            // A commit that was sent after the partition was given up and came back isn't the one that was refused.
            let refused = match partition {
                Some(source) => Vec::from_iter(sent.get(source)),
                None => Vec::from_iter(&sent),
            };
            for source in refused {
                self.sent.remove(source);
                is_past = false;
            }
        }
        let reason = match partition {
            Some(source) => format!("{source}: {code}"),
            None => code.to_string(),
        };
        Err(CommitRefusal { reason, is_past })
    }

    /// Sends what has changed, for the last time before partitions are given up, and waits for the answer.
    pub fn commit_last(&mut self, consumer: &BaseConsumer<GroupContext>, points: Vec<(TopicPartition, CommitPoint)>) {
        let changed = self.changed(points);
        if changed.is_empty() {
            return;
        }
        match consumer.commit(&list(&changed), CommitMode::Sync) {
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => warn!(%error, "can't commit on giving partitions up; their records will be read again"),
        }
    }

    fn changed(&self, points: Vec<(TopicPartition, CommitPoint)>) -> Vec<(TopicPartition, CommitPoint)> {
        points.into_iter().filter(|(source, point)| self.sent.get(source) != Some(point)).collect()
    }
}

fn list(points: &[(TopicPartition, CommitPoint)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(points.len());
    for (source, CommitPoint { offset, metadata }) in points {
        let mut element = list.add_partition(&source.topic, source.partition.cast_signed());
        if let Err(error) = element.set_offset(Offset::Offset(offset.cast_signed())) {
            error!(partition = %source, offset, %error, "an offset can't be committed");
        }
        element.set_metadata(metadata.to_string());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer comes after the group has given the partition again: nobody would send that commit again, nor take the refusal back.
    #[test]
    fn a_refusal_of_what_was_sent_before_a_partition_was_given_up_is_past() {
        let of = |partition| TopicPartition { topic: "t".into(), partition };
        let refused = |number| {
            let refused = vec![(Some(of(0)), RDKafkaErrorCode::IllegalGeneration)];
            CommitAnswer { number, refused }
        };
        let point = CommitPoint { offset: 7, ..CommitPoint::default() };
        let mut commits = Commits::default();
        for number in [1, 2] {
            commits.unanswered.insert(number, HashSet::from([of(0), of(1)]));
        }
        commits.known(&of(0), point.clone());
        assert!(commits.answered(&refused(1)).is_err_and(|refusal| !refusal.is_past && refusal.reason.contains("t/0")));
        assert!(commits.sent().is_empty(), "it is sent again");
        commits.forget(&[of(0)]);
        commits.known(&of(0), point.clone());
        assert!(commits.answered(&refused(2)).is_err_and(|refusal| refusal.is_past));
        assert_eq!(commits.sent(), [(of(0), point)], "what the group has committed");
        commits.unanswered.insert(3, HashSet::from([of(0), of(1)]));
        commits.forget(&[of(0)]);
        let all = CommitAnswer { number: 3, refused: vec![(None, RDKafkaErrorCode::RebalanceInProgress)] };
        assert!(commits.answered(&all).is_err_and(|refusal| !refusal.is_past), "the other one is the host's still");
    }
}
