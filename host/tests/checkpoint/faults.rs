//! What goes wrong in a schedule: the store, the process and the group fail, and late requests arrive.

use reduct_sink::record::TopicId;

use super::{Rule, World};

impl World {
    /// The writer has to remove an unfinished record, and a request that was cut off damages another one.
    pub(super) fn removal(&mut self) -> &'static str {
        let Some(host) = &self.host else { return "" };
        host.state.require_reread_after_removal();
        // The next poll commits what was acknowledged.
        self.commit();
        self.harm(false);
        "removal"
    }

    /// A new version of a plugin sends what comes from now on to another entry.
    pub(super) fn reroute(&mut self) -> &'static str {
        self.routes.other_from = self.routes.other_from.min(self.topic.high);
        "reroute"
    }

    pub(super) fn failure(&mut self) -> &'static str {
        if let Some(host) = &self.host {
            host.gate.report_failure();
        }
        "failure"
    }

    pub(super) fn crash_of_the_store(&mut self) -> &'static str {
        self.store_start += 1;
        self.harm(true);
        self.open.clear();
        // A writer notices the restart if it has anything to write.
        if let Some(host) = &self.host
            && !host.queue.is_empty()
        {
            host.gate.report_failure();
        }
        "crash of the store"
    }

    pub(super) fn kill(&mut self) -> &'static str {
        if let Some(host) = self.host.take()
            && self.rng.bool()
        {
            let id = host.state.topic_id();
            let id = (1..=self.topic.id).find(|n| TopicId::from_halves(0, *n) == id).unwrap_or_default();
            let sent = host.queue.iter().take(self.rng.usize(..4));
            self.late = sent
                .map(|(offset, content, _)| ((self.routes.entry(&host.state, *offset), id, *offset), *content))
                .collect();
            self.late_until = self.now + self.rng.u64(2..20);
            // The next host has the same name in the group, and takes over the partition.
            self.start();
        }
        "kill"
    }

    /// A request of a killed host arrives while its successor writes, which may damage what the successor has just
    /// written.
    pub(super) fn late_request(&mut self) -> &'static str {
        for (key, content) in std::mem::take(&mut self.late) {
            // The store answers 409 for a record that it has.
            if self.store.get(&key).is_none_or(Vec::is_empty) {
                self.keep(key, content);
            }
        }
        if self.now < self.late_until {
            self.harm(true);
        }
        "late request"
    }

    /// The group takes the partition back and gives it to the same host.
    pub(super) fn reassign(&mut self) -> &'static str {
        let Some(host) = self.host.take() else { return "" };
        let old_reader = host.reader;
        host.state.revoke();
        self.host = Some(host);
        for _ in 0..self.rng.u8(..4) {
            self.write();
        }
        if self.rng.bool() {
            self.commit();
        }
        let Some(mut host) = self.host.take() else { return "" };
        host.state.end();
        host.queue.clear();
        let known = self.committed.clone();
        host.state = self.begin(&host.recovery, &host.gate, known, false, false, None);
        self.commit_first(&host.state);
        host.reader = host.state.next_offset();
        if self.follows(Rule::OldReaderPolls) && host.reader == old_reader {
            // The reader belongs to a state that has ended and accepts no records.
            host.reader = self.topic.records.range(host.reader..).next().map_or(host.reader, |(offset, _)| offset + 1);
        }
        host.received = false;
        self.host = Some(host);
        "reassign"
    }

    /// The group gives the partition to another host, and gives it back later.
    pub(super) fn lose(&mut self) -> &'static str {
        let Some(host) = self.host.take() else { return "" };
        host.state.end();
        drop(host);
        self.start();
        "lose"
    }
}
