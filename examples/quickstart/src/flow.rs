//! The flow of records: shows its progress, waits until enough records have arrived, and ends it.
//!
//! Guarantees: a record counts as arrived only if it was read from ReductStore; if a process ends or no more records
//! arrive, the error says so.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, pin_mut};
use reduct_sink_testbed::process::tail;
use reduct_sink_testbed::{Kafka, Sink, Store, Stored, read_back};
use tokio::runtime::Runtime;

use crate::BUCKET;
use crate::check::Version;
use crate::feed::{Blob, Feed};
use crate::screen::Screen;

/// How long each stage may take. It takes seconds; the bound is for very slow machines.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub struct Flow {
    pub screen: Screen,
    pub runtime: Runtime,
    pub kafka: Kafka,
    pub store: Store,
    pub sink: Sink,
    pub feed: Feed,
}

impl Flow {
    /// Waits until `wanted` records have arrived under the version at this position.
    pub fn until_arrived(&mut self, versions: &[Version], at: usize, wanted: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            for process in [self.kafka.process(), self.store.process(), self.sink.process()] {
                process.expect_running()?;
            }
            let counts = self.runtime.block_on(arrived(&self.store, versions))?;
            let told = format!("  {} produced; arrived under {}", self.feed.sent(), told(versions, &counts));
            if counts.get(at).is_some_and(|count| *count >= wanted) {
                self.screen.say(&told);
                return Ok(());
            }
            self.screen.progress(&told);
            let log = self.sink.process().log().to_owned();
            let seconds = start.elapsed().as_secs();
            ensure!(
                start.elapsed() < PATIENCE && !self.feed.broke(),
                "{wanted} records were awaited, and after {seconds} s there are:\n{told}\nreduct-sink says:\n{}",
                tail(&log, 20)
            );
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends producing, waits until all offsets are committed, stops the sink, and reads the records back from
    /// ReductStore.
    pub fn finish(mut self, group: &str) -> Result<(Vec<Blob>, Vec<Stored>, Screen)> {
        let blobs = self.feed.stop().context("producing failed")?;
        self.screen.say(&format!("produced {} records; waiting until their offsets are committed", blobs.len()));
        self.sink.wait_caught_up(&self.kafka.client(), group, &[crate::TOPIC], PATIENCE)?;
        self.sink.stop_cleanly()?;
        self.screen.say("reduct-sink was told to stop and ended with 0; reading back from ReductStore");
        let store = &self.store;
        let stored = self.runtime.block_on(async { read_back(&store.client()?, BUCKET, "*").await })?;
        Ok((blobs, stored, self.screen))
    }
}

/// How many records the bucket holds of each version.
async fn arrived(store: &Store, versions: &[Version]) -> Result<Vec<usize>> {
    let client = store.client()?;
    let mut counts = vec![0; versions.len()];
    if !client.bucket_list().await?.buckets.iter().any(|bucket| bucket.name == BUCKET) {
        // The sink creates the bucket, and may not have done so yet.
        return Ok(counts);
    }
    let bucket = client.get_bucket(BUCKET).await?;
    for entry in bucket.entries().await?.into_iter().filter(|entry| entry.record_count > 0) {
        let records = bucket.query(entry.name).head_only(true).send().await?;
        pin_mut!(records);
        while let Some(record) = records.next().await {
            let record = record?;
            let Some(mark) = record.labels().get("sink.plugins") else { continue };
            for (_, count) in versions.iter().zip(&mut counts).filter(|(version, _)| version.has_mark(mark)) {
                *count += 1;
            }
        }
    }
    Ok(counts)
}

fn told(versions: &[Version], counts: &[usize]) -> String {
    let counts = versions.iter().zip(counts).map(|(version, count)| format!("{} {count}", version.what));
    counts.collect::<Vec<_>>().join(", ")
}
