//! Why a partition is read again, from where, and what that does to its state.
//!
//! Guarantees: from the moment that a re-read is owed, each commit point makes the next owner do it, unless this one has done it; the first
//! offset of an owed re-read only ever moves back.

use std::time::{Duration, Instant};

use super::{Inner, OwedReread, PartitionState, Phase};
use crate::flow::store_start::Started;

/// A re-read that the recovery decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reread {
    /// The first offset to read.
    pub from: u64,
    /// See [`super::Phase::AwaitingReread`].
    pub discard_unsent: bool,
    /// The store's start as it is now.
    pub store_start: Option<Started>,
}

impl PartitionState {
    /// Demands that the partition be re-read, because a record was removed from one of its entries: the store rewrites the
    /// block, which can damage other records of it. From now on each commit point makes the next owner do the re-read. A re-read
    /// that is under way is completed first, because it may have more to remove.
    pub fn require_reread_after_removal(&self) {
        let mut inner = self.lock();
        // The block may reach back further than this value's own begin: an earlier owner may have begun the re-read.
        let from = self.after_crash(&inner);
        self.owe(&mut inner, from, false);
        if !inner.is_rereading() && matches!(inner.phase, Phase::Reading | Phase::Stopped) {
            inner.phase = Phase::RereadRequired;
        }
    }

    /// The first offset of the re-read that is owed: a removal demanded it.
    pub fn required_reread(&self) -> Option<u64> {
        let inner = self.lock();
        inner.owed.filter(|_| inner.phase == Phase::RereadRequired).map(|owed| owed.from)
    }

    /// The first offset to read again if the store has crashed: from there on records may be harmed.
    pub fn reread_from_after_crash(&self) -> u64 {
        let inner = self.lock();
        let owed = inner.owed.map_or(u64::MAX, |owed| owed.from);
        self.after_crash(&inner).min(owed)
    }

    /// Whether a record of this offset may have been written before this value began.
    pub fn may_have_been_written(&self, offset: u64) -> bool {
        offset < self.written_before.max(self.lock().compare_below)
    }

    /// The offset from which on nothing was ever written.
    fn written_end(&self, inner: &Inner) -> u64 {
        inner.checkpoint.next_offset().max(inner.compare_below).max(self.written_before)
    }

    /// Notes that everything from this offset on that was read before has to be read again.
    fn owe(&self, inner: &mut Inner, from: u64, is_decided: bool) {
        let until = inner.checkpoint.next_offset().max(inner.reread_until);
        let compare_below = self.written_end(inner);
        let from = inner.owed.map_or(from, |owed| owed.from.min(from));
        inner.owed = Some(OwedReread { from, until, compare_below, is_decided });
    }

    fn after_crash(&self, inner: &Inner) -> u64 {
        let from = inner.durable.saturating_sub(self.block_margin.offsets()).min(self.at_risk_of_earlier_owners(inner));
        from.min(inner.checkpoint.position())
    }

    /// From here on a crash may harm what earlier owners wrote. What this process wrote it compares without reading it again.
    fn at_risk_of_earlier_owners(&self, inner: &Inner) -> u64 {
        inner.at_risk.before().lowest().filter(|from| *from < self.owned_from).unwrap_or(u64::MAX)
    }

    /// From which offset on this process has read the partition.
    pub fn owned_from(&self) -> u64 {
        self.owned_from
    }

    /// Announces a re-read: [`Self::try_end`] ends this value once nothing is in flight, and a newer one reads again.
    pub fn announce_reread(&self, reread: Reread) {
        let mut inner = self.lock();
        self.owe(&mut inner, reread.from, true);
        inner.durable = inner.durable.min(reread.from.saturating_add(self.block_margin.offsets()));
        inner.store_start = reread.store_start.or(inner.store_start);
        inner.phase = match inner.phase {
            Phase::Reading | Phase::RereadRequired | Phase::Stopped => {
                Phase::AwaitingReread { discard_unsent: reread.discard_unsent }
            }
            Phase::AwaitingReread { discard_unsent } => {
                Phase::AwaitingReread { discard_unsent: discard_unsent && reread.discard_unsent }
            }
            phase @ (Phase::Revoked | Phase::Ended) => phase,
        };
        inner.awaits_since.get_or_insert_with(Instant::now);
    }

    /// For how long a re-read has been waiting for records in flight that are still written; `None`: no re-read waits for such records.
    pub fn awaits_reread_for(&self) -> Option<Duration> {
        let inner = self.lock();
        let since = inner.awaits_since.filter(|_| inner.phase == Phase::AwaitingReread { discard_unsent: false });
        since.map(|since| since.elapsed())
    }

    /// Lets the re-read that is awaited wait no longer for records that weren't sent yet: they are dropped, and read again.
    pub fn discard_unsent(&self) {
        let mut inner = self.lock();
        if let Phase::AwaitingReread { discard_unsent } = &mut inner.phase {
            *discard_unsent = true;
        }
    }

    /// Announces the re-read of what requests of an earlier owner may have harmed, once no more of them can come. `false`:
    /// nothing has to be re-read, or not yet.
    pub fn reread_after_late_requests(&self, now_ms: u64) -> bool {
        let mut inner = self.lock();
        let Some(late) = inner.late.filter(|late| late.until_ms <= now_ms) else { return false };
        if inner.is_rereading() || !matches!(inner.phase, Phase::Reading | Phase::Stopped) {
            // The re-read is announced when what happens now is over, or by the next owner.
            return false;
        }
        // A block that late requests write to also holds records that were written before. What this process remembers isn't compared here.
        let at_risk = inner.at_risk.before().lowest().into_iter().chain(inner.at_risk.remembered());
        let is_decided = inner.owed.is_none_or(|owed| owed.is_decided);
        let from = at_risk.fold(late.from.saturating_sub(self.block_margin.offsets()), u64::min);
        self.owe(&mut inner, from, is_decided);
        inner.late = None;
        inner.phase = Phase::AwaitingReread { discard_unsent: false };
        inner.awaits_since = Some(Instant::now());
        true
    }

    /// Takes note that the worker that reads the partition doesn't come back from a plugin. A newer value and another worker go on from the
    /// partition's position; what the lost worker may still do with this value is stale.
    pub fn abandon(&self) {
        let mut inner = self.lock();
        inner.abandoned = true;
        if matches!(inner.phase, Phase::Reading | Phase::RereadRequired | Phase::Stopped) {
            inner.phase = Phase::AwaitingReread { discard_unsent: false };
            inner.awaits_since = Some(Instant::now());
        }
        self.notify(&inner);
    }
}
