//! What writers of different entries ask together: to write few records, and whether these can be read.
//!
//! Guarantees: a part gets the answer that a request of its own would get, or it learns that the shared request failed, and
//! then its writer finds out by itself whose fault that was: no entry is charged with what another one did; nothing is sent
//! for a partition that was taken away while the part waited.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::item::header_bytes;
use super::joint::{Askers, Joint, Part};
use super::store::{QueriedRecord, StoreError, Write};
use super::writer::{NEAR_US, around};
use super::{BatchLimits, Shared};
use crate::flow::{PartitionState, UnderWay};
use crate::record::entry_name::EntryName;

/// What a writer has at most to share a request with others.
pub(super) const SMALL: usize = 16;
pub(super) const SMALL_BYTES: u64 = 64 * 1024;

/// A few records of one entry that are to be written.
pub(super) struct WritePart {
    pub entry: EntryName,
    pub batch: Vec<Write>,
    /// One for each partition that it has records of: a revocation waits for the answer, also where the writer doesn't any more.
    pub under_way: Vec<UnderWay>,
}

/// What became of it.
pub(super) enum WriteAnswer {
    /// Nothing was sent: its partition was taken away.
    Unsent,
    /// What the store said of this entry alone; the records that weren't written, by timestamp.
    Sent(Result<BTreeMap<u64, StoreError>, StoreError>),
    /// The shared request failed, perhaps for another entry, and perhaps some of it was written.
    Divided(StoreError),
}

/// Whether these records of one entry can be written in one request with those of others: the protocol has records of one
/// entry inherit each other's labels, and with the same names none inherits any.
pub(super) fn may_share<'a>(mut labels: impl Iterator<Item = &'a HashMap<String, String>>) -> bool {
    let Some(first) = labels.next() else { return false };
    !first.is_empty()
        && labels.all(|other| other.len() == first.len() && other.keys().all(|name| first.contains_key(name)))
}

fn described(write: &Write) -> usize {
    header_bytes(&write.labels, write.content_type.as_deref())
}

impl Part for WritePart {
    type Answer = WriteAnswer;
    const AT_ONCE: usize = 4;

    fn queue(shared: &Shared) -> &Joint<Self> {
        &shared.joint_writes
    }

    fn size(&self) -> BatchLimits {
        BatchLimits {
            records: self.batch.len(),
            bytes: self.batch.iter().map(|write| write.payload.len() as u64).sum(),
            // The name may be encoded with three bytes for one.
            header_bytes: self.batch.iter().map(described).sum::<usize>() + 3 * self.entry.as_str().len(),
        }
    }

    fn most(shared: &Shared) -> BatchLimits {
        shared.sharing.most(shared.limits())
    }

    async fn ask(shared: Arc<Shared>, parts: Vec<Self>, mut waiting: Askers<WriteAnswer>) {
        // This process may have been suspended while the parts waited, and the partitions have moved to another host.
        shared.membership.assured().await;
        let is_sent = |part: &Self| part.under_way.iter().all(|request| request.state().may_write());
        let sent: Vec<bool> = parts.iter().map(is_sent).collect();
        let parts: Vec<Self> = parts.into_iter().zip(&sent).filter_map(|(part, sent)| sent.then_some(part)).collect();
        let mut answers = write_together(&shared, parts).await.into_iter();
        let answer = |sent| if sent { answers.next() } else { None };
        waiting.answer_all(sent.into_iter().map(answer).map(|answer| answer.unwrap_or(WriteAnswer::Unsent)));
    }
}

/// An answer for each.
async fn write_together(shared: &Shared, mut parts: Vec<WritePart>) -> Vec<WriteAnswer> {
    if parts.len() < 2 {
        // Its answer is its own.
        let mut answers = Vec::new();
        for WritePart { entry, batch, under_way } in parts {
            answers.push(WriteAnswer::Sent(shared.store.write(&entry, batch, under_way).await));
        }
        return answers;
    }
    let none = BatchLimits { records: 0, bytes: 0, header_bytes: 0 };
    let size = parts.iter().map(WritePart::size).fold(none, |sum, size| BatchLimits {
        records: sum.records + size.records,
        bytes: sum.bytes + size.bytes,
        header_bytes: sum.header_bytes + size.header_bytes,
    });
    let batches = parts.iter_mut().map(|part| (&part.entry, std::mem::take(&mut part.batch)));
    let answer = shared.store.write_entries(batches).await.and_then(|mut failed| {
        let answers = parts.iter().map(|part| failed.remove(part.entry.as_str()).unwrap_or_default()).collect();
        // What fits none of them may be meant for any.
        let strange = || StoreError::Failed(format!("the answer is about other entries: {:?}", failed.keys()));
        if failed.is_empty() { Ok::<Vec<_>, _>(answers) } else { Err(strange()) }
    });
    match answer {
        Ok(answers) => {
            shared.sharing.succeeded();
            answers.into_iter().map(|failed| WriteAnswer::Sent(Ok(failed))).collect()
        }
        Err(error) => {
            shared.sharing.failed(&error, size);
            shared.counters.retried(&error);
            parts.iter().map(|_| WriteAnswer::Divided(error.clone())).collect()
        }
    }
}

/// Records of one entry and partition that the store acknowledged, and that are to be read back.
pub(super) struct ShownPart {
    pub entry: EntryName,
    /// One value for all of them: a record that was re-read belongs to another one.
    pub state: Arc<PartitionState>,
    /// From here on the entry holds nothing but what was written while its partitions were this host's.
    pub own_from: u64,
    /// The first and the last time, in microseconds since 1970.
    pub times: RangeInclusive<u64>,
    /// The lowest and the highest offset.
    pub offsets: RangeInclusive<u64>,
    pub records: usize,
}

impl Part for ShownPart {
    /// What a query shows of the partition between those times and offsets, in this entry and others; `None`: the
    /// question has to be asked by itself. An error may be another entry's.
    ///
    /// The client doesn't tell which entry a record stands in. Its identity does: behind `own_from` of all entries that
    /// are asked there is only what this host wrote since the partition was assigned to it, and that was one entry for
    /// each identity.
    type Answer = Result<Option<Arc<Vec<QueriedRecord>>>, StoreError>;
    const AT_ONCE: usize = 4;

    fn queue(shared: &Shared) -> &Joint<Self> {
        &shared.joint_reads
    }

    fn size(&self) -> BatchLimits {
        BatchLimits { records: self.records, bytes: 0, header_bytes: 0 }
    }

    fn most(shared: &Shared) -> BatchLimits {
        BatchLimits { records: shared.limits().records, bytes: u64::MAX, header_bytes: usize::MAX }
    }

    async fn ask(shared: Arc<Shared>, parts: Vec<Self>, mut waiting: Askers<Self::Answer>) {
        let groups = groups(&parts);
        let is_alone = |at: &usize| !groups.iter().any(|group| group.contains(at));
        (0..parts.len()).filter(is_alone).for_each(|at| waiting.answer(at, Ok(None)));
        for group in groups {
            let Some(question) = JointQuestion::of(&parts, &group) else { continue };
            let shown = shared.store.shown_in_entries(question).await.map(|shown| shown.map(Arc::new));
            match &shown {
                Ok(_) => shared.sharing_reads.succeeded(),
                Err(error) => {
                    shared.sharing_reads.failed(error, BatchLimits { records: 0, bytes: 0, header_bytes: 0 });
                    shared.counters.retried(error);
                }
            }
            group.into_iter().for_each(|at| waiting.answer(at, shown.clone()));
        }
    }
}

/// One query over several entries.
pub(super) struct JointQuestion {
    pub entries: Vec<EntryName>,
    pub state: Arc<PartitionState>,
    pub times: std::ops::Range<u64>,
    pub offsets: RangeInclusive<u64>,
    pub records: usize,
}

impl JointQuestion {
    fn of(parts: &[ShownPart], group: &[usize]) -> Option<Self> {
        let parts: Vec<&ShownPart> = group.iter().filter_map(|at| parts.get(*at)).collect();
        let first = parts.first()?;
        let times = around(
            parts.iter().map(|part| *part.times.start()).min()?,
            parts.iter().map(|part| *part.times.end()).max()?,
        );
        let lowest = parts.iter().map(|part| *part.offsets.start()).min()?;
        let highest = parts.iter().map(|part| *part.offsets.end()).max()?;
        Some(Self {
            entries: parts.iter().map(|part| part.entry.clone()).collect(),
            state: Arc::clone(&first.state),
            times,
            offsets: lowest..=highest,
            records: parts.iter().map(|part| part.records).sum(),
        })
    }
}

/// Which parts one query can answer, by their places: those of one partition whose times are near, two or more.
fn groups(parts: &[ShownPart]) -> Vec<Vec<usize>> {
    let mut by_state: HashMap<*const PartitionState, Vec<usize>> = HashMap::new();
    for (at, part) in parts.iter().enumerate() {
        by_state.entry(Arc::as_ptr(&part.state)).or_default().push(at);
    }
    let part = |at: &usize| parts.get(*at);
    let start = |at: &usize| part(at).map_or(0, |part| *part.times.start());
    let end = |at: &usize| part(at).map_or(0, |part| *part.times.end());
    let mut groups = Vec::new();
    for mut places in by_state.into_values() {
        places.sort_by_key(start);
        for near in places.chunk_by(|one, next| start(next).saturating_sub(end(one)) <= NEAR_US) {
            // What stood in an entry before may be a copy of a record that goes to another one now.
            let from = near.iter().map(start).min().unwrap_or_default().saturating_sub(1);
            let own = near.iter().copied().filter(|at| part(at).is_some_and(|part| part.own_from <= from));
            let group: Vec<usize> = own.collect();
            if group.len() > 1 {
                groups.push(group);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Begin, Budget};
    use crate::record::TopicPartition;
    use crate::record::entry_name::Naming;

    fn state() -> Arc<PartitionState> {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let naming = Naming::default_for(1, false);
        let dead_letters = naming.derived.clone();
        let budget = Arc::new(Budget::new(9, 100));
        Arc::new(PartitionState::new(source, naming, &dead_letters, budget, Begin::default()).unwrap())
    }

    fn part(state: &Arc<PartitionState>, entry: &str, first: u64, own_from: u64) -> ShownPart {
        ShownPart {
            entry: EntryName::parse(entry).unwrap(),
            state: Arc::clone(state),
            own_from,
            times: first..=first + 5,
            offsets: first..=first + 1,
            records: 2,
        }
    }

    #[test]
    fn one_query_answers_for_records_of_one_partition_that_are_near() {
        let (one, other) = (state(), state());
        let far = 100 + 3 * NEAR_US;
        let parts = [
            part(&one, "a", 100, 0),
            part(&other, "b", 100, 0),
            part(&one, "c", 110, 0),
            part(&one, "d", far, 0),
            part(&one, "e", far, 0),
        ];
        let mut found = groups(&parts);
        found.sort();
        assert_eq!(found, [vec![0, 2], vec![3, 4]], "one part alone is asked for by its writer");
        let question = JointQuestion::of(&parts, &[0, 2]).unwrap();
        assert_eq!((question.times, question.offsets, question.records), (99..116, 100..=111, 4));
    }

    /// The client doesn't say in which entry a record is: an old copy in one entry would stand for the record in another.
    #[test]
    fn entries_that_held_something_at_those_times_are_asked_by_themselves() {
        let one = state();
        let parts =
            [part(&one, "a", 100, 0), part(&one, "b", 120, 110), part(&one, "c", 130, 99), part(&one, "d", 140, 100)];
        assert_eq!(groups(&parts), [vec![0, 2]]);
    }

    #[test]
    fn records_with_other_label_names_share_no_request() {
        let set = |names: &[&str]| -> HashMap<String, String> {
            names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect()
        };
        let may_share = |records: &[&[&str]]| {
            let labels: Vec<HashMap<String, String>> = records.iter().map(|names| set(names)).collect();
            may_share(labels.iter())
        };
        assert!(may_share(&[&["a", "b"], &["b", "a"]]) && may_share(&[&["a"]]));
        assert!(!may_share(&[&["a", "b"], &["a"]]) && !may_share(&[&["a"], &["b"]]));
        assert!(!may_share(&[&[], &[]]), "an empty set inherits that of the record before");
    }
}
