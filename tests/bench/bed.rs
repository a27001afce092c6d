//! The servers that everything is measured on, the topics with what is to be read, and what the store holds.
//!
//! Guarantees: the n-th record of a topic and the n-th of the direct writer have the same bytes and headers.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use rdkafka::admin::AdminOptions;
use reduct_rs::{BucketSettings, ErrorCode, ReductClient};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::{Kafka, KafkaClient, Message, Store, unique};
use tokio::runtime::Runtime;

use crate::cores::Apart;
use crate::held::Watched;

/// Random bytes that the payloads are cut from.
const POOL: usize = 4 << 20;

pub struct Bench {
    pub partitions: i32,
    pub kafka: KafkaClient,
    pub url: String,
    pub servers: [Watched; 2],
    client: ReductClient,
    runtime: Runtime,
    pool: Bytes,
    // Held for as long as they are to run.
    _servers: (Kafka, Store),
}

impl Bench {
    /// Call it before there are other threads, which would stay on all cores.
    pub fn start(partitions: i32, apart: Option<&Apart>) -> Result<Self> {
        apart.map_or(Ok(()), Apart::leave)?;
        let mut store = Store::start()?;
        apart.map_or(Ok(()), |apart| apart.move_store(store.process().pid()))?;
        let mut kafka = Kafka::start_with(&[("log.segment.delete.delay.ms", "500")])?;
        let servers = [
            Watched { name: "store", pid: store.process().pid() },
            Watched { name: "kafka", pid: kafka.process().pid() },
        ];
        let mut pool = vec![0; POOL];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut pool)?;
        Ok(Self {
            partitions,
            kafka: kafka.client(),
            url: store.url(),
            servers,
            client: store.client()?,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            pool: pool.into(),
            _servers: (kafka, store),
        })
    }

    /// The n-th payload of a size.
    pub fn payload(&self, number: u64, size: usize) -> Bytes {
        let at = (number as usize * 7919) % (POOL - size);
        self.pool.slice(at..at + size)
    }

    /// A new topic with `records` records of `size` bytes, spread over its partitions, with the tutorial's headers.
    pub fn preload(&self, size: usize, records: u64) -> Result<String> {
        let topic = unique("bench");
        self.kafka.create_topic(&topic, self.partitions)?;
        let mut stream = self.kafka.producer(&topic)?;
        for number in 0..records {
            let message = Message::new(self.payload(number, size))
                .partition((number % self.partitions as u64) as i32)
                .header("size", size.to_string())
                .header("type", "binary");
            stream.send(&message)?;
        }
        stream.finish().with_context(|| format!("can't fill {topic}"))?;
        Ok(topic)
    }

    pub fn remove_topics(&self, topics: &[&str]) -> Result<()> {
        let admin = self.kafka.admin()?;
        let removed = self.runtime.block_on(admin.delete_topics(topics, &AdminOptions::new()))?;
        removed
            .into_iter()
            .try_for_each(|topic| topic.map(drop))
            .map_err(|(topic, error)| anyhow::anyhow!("topic {topic} can't be removed: {error}"))
    }

    pub fn create_bucket(&self, name: &str, settings: &BucketSettings) -> Result<()> {
        self.runtime.block_on(self.client.create_bucket(name).settings(settings.clone()).send())?;
        Ok(())
    }

    /// How many records the bucket's entries hold; none while there is no bucket.
    pub fn held(&self, bucket: &str) -> Result<u64> {
        self.runtime.block_on(async {
            match self.client.get_bucket(bucket).await {
                Ok(bucket) => Ok(bucket.entries().await?.iter().map(|entry| entry.record_count).sum()),
                Err(error) if error.status == ErrorCode::NotFound => Ok(0),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Waits until queries return `expected` records. The store counts a record before a query returns it.
    pub fn wait_finished(&self, bucket: &str, expected: u64) -> Result<()> {
        wait_for("queries to show what the bucket holds", Duration::from_secs(30), || {
            Ok((self.runtime.block_on(self.sizes(bucket))?.len() as u64 == expected).then_some(()))
        })
    }

    /// Checks by queries that the bucket holds `expected` records of `size` bytes and no others, then removes it.
    pub fn checked(&self, bucket: &str, expected: u64, size: usize) -> Result<()> {
        let sizes = self.runtime.block_on(self.sizes(bucket))?;
        let wrong = sizes.iter().filter(|&&found| found != size).count();
        ensure!(
            sizes.len() as u64 == expected && wrong == 0,
            "{expected} records were to be in the store; queries show {}, {wrong} of them with another size",
            sizes.len()
        );
        self.remove_bucket(bucket)
    }

    /// The size of every finished record.
    async fn sizes(&self, bucket: &str) -> Result<Vec<usize>> {
        let bucket = self.client.get_bucket(bucket).await?;
        let mut sizes = Vec::new();
        // Entries have parents, which hold nothing themselves.
        for entry in bucket.entries().await?.iter().filter(|entry| entry.record_count > 0) {
            let records = bucket.query(&*entry.name).head_only(true).send().await?;
            let mut records = std::pin::pin!(records);
            while let Some(record) = records.next().await {
                sizes.push(record?.content_length());
            }
        }
        Ok(sizes)
    }

    fn remove_bucket(&self, name: &str) -> Result<()> {
        let bucket = self.runtime.block_on(self.client.get_bucket(name))?;
        self.runtime.block_on(bucket.remove())?;
        // The store removes in the background, which is not to fall into the next run.
        wait_for("the bucket to be gone", Duration::from_secs(60), || {
            let left = self.runtime.block_on(self.client.get_bucket(name));
            Ok(left.is_err_and(|error| error.status == ErrorCode::NotFound).then_some(()))
        })
    }

    /// Asks the store something of a bucket.
    pub fn ask<T>(
        &self,
        bucket: &str,
        question: impl AsyncFnOnce(&ReductClient, reduct_rs::Bucket) -> Result<T>,
    ) -> Result<T> {
        self.runtime.block_on(async {
            let handle = self.client.get_bucket(bucket).await?;
            question(&self.client, handle).await
        })
    }
}
