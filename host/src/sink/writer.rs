//! The one writer of an entry: takes what arrives for it, in batches, one request in flight, until each record is
//! settled.
//!
//! Guarantees: a ack is settled only when the store acknowledged its record, when the record was found there, or when
//! its dead letter was; a record that may have been written before (it isn't newer than what the entry held when this
//! host took the partition, or a request for it ended without an answer) is looked up before it is written, and read back
//! after it where a request that was cut off may have left it unfinished; one record that the server refuses harms no
//! other of its batch; records of a partition that was taken away aren't written, nor
//! those of one that is about to be read again, unless the store was away.

mod mending;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::Shared;
use super::item::{Item, MAX_TIMESTAMP_US, Prepared};
use super::recent::{Written, sketch};
use super::store::{Seen, StoreError, Write};
use super::view::{EntryView, Place};
use crate::flow::backoff::Backoff;
use crate::flow::partition_state::UnderWay;
use crate::record::TopicPartition;
use crate::record::entry_name::EntryName;

/// Records whose timestamps are at most this far apart are looked up with one query, in microseconds.
const SCAN_GAP_US: u64 = 2_000_000;
/// How far behind the last wanted timestamp a query reads on, in microseconds.
const SCAN_MARGIN_US: u64 = 1_000;
/// So many records of a partition are read back that were looked up and not found. What a host before this one left
/// unfinished are the first of them, at most one request's (`store.batch_records`, 85); the rest is for partitions that
/// share an entry and come back in another order.
const READ_BACK_LATE: u32 = 1_000;
/// A writer without work for this long retires.
pub const IDLE: Duration = Duration::from_secs(30);
/// While it fails, a writer says so at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

pub struct Writer {
    pub entry: EntryName,
    pub shared: Arc<Shared>,
    pub inbox: mpsc::UnboundedReceiver<Item>,
    pending: VecDeque<Prepared>,
    view: EntryView,
    /// The assignment epoch for which `newest_before` holds.
    epoch: Option<u64>,
    /// The newest record that the entry held when the epoch began; later ones are this writer's own.
    newest_before: Option<u64>,
    /// The newest timestamp that this writer ever sent: a request of an earlier epoch may have been under way when the
    /// present one began.
    newest_sent: Option<u64>,
    /// How many records of each partition were looked up and written since the epoch began.
    written_late: HashMap<TopicPartition, u32>,
    /// What was settled since it was noted last.
    settled: Vec<Written>,
    backoff: Backoff,
    complained: Option<Instant>,
}

impl Writer {
    pub fn new(entry: EntryName, shared: Arc<Shared>, inbox: mpsc::UnboundedReceiver<Item>) -> Self {
        Self {
            entry,
            shared,
            inbox,
            pending: VecDeque::new(),
            view: EntryView::default(),
            epoch: None,
            newest_before: None,
            newest_sent: None,
            written_late: HashMap::new(),
            settled: Vec::new(),
            backoff: Backoff::default(),
            complained: None,
        }
    }

    /// Runs until the sink is closed, or nothing came for a while.
    pub async fn run(mut self) {
        while self.gather().await {
            match self.write_some().await {
                Ok(()) => self.recovered(),
                Err(error) => self.wait_after(&error).await,
            }
        }
    }

    /// Waits for work and takes all that is there. `false`: there is none, and this writer has left the registry.
    async fn gather(&mut self) -> bool {
        while self.pending.is_empty() {
            match tokio::time::timeout(IDLE, self.inbox.recv()).await {
                Ok(Some(item)) => self.accept(item),
                Ok(None) => return false,
                Err(_) if self.shared.retire(&self.entry, &self.inbox) => return false,
                Err(_) => {}
            }
        }
        while let Ok(item) = self.inbox.try_recv() {
            self.accept(item);
        }
        drop_stale(&mut self.view, &mut self.pending);
        true
    }

    fn accept(&mut self, item: Item) {
        match Prepared::new(item, self.shared.mark_plugins) {
            Ok(prepared) => self.pending.push_back(prepared),
            Err(refused) => {
                let (item, reason) = *refused;
                self.shared.dead_letter(item, &reason);
            }
        }
    }

    /// Brings one batch to the store: places it, writes it, looks at each answer.
    async fn write_some(&mut self) -> Result<(), StoreError> {
        self.enter_epoch().await?;
        let mut batch = self.take_batch();
        // From here on whoever takes a partition back waits; what was taken back before is left alone.
        let _under_way = under_way(&batch);
        drop_stale(&mut self.view, &mut batch);
        let answer = match self.place(&mut batch).await {
            Ok(()) => self.send(&mut batch).await,
            Err(error) => Err(error),
        };
        if !self.settled.is_empty() {
            self.shared.remember(&self.entry, &mut self.settled);
        }
        // What isn't settled goes back to the front, in its order.
        for prepared in batch.into_iter().rev() {
            self.pending.push_front(prepared);
        }
        answer
    }

    /// After every assignment somebody else may have written this entry in the meantime.
    async fn enter_epoch(&mut self) -> Result<(), StoreError> {
        let epoch = self.shared.epoch();
        if self.epoch != Some(epoch) {
            let told = self.shared.newest(epoch).await?.get(self.entry.as_str()).copied();
            // What the server tells of an entry lags behind while it is written; a query with bounds doesn't.
            let newer = self.shared.store.scan(&self.entry, told.unwrap_or(0)..MAX_TIMESTAMP_US).await?;
            let held = newer.last().map(|seen| seen.timestamp_us).max(told);
            self.newest_before = held.max(self.newest_sent);
            self.view.forget();
            self.written_late.clear();
            self.epoch = Some(epoch);
        }
        Ok(())
    }

    fn take_batch(&mut self) -> VecDeque<Prepared> {
        let limits = self.shared.limits;
        let (mut bytes, mut header_bytes) = (0, 0);
        let mut batch = VecDeque::new();
        while let Some(next) = self.pending.front() {
            bytes += next.payload.len() as u64;
            header_bytes += next.header_bytes();
            let full = batch.len() >= limits.records || bytes > limits.bytes || header_bytes > limits.header_bytes;
            if full && !batch.is_empty() {
                break;
            }
            batch.extend(self.pending.pop_front());
        }
        batch
    }

    /// Gives every record of the batch its timestamp, and settles those that are in the entry already.
    async fn place(&mut self, batch: &mut VecDeque<Prepared>) -> Result<(), StoreError> {
        self.view.make_room();
        // What was placed before stands, whatever was forgotten since.
        batch.iter().filter_map(|prepared| prepared.time_us).for_each(|time| self.view.take(time));
        for prepared in batch.iter_mut().filter(|prepared| prepared.time_us.is_none()) {
            prepared.look_up |= self.newest_before.is_some_and(|newest| prepared.base_us <= newest);
        }
        let mut wanted: Vec<u64> = batch.iter().filter(|p| p.look_up).map(|p| p.base_us).collect();
        wanted.sort_unstable();
        let mut waiting = std::mem::take(batch);
        while let Some(mut prepared) = waiting.pop_front() {
            // A place that is kept from an earlier attempt stays, unless it has to be looked up again.
            if prepared.time_us.is_some() && !prepared.look_up {
                batch.push_back(prepared);
                continue;
            }
            match self.view.place(&prepared.identity, prepared.base_us, prepared.look_up) {
                Place::Free(time) => {
                    self.view.take(time);
                    prepared.time_us = Some(time);
                    if std::mem::take(&mut prepared.look_up) && !prepared.read_back {
                        let before = self.written_late.entry(prepared.identity.source.clone()).or_default();
                        *before = before.saturating_add(1);
                        prepared.read_back = *before <= READ_BACK_LATE;
                    }
                    batch.push_back(prepared);
                }
                Place::Written(time) if self.view.is_damaged(time, &prepared.payload) => {
                    warn!(entry = %self.entry, record = %prepared.identity, "damaged in the store: writing it again");
                    waiting.push_front(prepared);
                    if let Err(error) = self.shared.store.remove(&self.entry, &[time]).await {
                        batch.append(&mut waiting);
                        return Err(error);
                    }
                    self.shared.removals.fetch_add(1, Ordering::SeqCst);
                    self.shared.counters.repaired(1);
                    self.view.doubt(time);
                }
                Place::Written(time) => {
                    self.shared.counters.found(1);
                    self.acknowledge_at(prepared, time, true);
                }
                Place::Unknown(from) => {
                    waiting.push_front(prepared);
                    if let Err(error) = self.scan(from, &wanted).await {
                        batch.append(&mut waiting);
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what the entry holds around `from`, as far as this batch's other look-ups reach.
    async fn scan(&mut self, from: u64, wanted: &[u64]) -> Result<(), StoreError> {
        let (mut first, mut last) = (from, from);
        // Backwards too: where time runs against the offsets, each record would otherwise cost a query of its own.
        for base in wanted.iter().rev().copied().filter(|base| *base < from) {
            if first - base > SCAN_GAP_US || self.view.is_scanned(base) {
                break;
            }
            first = base;
        }
        for base in wanted.iter().copied().filter(|base| *base > from) {
            if base - last > SCAN_GAP_US {
                break;
            }
            last = base;
        }
        let range = first..last.saturating_add(SCAN_MARGIN_US);
        let mut seen = self.look(&range).await?;
        let copies: Vec<u64> = seen
            .iter()
            .zip(seen.iter().skip(1))
            .filter(|(one, next)| one.timestamp_us == next.timestamp_us)
            .map(|(one, _)| one.timestamp_us)
            .collect();
        if !copies.is_empty() {
            // Two requests that met where a block ended: the server removes one copy at a time.
            warn!(entry = %self.entry, records = copies.len(), "there twice in the store: removing one of each");
            self.shared.removals.fetch_add(1, Ordering::SeqCst);
            self.shared.store.remove(&self.entry, &copies).await?;
            self.shared.counters.repaired(copies.len() as u64);
            seen = self.look(&range).await?;
        }
        for Seen { timestamp_us, identity, content, .. } in seen {
            match identity {
                Some(identity) => self.view.took(identity, timestamp_us),
                None => self.view.take(timestamp_us),
            }
            self.view.read(timestamp_us, content);
        }
        self.view.scanned(range);
        Ok(())
    }

    async fn look(&self, range: &Range<u64>) -> Result<Vec<Seen>, StoreError> {
        if self.shared.distrusted.load(Ordering::SeqCst) {
            self.shared.store.scan_whole(&self.entry, range.clone()).await
        } else {
            self.shared.store.scan(&self.entry, range.clone()).await
        }
    }

    /// Writes the batch; leaves in it what has to be tried again.
    async fn send(&mut self, batch: &mut VecDeque<Prepared>) -> Result<(), StoreError> {
        self.shared.membership.assured().await;
        drop_stale(&mut self.view, batch);
        if batch.iter().any(|prepared| prepared.time_us.is_none()) || batch.is_empty() {
            return Ok(());
        }
        let by_time: BTreeMap<u64, Write> = batch.iter().filter_map(Prepared::to_write).collect();
        if by_time.len() < batch.len() {
            // Two with one microsecond: the second would be taken for written. It never was seen, and must not pass.
            error!(entry = %self.entry, "records of a batch have the same microsecond; placing them again");
            batch.iter_mut().for_each(|prepared| doubt(&mut self.view, prepared));
            return Ok(());
        }
        self.newest_sent = self.newest_sent.max(by_time.last_key_value().map(|(time, _)| *time));
        match self.shared.request(self.shared.store.write(&self.entry, by_time)).await {
            Ok(failed) => self.take_answers(batch, failed).await,
            Err(StoreError::Invalid(reason)) if batch.len() == 1 => {
                if let Some(prepared) = batch.pop_front() {
                    self.refuse(prepared, &reason);
                }
                Ok(())
            }
            Err(StoreError::Invalid(_)) => self.bisect(batch).await,
            Err(error) => {
                // No answer doesn't mean that nothing was written.
                let view = &mut self.view;
                batch.iter_mut().for_each(|prepared| doubt(view, prepared));
                Err(error)
            }
        }
    }

    /// Looks at what the server said of each record.
    async fn take_answers(
        &mut self,
        batch: &mut VecDeque<Prepared>,
        mut failed: BTreeMap<u64, StoreError>,
    ) -> Result<(), StoreError> {
        let mut first_error = None;
        let mut taken = Vec::new();
        for mut prepared in std::mem::take(batch) {
            match prepared.time_us.and_then(|time| failed.remove(&time)) {
                None if self.shared.verify || prepared.read_back => {
                    prepared.written = true;
                    batch.push_back(prepared);
                }
                None => self.acknowledge(prepared),
                Some(StoreError::Conflict(_)) => {
                    // Taken again, though the look-up in between showed nothing there.
                    taken.extend(prepared.time_us.filter(|time| prepared.conflict_us == Some(*time)));
                    prepared.conflict_us = prepared.time_us;
                    doubt(&mut self.view, &mut prepared);
                    batch.push_back(prepared);
                }
                Some(StoreError::Invalid(reason)) => self.refuse(prepared, &reason),
                Some(error) => {
                    doubt(&mut self.view, &mut prepared);
                    batch.push_back(prepared);
                    first_error = Some(error);
                }
            }
        }
        self.read_back(batch).await?;
        if !taken.is_empty() {
            self.repair(taken, batch).await?;
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The server refuses the whole batch for what may be one record: halve it until that one stands alone.
    async fn bisect(&mut self, batch: &mut VecDeque<Prepared>) -> Result<(), StoreError> {
        let mut second = batch.split_off(batch.len() / 2);
        let first = Box::pin(self.send(batch)).await;
        let answer = match first {
            Ok(()) => Box::pin(self.send(&mut second)).await,
            Err(error) => Err(error),
        };
        batch.append(&mut second);
        answer
    }

    fn acknowledge(&mut self, prepared: Prepared) {
        self.shared.counters.written(1, prepared.payload.len() as u64);
        let time = prepared.time_us.unwrap_or(prepared.base_us);
        self.acknowledge_at(prepared, time, false);
    }

    fn acknowledge_at(&mut self, prepared: Prepared, time_us: u64, found: bool) {
        let Prepared { identity, payload, ack, .. } = prepared;
        self.settled.push(Written { time_us, identity, sketch: sketch(&payload), found });
        ack.acknowledge();
    }

    fn refuse(&self, prepared: Prepared, reason: &str) {
        self.shared.dead_letter(prepared.into_item(), &format!("ReductStore refused it: {reason}"));
    }

    fn recovered(&mut self) {
        self.backoff.reset();
        if self.complained.take().is_some() {
            info!(entry = %self.entry, "writing again");
        }
    }

    async fn wait_after(&mut self, error: &StoreError) {
        self.shared.failures.fetch_add(1, Ordering::SeqCst);
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            let waiting = self.pending.len();
            error!(entry = %self.entry, %error, waiting, "can't write to ReductStore; nothing is lost, trying again");
            self.complained = Some(Instant::now());
        }
        if matches!(error, StoreError::NotFound(_))
            && let Err(error) = self.shared.store.ensure_bucket().await
        {
            warn!(%error, "can't create the bucket");
        }
        tokio::time::sleep(self.backoff.wait()).await;
    }
}

/// One for each assignment that has records in the batch.
fn under_way(batch: &VecDeque<Prepared>) -> Vec<UnderWay> {
    let mut under_way: Vec<UnderWay> = Vec::new();
    for assignment in batch.iter().map(|prepared| prepared.ack.assignment()) {
        if !under_way.iter().any(|request| request.is_of(assignment)) {
            under_way.push(assignment.request());
        }
    }
    under_way
}

/// Nothing is written for what is moot. Its place is free again, and what stood behind it gets a new one: it would be
/// looked for from its own microsecond on, and only as far as the first that is free.
fn drop_stale(view: &mut EntryView, batch: &mut VecDeque<Prepared>) {
    let before = batch.len();
    batch.retain(|prepared| {
        let is_stale = prepared.is_stale();
        if let Some(time) = prepared.time_us.filter(|_| is_stale) {
            view.doubt(time);
        }
        !is_stale
    });
    if batch.len() < before {
        let moved = |prepared: &&mut Prepared| prepared.time_us.is_some_and(|time| time != prepared.base_us);
        batch.iter_mut().filter(moved).for_each(|prepared| doubt(view, prepared));
    }
}

/// The record may or may not be in the entry: look before writing it again.
fn doubt(view: &mut EntryView, prepared: &mut Prepared) {
    if let Some(time) = prepared.time_us.take() {
        view.doubt(time);
    }
    prepared.look_up = true;
    prepared.read_back = true;
    prepared.written = false;
}
