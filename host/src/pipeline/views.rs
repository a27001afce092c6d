//! What others look at in the host, and the little they may ask of it: the supervisor, the watch over the store's restarts,
//! and the status over HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use super::host::Host;
use super::lock;
use crate::chain::PluginVersion;
use crate::flow::PartitionState;
use crate::health::progress::{Look, Supervised};
use crate::health::status_http::{self, Action, Report, Reporter};
use crate::health::watchdog::Standing;
use crate::record::TopicPartition;
use crate::recovery::Partitions;

impl Supervised for Host {
    fn standings(&self) -> Vec<(TopicPartition, u64, usize)> {
        let standing = |state: &Arc<PartitionState>| (state.source.clone(), state.position(), state.in_flight());
        self.states().iter().map(standing).collect()
    }

    fn probe(&self, source: &TopicPartition, end: u64) {
        lock(&self.probes).push((source.clone(), end));
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Partitions for Host {
    fn states(&self) -> Vec<Arc<PartitionState>> {
        self.assignments().values().map(|owned| Arc::clone(&owned.state)).collect()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Reporter for Host {
    fn report(&self) -> Report {
        let counters = self.sink.counters();
        let (in_flight_records, in_flight_bytes) = self.budget.used();
        let look = lock(&self.look);
        let mut problems = look.problems();
        problems.extend(self.failure());
        if self.membership.look_for_pause() {
            problems.push("the group hasn't confirmed the membership after a pause of this process".into());
        }
        Report {
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.started.elapsed().as_secs(),
            problems,
            written: counters.written,
            written_bytes: counters.written_bytes,
            found: counters.found,
            repaired: counters.repaired,
            dead_letters: counters.dead_letters,
            in_flight_records,
            in_flight_bytes,
            partitions: look.standings.iter().map(|standing| partition(standing, &look)).collect(),
            plugins: self.chain.versions().into_iter().map(plugin).collect(),
            swaps: self.control.swaps.last(),
        }
    }

    fn act(&self, plugin: &str, action: Action) -> Result<String, String> {
        match action {
            Action::Promote => self.control.promote(plugin),
            Action::Rollback => self.control.rollback(plugin),
        }
    }
}

fn partition(standing: &Standing, look: &Look) -> status_http::Partition {
    status_http::Partition {
        topic: standing.source.topic.to_string(),
        partition: standing.source.partition,
        position: standing.position,
        end: standing.end,
        lag: standing.lag(),
        in_flight: standing.in_flight,
        stuck: look.stuck.iter().any(|stuck| stuck.standing.source == standing.source),
    }
}

fn plugin(version: PluginVersion) -> status_http::Plugin {
    status_http::Plugin {
        name: version.name.to_string(),
        digest: version.digest.to_string(),
        since_s: version.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        breaker_open: version.breaker_open,
        counts: version.counts,
        passed_over: version.passed_over,
        latency: version.latency,
        memory_bytes: version.memory_bytes,
    }
}
