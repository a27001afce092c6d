//! Tests what may be read, written and committed of a partition, event by event.

use std::time::Duration;

use super::*;
use crate::flow::block_margin::BlockMargin;
use crate::flow::commit_metadata::EntryNaming;
use crate::record::TopicId;

const BLOCKS: u64 = 100;

fn state(budget: &Arc<Budget>, point: CommitPoint, reread_until: u64) -> Arc<PartitionState> {
    let source = TopicPartition { topic: "t".into(), partition: 0 };
    let naming = Naming::default_for(1, false);
    let dead_letters = naming.derived.clone();
    let mut point = point;
    point.metadata.reread_until = Some(reread_until).filter(|until| *until > 0);
    let begin = Begin { point, block_margin: BlockMargin::of_blocks(BLOCKS / 2), ..Begin::default() };
    Arc::new(PartitionState::new(source, naming, &dead_letters, Arc::clone(budget), begin).unwrap())
}

fn at(offset: u64) -> Arc<PartitionState> {
    let metadata = CommitMetadata { naming: Some(EntryNaming::Topic), ..CommitMetadata::default() };
    state(&Arc::new(Budget::new(9, 100)), CommitPoint { offset, metadata }, 0)
}

fn started(from: u64) -> Started {
    Started { from, to: from + 50 }
}

fn offset(state: &PartitionState) -> Option<u64> {
    state.commit_point().map(|point| point.offset)
}

#[test]
fn a_partition_has_a_commit_point_before_its_first_record() {
    let state = at(7);
    let point = state.commit_point().unwrap();
    assert_eq!((point.offset, point.metadata.to_string().as_str()), (7, "naming=topic"));
}

#[test]
fn an_offset_is_acknowledged_with_the_last_of_its_outputs() {
    let budget = Arc::new(Budget::new(2, 100));
    let state = state(&budget, CommitPoint { offset: 4, ..CommitPoint::default() }, 0);
    let ack = state.receive(4, 60).unwrap();
    ack.grow(1, 10);
    let part = ack.share();
    ack.acknowledge();
    assert_eq!((state.position(), budget.used(), budget.has_room()), (4, (2, 70), false));
    part.acknowledge();
    assert_eq!((state.position(), budget.used(), budget.has_room()), (5, (0, 0), true));
    assert!(state.wait_drained(Duration::ZERO) && !state.is_record_lost());
}

#[test]
fn a_lost_handle_holds_the_offset_and_frees_the_budget() {
    let budget = Arc::new(Budget::new(1, 100));
    let state = state(&budget, CommitPoint::default(), 0);
    drop(state.receive(4, 100).unwrap());
    assert!(budget.has_room() && state.is_record_lost());
    assert_eq!((state.position(), state.in_flight()), (4, 1));
    assert!(!state.wait_drained(Duration::from_secs(3600)), "nobody can acknowledge it any more");
    assert!(state.receive(4, 1).is_none());
}

#[test]
fn an_abandoned_partition_goes_on_without_the_record_that_its_worker_has() {
    let state = at(4);
    let lost = state.receive(4, 1).unwrap();
    let written = state.receive(5, 1).unwrap();
    let request = state.request();
    state.abandon();
    assert!(state.may_write() && state.receive(6, 1).is_none(), "what is queued is still written");
    assert_eq!(state.try_end(), None, "a request is under way");
    drop(request);
    assert_eq!(state.try_end(), None, "one record is with a writer");
    written.acknowledge();
    assert!(!state.wait_drained(Duration::from_secs(3600)), "nobody waits for the lost one");
    assert_eq!(state.try_end().unwrap().offset, 4, "the record is read again");
    // The thread comes back after all: too late.
    lost.acknowledge();
    assert!(!state.is_record_lost() && !state.may_write() && state.commit_point().is_none());
}

#[test]
fn reading_stops_far_ahead_of_a_stuck_record() {
    let state = state(&Arc::new(Budget::new(usize::MAX, usize::MAX)), CommitPoint::default(), 0);
    let stuck = state.receive(0, 1).unwrap();
    let mut offset = 1;
    while state.may_read() {
        state.receive(offset, 1).unwrap().acknowledge();
        offset += 1;
    }
    assert_eq!(offset, MAX_AHEAD as u64);
    stuck.acknowledge();
    assert!(state.may_read());
}

#[test]
fn nothing_is_committed_while_a_failure_is_unexplained() {
    let state = at(5);
    state.gate.report_failure();
    assert_eq!(state.commit_point(), None);
    state.gate.resolve(1);
    assert_eq!(offset(&state), Some(5));
}

/// Entries of other partitions fail again and again, so that the gate is hardly ever open.
#[test]
fn what_was_acknowledged_before_a_look_at_the_store_is_committed_whatever_fails_since() {
    let state = at(5);
    let acks: Vec<_> = (5..8).map(|offset| state.receive(offset, 1).unwrap()).collect();
    state.gate.report_failure();
    let mut acks = acks.into_iter();
    acks.next().unwrap().acknowledge();
    let (position, failures) = (state.position(), state.gate.failures());
    // While the store is asked, more is acknowledged, and more fails.
    acks.next().unwrap().acknowledge();
    state.gate.report_failure();
    assert_eq!(offset(&state), None);
    state.looked(Started { from: 1, to: 2 }, position, None, 0);
    state.gate.resolve(failures);
    assert_eq!(offset(&state), Some(6), "what was acknowledged before the look");
    state.gate.report_removal();
    assert_eq!(offset(&state), None, "a removal may have harmed what had been acknowledged");
    state.gate.resolve(state.gate.failures());
    assert_eq!(offset(&state), Some(7));
    state.gate.report_failure();
    assert_eq!(offset(&state), Some(7), "it doesn't go back");
    drop(acks);
}

#[test]
fn a_reread_begins_when_nothing_is_in_flight() {
    let state = at(1000);
    state.looked(started(1), 1000, None, 0);
    let (first, second) = (state.receive(1000, 1).unwrap(), state.receive(1001, 1).unwrap());
    let request = state.request();
    state.announce_reread(Reread { from: 850, discard_unsent: false, store_start: Some(started(9)) });
    assert!(state.may_write() && !state.may_read() && state.receive(1002, 1).is_none());
    assert_eq!(state.try_end(), None);
    first.acknowledge();
    drop(second);
    assert!(!state.is_record_lost(), "the re-read brings it again");
    assert_eq!(state.try_end(), None, "a request is under way");
    drop(request);
    let point = state.try_end().unwrap();
    assert_eq!((point.offset, point.metadata.compare_below), (850, Some(1002)));
    assert_eq!((point.metadata.store_start, point.metadata.durable), (Some(started(9)), Some(950)));
    assert!(!state.may_write() && state.commit_point().is_none() && state.try_end().is_none());
}

#[test]
fn unsent_records_are_dropped_unless_one_reread_needs_them() {
    let reread = |discard_unsent| Reread { from: 4, discard_unsent, store_start: None };
    let state = at(5);
    state.announce_reread(reread(true));
    assert!(!state.may_write());
    state.announce_reread(reread(false));
    assert!(state.may_write());
    state.announce_reread(reread(true));
    assert!(state.may_write());
}

#[test]
fn a_removal_is_owed_by_whoever_owns_the_partition_next() {
    let state = at(1000);
    let ack = state.receive(1000, 1).unwrap();
    state.require_reread_after_removal();
    assert!(!state.may_write() && !state.may_read());
    assert_eq!((state.required_reread(), state.try_end()), (Some(900), None), "the recovery decides first");
    drop(ack);
    state.revoke();
    let point = state.commit_point().unwrap();
    assert_eq!((point.offset, point.metadata.compare_below), (900, Some(1001)));
}

#[test]
fn a_reread_that_removes_something_is_completed_and_repeated() {
    let metadata = CommitMetadata { compare_below: Some(903), durable: Some(1000), ..CommitMetadata::default() };
    let state = state(&Arc::new(Budget::new(9, 100)), CommitPoint { offset: 900, metadata }, 903);
    let acks: Vec<_> = (900..903).map(|offset| state.receive(offset, 1).unwrap()).collect();
    assert!(state.compare_contents());
    state.require_reread_after_removal();
    assert!(state.may_write() && state.may_read());
    let mut acks = acks.into_iter();
    acks.next().unwrap().acknowledge();
    let point = state.commit_point().unwrap();
    assert_eq!((point.offset, point.metadata.compare_below), (900, Some(903)), "the next owner repeats it");
    acks.for_each(AckHandle::acknowledge);
    assert_eq!((state.phase(), state.required_reread()), (Phase::RereadRequired, Some(900)));
    assert!(!state.compare_contents());
}

#[test]
fn a_reread_without_removals_ends_by_itself() {
    let metadata = CommitMetadata { compare_below: Some(902), durable: Some(950), ..CommitMetadata::default() };
    let state = state(&Arc::new(Budget::new(9, 100)), CommitPoint { offset: 900, metadata }, 902);
    state.looked(started(1), 900, None, 0);
    assert_eq!(
        state.commit_point().unwrap().metadata.to_string(),
        "store=1-51 durable=950 margin=100 reread=902 compare=902"
    );
    (900..902).for_each(|offset| state.receive(offset, 1).unwrap().acknowledge());
    state.looked(started(1), 902, Some(700), 0);
    let point = state.commit_point().unwrap();
    assert_eq!((point.offset, point.metadata.to_string().as_str()), (902, "store=1-51 durable=800 margin=100"));
}

/// Where records go to several entries, one that gets few of them has its block open for long, and the next owner may write thousands of
/// others before the store crashes.
#[test]
fn what_earlier_owners_wrote_to_several_entries_is_at_risk_for_a_while() {
    let risk = |state: &PartitionState| state.commit_point().unwrap().metadata.risks.to_string();
    let receive = |state: &Arc<PartitionState>, offset| state.receive(offset, 1).unwrap().acknowledge();
    let first = at(1000);
    // What was there before its begin is at rest.
    first.looked(started(1), 1000, None, u64::MAX);
    (1000..1010).for_each(|offset| receive(&first, offset));
    first.looked(started(1), 1010, Some(1000), 0);
    assert_eq!(risk(&first), "", "all go to one entry");
    first.note_other_entry();
    first.looked(started(1), 1010, Some(1000), 0);
    assert_eq!(risk(&first), "1000@300000");
    let next = state(&Arc::new(Budget::new(9, 100)), first.commit_point().unwrap(), 0);
    (1010..1300).for_each(|offset| receive(&next, offset));
    next.looked(started(1), 1300, None, 10_000);
    receive(&next, 1300);
    assert_eq!(next.reread_from_after_crash(), 1000);
    assert_eq!(risk(&next), "1000@300000,1300@360000", "with the record that was acknowledged since");
    next.looked(started(1), 1301, Some(1020), 300_000);
    assert_eq!(next.reread_from_after_crash(), 1301 - BLOCKS, "what this process wrote it remembers itself");
    assert_eq!(risk(&next), "1020@600000");
    next.looked(started(1), 1301, None, 700_000);
    assert_eq!(risk(&next), "", "nothing was written for a while");
}

/// The last block of the default entry stays open when a new version of a plugin sends records elsewhere.
#[test]
fn what_was_written_to_one_entry_is_at_risk_when_records_go_elsewhere() {
    let point = CommitPoint { offset: 1000, metadata: CommitMetadata::read("durable=1000") };
    let next = state(&Arc::new(Budget::new(9, 100)), point, 0);
    (1000..1500).for_each(|offset| next.receive(offset, 1).unwrap().acknowledge());
    next.looked(started(1), 1500, None, 0);
    assert_eq!(next.reread_from_after_crash(), 1500 - BLOCKS, "all go to one entry");
    next.note_other_entry();
    assert_eq!(next.reread_from_after_crash(), 1000 - BLOCKS);
    assert_eq!(next.commit_point().unwrap().metadata.risks.lowest(), Some(1000 - BLOCKS));
    next.looked(started(1), 1500, None, u64::MAX);
    assert_eq!(next.reread_from_after_crash(), 1500 - BLOCKS, "it was saved since");
}

#[test]
fn a_revoked_partition_writes_what_is_in_flight_until_it_has_ended() {
    let state = at(5);
    let (first, second) = (state.receive(5, 1).unwrap(), state.receive(6, 1).unwrap());
    state.revoke();
    assert!(state.may_write() && !state.may_read());
    first.acknowledge();
    assert_eq!(offset(&state), Some(6));
    let request = state.request();
    assert!(!state.wait_drained(Duration::from_millis(1)) && !state.wait_answered(Duration::from_millis(1)));
    drop(request);
    assert!(state.wait_answered(Duration::ZERO));
    state.end();
    assert!(!state.may_write() && state.commit_point().is_none());
    drop(second);
    assert!(!state.is_record_lost());
}

#[test]
fn an_offset_that_is_out_of_range_is_decided_when_nothing_is_in_flight() {
    let state = at(5);
    let ack = state.receive(5, 1).unwrap();
    state.report_out_of_range();
    assert!(state.may_write() && !state.may_read());
    assert_eq!(state.try_end(), None);
    ack.acknowledge();
    assert_eq!(state.try_end().unwrap().offset, 6);
}

#[test]
fn a_refused_offset_is_not_forgotten_for_a_reread() {
    let reread = Reread { from: 4, discard_unsent: false, store_start: None };
    let first = at(5);
    let ack = first.receive(5, 1).unwrap();
    first.report_out_of_range();
    first.announce_reread(reread);
    ack.acknowledge();
    assert!(first.try_end().is_some() && first.reading_stop() == Some(ReadingStop::OutOfRange));
    let second = at(5);
    second.announce_reread(reread);
    second.report_out_of_range();
    assert!(second.try_end().is_some() && second.reading_stop() == Some(ReadingStop::OutOfRange));
    assert_eq!(at(5).reading_stop(), None);
    let third = at(5);
    third.begin_again();
    assert_eq!(third.reading_stop(), Some(ReadingStop::Other));
    third.report_out_of_range();
    assert!(third.try_end().is_some() && third.reading_stop() == Some(ReadingStop::OutOfRange));
}

#[test]
fn what_late_requests_may_have_harmed_is_reread_once_and_not_before_they_are_over() {
    let metadata = CommitMetadata { naming: Some(EntryNaming::Topic), ..CommitMetadata::default() };
    let mut point = CommitPoint { offset: 10, metadata };
    point.expect_late_requests(500);
    point.expect_late_requests(400);
    let state = state(&Arc::new(Budget::new(9, 100)), point, 0);
    let ack = state.receive(10, 1).unwrap();
    assert!(!state.reread_after_late_requests(499));
    assert_eq!(offset(&state), Some(10));
    ack.acknowledge();
    assert_eq!(
        state.commit_point().unwrap().metadata.to_string(),
        "late=10@500 naming=topic",
        "and goes on committing"
    );
    assert_eq!(offset(&state), Some(11));
    assert!(state.reread_after_late_requests(500) && !state.reread_after_late_requests(501));
    assert!(!state.may_read());
    let ended = state.try_end().unwrap();
    assert_eq!(
        (ended.offset, ended.metadata.to_string().as_str()),
        (0, "reread=11 compare=11 naming=topic"),
        "and what is in one block with it"
    );
}

/// After a re-read this process has read what earlier owners wrote, and wrote some of it again. A look at what it remembers decides after a
/// crash, but not here.
#[test]
fn what_late_requests_may_harm_is_read_again_though_this_process_remembers_it() {
    let metadata = CommitMetadata::read("durable=1000 risk=700@999999999999999 late=1000@500");
    let began = |risks: CrashRisks| {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let naming = Naming::default_for(1, false);
        let dead_letters = naming.derived.clone();
        let point = CommitPoint { offset: 1000, metadata: CommitMetadata { risks, ..metadata.clone() } };
        let block_margin = BlockMargin::of_blocks(BLOCKS / 2);
        let begin = Begin { point, owned_from: Some(300), block_margin, ..Begin::default() };
        PartitionState::new(source, naming, &dead_letters, Arc::new(Budget::new(9, 100)), begin).unwrap()
    };
    let state = began(metadata.risks.clone());
    assert!(state.reread_after_late_requests(500));
    assert_eq!(state.try_end().unwrap().offset, 700, "earlier owners wrote it");
    let state = began(CrashRisks::default());
    state.looked(started(1), 1000, Some(600), 0);
    assert!(state.reread_after_late_requests(500));
    assert_eq!(state.try_end().unwrap().offset, 600, "this process wrote it again");
}

/// The topic had 10,000 records when this value began: an earlier owner may have written up to there.
#[test]
fn a_reread_is_complete_where_reading_stood_however_much_may_have_been_written() {
    let begin = |point, written_before| {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let naming = Naming::default_for(1, false);
        let dead_letters = naming.derived.clone();
        let begin =
            Begin { point, written_before, block_margin: BlockMargin::of_blocks(BLOCKS / 2), ..Begin::default() };
        let budget = Arc::new(Budget::new(9, 100));
        Arc::new(PartitionState::new(source, naming, &dead_letters, budget, begin).unwrap())
    };
    let state = begin(CommitPoint { offset: 1000, ..CommitPoint::default() }, 10_000);
    for offset in 1000..1005 {
        state.receive(offset, 1).unwrap().acknowledge();
    }
    state.require_reread_after_removal();
    state.announce_reread(Reread { from: 900, discard_unsent: true, store_start: None });
    let point = state.try_end().unwrap();
    assert_eq!((point.offset, point.metadata.to_string().as_str()), (900, "reread=1005 compare=10000"));
    let again = begin(point, 10_000);
    for offset in 900..1005 {
        assert!(again.compare_contents());
        again.receive(offset, 1).unwrap().acknowledge();
    }
    assert_eq!(again.commit_point().unwrap().metadata.to_string(), "compare=10000", "complete, and comparing goes on");
    again.require_reread_after_removal();
    assert_eq!(again.phase(), Phase::RereadRequired, "it waits for nothing");
    again.announce_reread(Reread { from: 905, discard_unsent: true, store_start: None });
    let point = again.try_end().unwrap();
    assert_eq!((point.offset, point.metadata.to_string().as_str()), (800, "reread=1005 compare=10000"));
}

#[test]
fn a_record_that_holds_up_a_reread_can_be_given_up() {
    let state = at(7);
    let ack = state.receive(7, 1).unwrap();
    assert_eq!(state.awaits_reread_for(), None);
    state.announce_reread(Reread { from: 5, discard_unsent: false, store_start: None });
    assert!(state.awaits_reread_for().is_some() && state.may_write() && state.try_end().is_none());
    state.discard_unsent();
    assert!(!state.may_write() && state.awaits_reread_for().is_none());
    drop(ack);
    assert!(!state.is_record_lost());
    assert_eq!(state.try_end().unwrap().offset, 5, "it is read again");
}

/// A letter that is sent again beside live records of its partition.
fn letter(live: &Arc<PartitionState>) -> Arc<PartitionState> {
    Arc::new(live.for_letter_beside_live(&Arc::new(Budget::new(9, 100))))
}

#[test]
fn a_letter_is_written_only_while_its_partition_is_this_hosts() {
    let live = at(1000);
    let sent = letter(&live);
    assert!(
        sent.may_write()
            && sent.is_of_letter_beside_live()
            && live.has_passed(999, None)
            && !live.has_passed(1000, None)
    );
    assert!(live.has_passed(5000, TopicId::from_halves(1, 2)), "the topic that had the name before is gone");
    let ack = sent.receive(7, 1).unwrap();
    live.revoke();
    assert!(live.may_write() && !sent.may_write(), "only what is in flight of the partition is still written");
    drop(ack);
    assert!(!live.is_record_lost() && live.in_flight() == 0);

    let rereading = state(&Arc::new(Budget::new(9, 100)), CommitPoint { offset: 900, ..CommitPoint::default() }, 902);
    assert!(!letter(&rereading).may_write(), "records of it may be written by both");
    (900..902).for_each(|offset| rereading.receive(offset, 1).unwrap().acknowledge());
    assert!(letter(&rereading).may_write());
    let mut point = CommitPoint { offset: 10, ..CommitPoint::default() };
    point.expect_late_requests(500);
    assert!(!letter(&state(&Arc::new(Budget::new(9, 100)), point, 0)).may_write(), "an earlier host may still write");
}

#[test]
fn a_request_with_a_letter_holds_up_a_revocation_and_a_reread() {
    let live = at(1000);
    let sent = letter(&live);
    let request = sent.request();
    live.announce_reread(Reread { from: 900, discard_unsent: false, store_start: None });
    assert!(!sent.may_write() && live.try_end().is_none());
    live.revoke();
    assert!(!live.wait_answered(Duration::from_millis(1)));
    drop(request);
    assert!(live.wait_answered(Duration::ZERO) && sent.wait_answered(Duration::ZERO));
}
