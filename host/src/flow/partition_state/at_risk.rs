//! What a crash of the store may harm of one partition. The block margin covers it where all records go to one entry. Where they go to
//! several, an entry that gets few of them keeps its block open while thousands of others are written.
//!
//! Guarantees: what may be harmed is told to the next owner until the time of its risk is over by a store that runs; what this process wrote
//! counts from the look at the store on that came before it was acknowledged. A plain value.

use crate::flow::crash_risk::{self, CrashRisk, CrashRisks};

/// See the module.
#[derive(Debug)]
pub(super) struct AtRisk {
    /// What earlier owners wrote, or an earlier value of this process. See [`crate::flow::CommitMetadata::risks`].
    inherited: CrashRisks,
    /// What was written before the begin, where the earlier owner noted no risk because it wrote to one entry. It is at risk beyond the block
    /// margin once this owner writes to another one.
    of_one_entry: Option<CrashRisk>,
    /// Whether records were written to another entry than the partition's own, by this owner or an earlier one.
    to_several: bool,
    /// The lowest offset at risk at the last look, of the records that this process remembers; `None`: there was none.
    remembered: Option<u64>,
    /// The position at the last look. What was acknowledged below it was remembered before that look, unless it was forgotten since.
    looked_position: u64,
    /// Until when what is written now is at risk, in milliseconds since the Unix epoch.
    own_until_ms: u64,
}

impl AtRisk {
    /// A partition begins to be read at `offset`, at this moment. `covered_from`: from there on its block margin covers what was written.
    pub fn begin(offset: u64, inherited: CrashRisks, covered_from: u64, now_ms: u64) -> Self {
        let own_until_ms = crash_risk::until(now_ms);
        let (of_one_entry, to_several) = match inherited.is_empty() {
            true => (Some(CrashRisk { from: covered_from, until_ms: own_until_ms }), false),
            false => (None, true),
        };
        Self { inherited, of_one_entry, to_several, remembered: None, looked_position: offset, own_until_ms }
    }

    /// Takes note that a record is written to another entry than the partition's own.
    pub fn note_other_entry(&mut self) {
        self.to_several = true;
    }

    /// Takes note of a look at the store, see [`super::PartitionState::looked`].
    pub fn looked(&mut self, position: u64, remembered: Option<u64>, asked_ms: u64) {
        self.inherited = self.inherited.at(asked_ms, asked_ms);
        self.of_one_entry.take_if(|risk| risk.until_ms <= asked_ms);
        self.own_until_ms = crash_risk::until(asked_ms);
        (self.remembered, self.looked_position) = (remembered, position);
    }

    /// What this process remembers of what it wrote, found or wrote again: the lowest offset that was at risk at the last look.
    pub fn remembered(&self) -> Option<u64> {
        self.remembered
    }

    /// What was written before this value began.
    pub fn before(&self) -> CrashRisks {
        let mut risks = self.inherited.clone();
        if self.to_several {
            self.of_one_entry.into_iter().for_each(|risk| risks.add(risk));
        }
        risks
    }

    /// The same, with what this value wrote, where everything below `position` is acknowledged.
    pub fn all(&self, position: u64) -> CrashRisks {
        let mut risks = self.before();
        let is_any = self.remembered.is_some() || position > self.looked_position;
        if is_any && self.to_several {
            let from = self.remembered.into_iter().fold(self.looked_position, u64::min);
            risks.add(CrashRisk { from, until_ms: self.own_until_ms });
        }
        risks
    }
}
