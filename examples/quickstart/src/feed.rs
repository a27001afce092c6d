//! The cameras: a thread that produces random blobs with headers at a steady pace until it is told to stop.
//!
//! Guarantees: what [`Feed::stop`] returns is everything that was produced, each record acknowledged by the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use reduct_sink_testbed::client::ProducerStream;
use reduct_sink_testbed::{KafkaClient, Message, Produced};

const CAMERAS: [&str; 3] = ["left", "right", "rear"];
/// The time between two records: 200 records a second.
const PAUSE: Duration = Duration::from_millis(5);
const SIZES: std::ops::RangeInclusive<usize> = 1_000..=60_000;

/// A produced record: where it is in Kafka, and its headers.
pub struct Blob {
    pub produced: Produced,
    pub headers: Headers,
}

pub type Headers = Vec<(&'static str, String)>;

pub struct Feed {
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Blob>>>,
}

impl Feed {
    pub fn start(kafka: &KafkaClient, topic: &str, partitions: i32) -> Result<Self> {
        let stream = kafka.producer(topic)?;
        let (sent, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (sent.clone(), stop.clone());
        let thread = thread::Builder::new().name("cameras".into());
        let thread = thread.spawn(move || produce(stream, partitions, &count, &stopped))?;
        Ok(Self { sent, stop, thread })
    }

    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether producing has ended by itself, which is an error that `stop` returns.
    pub fn broke(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn stop(self) -> Result<Vec<Blob>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the producing thread panicked"))?
    }
}

fn produce(mut stream: ProducerStream, partitions: i32, sent: &AtomicUsize, stop: &AtomicBool) -> Result<Vec<Blob>> {
    let mut all = Vec::new();
    for (camera, partition) in CAMERAS.into_iter().cycle().zip((0..partitions).cycle()) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut payload = vec![0; fastrand::usize(SIZES)];
        fastrand::fill(&mut payload);
        let headers = vec![
            ("size", payload.len().to_string()),
            ("type", "binary".to_owned()),
            ("camera", camera.to_owned()),
            ("shutter-us", fastrand::u32(100..20_000).to_string()),
        ];
        let message = Message::new(payload).key(camera).partition(partition);
        let message = headers.iter().fold(message, |message, (key, value)| message.header(*key, value.clone()));
        stream.send(&message)?;
        all.push(headers);
        sent.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    let produced = stream.finish()?.into_iter();
    Ok(produced.zip(all).map(|(produced, headers)| Blob { produced, headers }).collect())
}
