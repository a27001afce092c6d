//! Looks after the partitions while they run: how far behind they are, whether they move, and whether what is left at
//! their ends holds any records.
//!
//! Guarantees: it only looks and reports; the one thing it asks for is that an idle partition with an unread tail is read
//! anew, which can lose nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::error;

use crate::health::watchdog::{Standing, Stuck, Watchdog};
use crate::record::TopicPartition;
use crate::source::Ends;

/// How often the partitions are looked at. Each look asks the brokers once a partition.
const EVERY: Duration = Duration::from_secs(5);
/// A partition that is idle for so long before its end is read anew there.
const PROBE_AFTER: Duration = Duration::from_secs(8);
/// How often a stuck partition is told of.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// What is supervised.
pub trait Supervised: Send + Sync + 'static {
    /// Position and records in flight of each partition that is assigned now.
    fn standings(&self) -> Vec<(TopicPartition, u64, usize)>;
    /// To read a partition's tail anew: see [`crate::source::PartitionReader::probe`].
    fn probe(&self, source: &TopicPartition, end: u64);
    fn ended(&self) -> bool;
}

/// The last look at the partitions.
#[derive(Debug, Default)]
pub struct Look {
    pub standings: Vec<Standing>,
    pub stuck: Vec<Stuck>,
}

/// Looks until the host has ended.
pub fn supervise(host: Arc<dyn Supervised>, ends: Ends, stuck_after: Duration, last: Arc<Mutex<Look>>) {
    let mut watchdog = Watchdog::new(stuck_after);
    let mut reminded: Option<Instant> = None;
    let mut next = Instant::now() + EVERY;
    while !host.ended() {
        std::thread::sleep(Duration::from_millis(200));
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + EVERY;
        let standings: Vec<Standing> = host
            .standings()
            .into_iter()
            // Each question takes a while when the brokers are away, and a host that stops doesn't wait for so long.
            .take_while(|_| !host.ended())
            .map(|(source, position, in_flight)| Standing { end: ends.end(&source), source, position, in_flight })
            .collect();
        let now = Instant::now();
        let stuck = watchdog.look(now, &standings);
        if stuck.is_empty() {
            reminded = None;
        } else if reminded.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
            reminded = Some(now);
            stuck.iter().for_each(tell);
        }
        for standing in standings.iter().filter(|standing| standing.in_flight == 0) {
            if let Some(end) = standing.end.filter(|end| *end > standing.position)
                && watchdog.still_for(now, &standing.source) >= PROBE_AFTER
            {
                host.probe(&standing.source, end);
            }
        }
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Look { standings, stuck };
    }
}

fn tell(stuck: &Stuck) {
    let Standing { source, position, in_flight, .. } = &stuck.standing;
    error!(
        partition = %source, position, in_flight, lag = stuck.standing.lag(), still_for = ?stuck.since.elapsed(),
        "a partition is stuck"
    );
}

impl Look {
    /// What is wrong, in words.
    pub fn problems(&self) -> Vec<String> {
        let told = |stuck: &Stuck| {
            let Standing { source, position, .. } = &stuck.standing;
            format!("{source} is stuck at offset {position} for {} s", stuck.since.elapsed().as_secs())
        };
        self.stuck.iter().map(told).collect()
    }
}
