//! Records that keep coming while a test does something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::client::{KafkaClient, Message, Produced};

/// A producer on a thread of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<Vec<Produced>>>,
}

impl Load {
    /// Produces what `make` makes of 0, 1, 2 …, about `per_second` records a second, until it is stopped.
    pub fn start(
        kafka: &KafkaClient,
        topic: &str,
        per_second: u32,
        mut make: impl FnMut(u64) -> Message + Send + 'static,
    ) -> Result<Self> {
        // A few records a second come in batches all the same: a request for each costs the brokers most of their time.
        let linger = Duration::from_millis(if per_second < 5_000 { 20 } else { 5 });
        let mut producer = kafka.lingering_producer(topic, linger)?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (stop.clone(), sent.clone());
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let due = begin + Duration::from_secs_f64(number as f64 / f64::from(per_second));
                thread::sleep(due.saturating_duration_since(Instant::now()));
                producer.send(&make(number))?;
                count.store(number + 1, Ordering::Relaxed);
            }
            producer.finish()
        });
        Ok(Self { stop, sent, thread })
    }

    /// How many records were handed over so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, waits until all records are acknowledged, and returns them.
    pub fn finish(self) -> Result<Vec<Produced>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the producer panicked"))?
    }
}

/// Bytes that look random and depend on the seed alone.
pub fn payload(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
