//! Tests what cut-off requests leave in ReductStore (traps 1 and 8), against the real server: first what happens to a
//! writer and a reader there, then the host with the same data.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use reduct_rs::{Bucket, BucketSettings, ErrorCode, RecordBuilder};
use reduct_sink_testbed::{Message, Produced, Sink, SinkConfig, Stored, bed, payload, unique};

use super::{CATCH_UP, find, run_through};

const BASE_MS: i64 = 1_700_000_000_000;
/// How long the server may take to notice that a request was cut off; a bound, not an expectation.
const NOTICED: Duration = Duration::from_secs(30);

/// A topic of one partition with its bucket, whose blocks hold three records.
struct Scene {
    config: SinkConfig,
    topic: String,
    bucket: Bucket,
}

impl Scene {
    async fn new(name: &str) -> Result<Self> {
        let bed = bed()?;
        let topic = unique(name);
        bed.kafka.client().create_topic(&topic, 1)?;
        let config = bed.sink_config(&topic);
        let settings = BucketSettings { max_block_records: Some(3), ..BucketSettings::default() };
        let bucket = bed.store.client()?.create_bucket(config.bucket()).settings(settings).send().await?;
        Ok(Self { config, topic, bucket })
    }

    /// Writes a record with these labels through the store's client.
    async fn write(&self, ms: i64, labels: &[(&str, &str)]) -> Result<(), ErrorCode> {
        let mut record = RecordBuilder::new().timestamp_us(time_us(ms)).data("before");
        for (name, value) in labels {
            record = record.add_label(name.to_string(), value.to_string());
        }
        let failed = self.bucket.write_batch(&self.topic).add_record(record.build()).send().await;
        let failed = failed.map_err(|error| error.status)?;
        failed.into_values().next().map_or(Ok(()), |error| Err(error.status))
    }

    /// Begins to write a record of `size` bytes and disconnects half way.
    async fn cut_off(&self, ms: i64, size: usize) -> Result<()> {
        let half = Bytes::from(vec![b'?'; size / 2]);
        let body = stream::once(async { Ok(half) }).chain(stream::pending());
        let record = RecordBuilder::new().timestamp_us(time_us(ms)).content_length(size).stream(Box::pin(body));
        let request = self.bucket.write_batch(&self.topic).add_record(record.build()).send();
        ensure!(tokio::time::timeout(Duration::from_secs(1), request).await.is_err(), "it wasn't cut off");
        Ok(())
    }

    /// Reads a single record; the error is the store's.
    async fn read(&self, ms: i64) -> Result<(), ErrorCode> {
        let answer = self.bucket.read_record(&self.topic).timestamp_us(time_us(ms)).send().await;
        answer.map(drop).map_err(|error| error.status)
    }

    /// The timestamps, in milliseconds, of the records that a query over the whole entry returns.
    async fn shown(&self) -> Result<Vec<i64>> {
        let records = self.bucket.query(&self.topic).send().await?;
        futures::pin_mut!(records);
        let mut shown = Vec::new();
        while let Some(record) = records.next().await {
            shown.push(record?.timestamp_us() as i64 / 1000 - BASE_MS);
        }
        Ok(shown)
    }

    /// Makes a full block whose last record, at 30 ms, was never finished, and a record in the next block.
    async fn leave_unfinished_at_the_end_of_a_block(&self) -> Result<()> {
        self.write(10, &[]).await.map_err(refused)?;
        self.write(20, &[]).await.map_err(refused)?;
        self.cut_off(30, 100).await?;
        self.write(40, &[]).await.map_err(refused)?;
        assert_eq!(self.read(30).await, Err(ErrorCode::TooEarly));
        Ok(())
    }

    fn produce(&self, times_ms: &[i64]) -> Result<Vec<Produced>> {
        let message = |ms: &i64| Message::new(payload(*ms as u64, 50)).timestamp_ms(BASE_MS + ms);
        bed()?.kafka.client().produce(&self.topic, times_ms.iter().map(message))
    }

    /// Runs the host, and returns what a query shows then.
    async fn run(&self) -> Result<Vec<Stored>> {
        run_through(bed()?, &self.config, &[&self.topic]).await
    }
}

fn time_us(ms: i64) -> u64 {
    (BASE_MS + ms) as u64 * 1000
}

fn refused(status: ErrorCode) -> anyhow::Error {
    anyhow::anyhow!("refused: {status:?}")
}

/// Trap 1: an unfinished record can't be read, isn't shown by a query, and can't be written again.
#[tokio::test]
async fn what_was_left_unfinished_is_written_again() -> Result<()> {
    is_written_again("unfinished", 100, ErrorCode::TooEarly).await
}

/// A large record that was cut off is broken, not unfinished: only one of the same size may take its place.
#[tokio::test]
async fn what_was_left_broken_is_written_again() -> Result<()> {
    is_written_again("broken", 2 << 20, ErrorCode::InternalServerError).await
}

/// Cuts off a record of `size` bytes, expects the error `left` when it is read, and expects the host to write it again.
async fn is_written_again(name: &str, size: usize, left: ErrorCode) -> Result<()> {
    let scene = Scene::new(name).await?;
    scene.write(10, &[]).await.map_err(refused)?;
    scene.cut_off(20, size).await?;
    let is_left = async {
        while scene.read(20).await != Err(left) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(NOTICED, is_left).await.context("the server leaves something else now")?;
    assert_eq!(scene.write(20, &[]).await, Err(ErrorCode::Conflict), "it can be written again now");

    let produced = scene.produce(&[20])?;
    let stored = scene.run().await?;
    assert_eq!(find(&stored, &produced[0]).timestamp_us, time_us(20));
    Ok(())
}

/// Trap 8: if a late record has begun a new block, its timestamp can be written again although an earlier block has an
/// unfinished record there; but a query shows neither of the two.
#[tokio::test]
async fn no_unfinished_record_hides_what_was_acknowledged() -> Result<()> {
    let scene = Scene::new("hidden").await?;
    scene.leave_unfinished_at_the_end_of_a_block().await?;
    scene.write(15, &[]).await.map_err(refused)?;
    assert_eq!(scene.write(30, &[]).await, Ok(()), "the server refuses it now");
    assert_eq!(scene.read(30).await, Ok(()));
    assert_eq!(scene.shown().await?, [10, 15, 20, 40], "the server shows it now");

    let scene = Scene::new("hidden").await?;
    scene.leave_unfinished_at_the_end_of_a_block().await?;
    let produced = scene.produce(&[30, 15])?;
    let stored = scene.run().await?;
    assert_eq!(stored.len(), 5);
    assert_eq!(find(&stored, &produced[0]).timestamp_us, time_us(30));
    assert_eq!(find(&stored, &produced[1]).timestamp_us, time_us(15));
    Ok(())
}

/// Trap 8, if a host was killed before it could read back: its record isn't shown, and can't be written again.
#[tokio::test]
async fn what_is_hidden_already_is_written_again() -> Result<()> {
    let scene = Scene::new("hidden-before").await?;
    scene.leave_unfinished_at_the_end_of_a_block().await?;
    let produced = scene.produce(&[30])?;
    let source = format!("{}/{}", scene.topic, produced[0].partition);
    scene.write(15, &[]).await.map_err(refused)?;
    scene.write(30, &[("kafka.source", &source), ("kafka.offset", "0")]).await.map_err(refused)?;
    assert_eq!(scene.shown().await?, [10, 15, 20, 40]);
    let stored = scene.run().await?;
    assert_eq!(stored.len(), 5);
    assert_eq!(find(&stored, &produced[0]).timestamp_us, time_us(30));
    Ok(())
}

/// Trap 8, if the hidden record's microsecond is wanted by another record before it comes again: it is there once afterwards, also
/// if whatever hides it is removed one day.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_and_comes_again_later_is_there_once() -> Result<()> {
    for at_once in [true, false] {
        let scene = Scene::new("hidden-later").await?;
        scene.leave_unfinished_at_the_end_of_a_block().await?;
        scene.write(15, &[]).await.map_err(refused)?;
        scene
            .write(30, &[("kafka.source", &format!("{}/0", scene.topic)), ("kafka.offset", "1")])
            .await
            .map_err(refused)?;
        assert_eq!(scene.shown().await?, [10, 15, 20, 40]);
        let mut sink = Sink::start(&scene.config)?;
        let mut produced = Vec::new();
        for times in if at_once { vec![vec![30, 30]] } else { vec![vec![30], vec![30]] } {
            produced.extend(scene.produce(&times)?);
            sink.wait_caught_up(&bed()?.kafka.client(), scene.config.group(), &[&scene.topic], CATCH_UP)?;
        }
        sink.stop_cleanly()?;
        // Whatever can be read at one of these microseconds is removed until nothing is left: what is hidden shows then.
        let mut copies = Vec::new();
        for time in (0..8).map(|n| time_us(30) + n) {
            while let Ok(record) = scene.bucket.read_record(&scene.topic).timestamp_us(time).send().await {
                copies.extend(record.labels().get("kafka.offset").cloned());
                scene.bucket.remove_record(&scene.topic).timestamp_us(time).send().await?;
            }
        }
        copies.sort();
        ensure!(copies == ["0", "1"], "at once {at_once}: copies of the offsets {copies:?}");
    }
    Ok(())
}

/// Trap 8, if the hidden record was written by another client: it stays where it is, and the host's record is written
/// after it.
#[tokio::test]
async fn what_is_hidden_and_not_ours_stays() -> Result<()> {
    let scene = Scene::new("hidden-foreign").await?;
    scene.leave_unfinished_at_the_end_of_a_block().await?;
    scene.write(15, &[]).await.map_err(refused)?;
    scene.write(30, &[]).await.map_err(refused)?;
    let produced = scene.produce(&[30])?;
    let stored = scene.run().await?;
    assert_eq!(find(&stored, &produced[0]).timestamp_us, time_us(30) + 1);
    let hidden = scene.bucket.read_record(&scene.topic).timestamp_us(time_us(30)).send().await?;
    assert_eq!(hidden.bytes().await.context("its bytes")?, "before");
    Ok(())
}
