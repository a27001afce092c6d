//! Writes an entry's attachments before its first record, and again where they are gone or have changed.
//!
//! Guarantees: what the entry has is asked for once by a writer and then every few seconds while it writes, and only what
//! differs is written; while ReductStore can't be reached the records wait, as they would anyway; where it refuses the
//! attachments alone, the records are written without them, and the problem is told until they could be.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::Writer;
use crate::sink::attachments::OfEntry;
use crate::sink::problems::RefusedSubject;
use crate::sink::store::StoreError;

/// How often a writer looks whether its entry has its attachments.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a writer goes on without attachments that were refused, before it tries them again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a writer knows of its entry's attachments.
#[derive(Debug, Default)]
pub(super) struct AttachmentState {
    /// What the entry is to have, and the reading of the files that says so.
    wanted: Option<(u64, OfEntry)>,
    /// When to look again; `None`: before the next record.
    next_look: Option<Instant>,
    /// Whether records were written since the last look: the entry may have been removed before they were.
    written_since: bool,
}

impl AttachmentState {
    /// The entry's next record reads them again.
    pub fn forget_files(&mut self) {
        self.wanted = None;
    }

    /// Demands a look before the next record, because the entry may have been removed.
    pub fn look_again(&mut self) {
        self.next_look = None;
    }

    /// How long to wait until the last look at an entry that gets no more records; `None`: nothing was written since the last look, or
    /// the next record looks anyway.
    pub fn due_in(&self) -> Option<Duration> {
        let at = self.next_look.filter(|_| self.written_since)?;
        Some(at.saturating_duration_since(Instant::now()))
    }
}

impl Writer {
    /// Makes sure that the entry has its attachments. An error means that nothing can be written at present.
    pub(super) async fn attach(&mut self) -> Result<(), StoreError> {
        if self.shared.attachments.is_empty() {
            return Ok(());
        }
        let version = self.shared.attachments.version();
        if self.attachments.wanted.as_ref().is_none_or(|(known, _)| *known != version) {
            self.attachments.wanted = Some(self.shared.attachments.of(&self.entry));
            self.attachments.next_look = None;
        }
        let Some((_, wanted)) = self.attachments.wanted.as_ref().filter(|(_, wanted)| !wanted.is_empty()) else {
            return Ok(());
        };
        if self.attachments.next_look.is_some_and(|at| Instant::now() < at) {
            self.attachments.written_since = true;
            return Ok(());
        }
        let look_after = match self.write_missing(wanted).await {
            Ok(()) => {
                self.shared.problems.clear(&self.entry, RefusedSubject::Attachments);
                LOOK_EVERY
            }
            Err(error) if error.concerns_only_the_record() => {
                error!(entry = %self.entry, %error, "the attachments are refused; records are written without them");
                self.shared.problems.report(&self.entry, RefusedSubject::Attachments, &error, Instant::now());
                PATIENCE
            }
            Err(error) => return Err(error),
        };
        self.attachments.next_look = Some(Instant::now() + look_after);
        // The entry may be removed before the records are written.
        self.attachments.written_since = true;
        Ok(())
    }

    /// The last look at an entry that gets no more records.
    pub(super) async fn attach_again(&mut self) {
        let shared = std::sync::Arc::clone(&self.shared);
        let _turn = shared.turn(false, &self.topic()).await;
        // A revocation waits for the look. Where all partitions were taken away already, their next owner looks.
        let mut requests = self.states.values().map(|state| (state.request(), state.may_write()));
        let Some(_under_way) = requests.find(|(_, may_write)| *may_write) else {
            self.attachments.written_since = false;
            return;
        };
        if let Err(error) = self.attach().await {
            warn!(entry = %self.entry, %error, "can't look at the entry's attachments; trying again with the next record");
            self.attachments.look_again();
        }
        self.attachments.written_since = false;
    }

    async fn write_missing(&self, wanted: &OfEntry) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let differs = |held: &OfEntry| -> OfEntry {
            let other = wanted.iter().filter(|(key, value)| held.get(*key) != Some(*value));
            other.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let missing = differs(&store.attachments(&self.entry).await?);
        if missing.is_empty() {
            return Ok(());
        }
        // This process may have been suspended, and the partition have moved to another host.
        self.shared.membership.assured().await;
        let keys = missing.keys().cloned().collect::<Vec<_>>().join(", ");
        store.write_attachments(&self.entry, missing).await?;
        // The client tells nothing of single attachments that were refused.
        let missing = differs(&store.attachments(&self.entry).await?);
        if !missing.is_empty() {
            let keys = missing.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(StoreError::Failed(format!("it took the attachments {keys} and doesn't show them")));
        }
        info!(entry = %self.entry, keys, "attachments written");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;
    use crate::flow::{Begin, PartitionState};
    use crate::record::entry_name::EntryName;
    use crate::sink::Attachments;
    use crate::sink::tests::{partition, sink_at};

    /// A writer that has written and is idle, of a store that can't be reached.
    fn idle_writer(state: &Arc<PartitionState>) -> Writer {
        let folder = std::env::temp_dir().join(format!("reduct-sink-attach-{}-{:p}", std::process::id(), state));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("schema.json");
        std::fs::write(&file, json!({"n": 1}).to_string()).unwrap();
        let entry = crate::record::entry_name::EntryPattern::parse("a").unwrap();
        let rule = crate::config::AttachmentRule { entry, key: "$schema".into(), file };
        let attachments = Arc::new(Attachments::load(&[rule]).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
        let sink = sink_at("http://127.0.0.1:1", attachments, Arc::default());
        let mut writer =
            Writer::new(EntryName::parse("a").unwrap(), Arc::clone(sink.shared()), mpsc::unbounded_channel().1);
        writer.states.insert(state.source.clone(), Arc::clone(state));
        writer.attachments.next_look = Some(Instant::now());
        writer.attachments.written_since = true;
        writer
    }

    #[tokio::test]
    async fn a_last_look_that_fails_is_made_again_with_the_next_record_and_not_before() {
        let state = partition(0, Begin::default());
        let mut writer = idle_writer(&state);
        assert_eq!(writer.attachments.due_in(), Some(Duration::ZERO));
        writer.attach_again().await;
        assert!(writer.attachments.wanted.is_some(), "it was tried");
        assert_eq!(writer.attachments.due_in(), None, "an idle writer doesn't ask a store that is away over and over");
        assert_eq!(writer.attachments.next_look, None, "the next record looks at once");
        assert!(writer.attach().await.is_err());
    }

    /// Another host may have the partition: what it attaches is its own affair.
    #[tokio::test]
    async fn there_is_no_last_look_for_partitions_that_were_taken_away() {
        let state = partition(0, Begin::default());
        let mut writer = idle_writer(&state);
        state.end();
        writer.attach_again().await;
        assert!(writer.attachments.wanted.is_none(), "nothing was asked");
        assert_eq!(writer.attachments.due_in(), None);
    }
}
