//! Tests that what interrupted requests left unfinished takes no dead letter and no replayed record with it (trap 15).

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::stream;
use reduct_rs::{Bucket, ErrorCode, RecordBuilder};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Message, Stored, payload};

use super::{Trial, is_dead};

const BASE_MS: u64 = 1_700_000_000_000;
const COUNT: u64 = 30;
/// The bodies of plugins that reject records with up to two headers, with one or two, with two, and none.
const REJECTS: [&str; 4] = [
    r#"(call $reject $"not yet")"#,
    r#"(if (local.get $header-count) (then (return (call $reject $"not yet")))) (call $keep)"#,
    r#"(if (i32.eq (local.get $header-count) (i32.const 2)) (then (return (call $reject $"not yet")))) (call $keep)"#,
    "(call $keep)",
];

/// Record `n` of the topic: `n % 3` headers, one record in each millisecond.
fn message(n: u64) -> Message {
    let message = Message::new(payload(n, 700)).timestamp_ms((BASE_MS + n) as i64);
    (0..n % 3).fold(message, |message, header| message.header(format!("h{header}"), "x"))
}

fn time_us(n: u64) -> u64 {
    (BASE_MS + n) * 1_000
}

/// Begins to write records at these times, of which none is finished, and disconnects.
async fn cut_off(bucket: &Bucket, entry: &str, times: &[u64]) -> Result<()> {
    let begin = |time: &u64| {
        let body = Box::pin(stream::pending::<Result<Bytes, reduct_rs::ReductError>>());
        RecordBuilder::new().timestamp_us(*time).content_length(600).stream(body)
    };
    let batch = times.iter().fold(bucket.write_batch(entry), |batch, time| batch.add_record(begin(time).build()));
    ensure!(tokio::time::timeout(std::time::Duration::from_secs(1), batch.send()).await.is_err(), "it wasn't cut off");
    for time in times {
        let left = bucket.read_record(entry).timestamp_us(*time).send().await;
        ensure!(left.is_err_and(|error| error.status == ErrorCode::TooEarly), "{time} isn't unfinished");
    }
    Ok(())
}

/// Removes a record, which makes the server shorten the file of its block.
async fn shorten(bucket: &Bucket, entry: &str, time: u64) -> Result<()> {
    let foreign = RecordBuilder::new().timestamp_us(time).data("somebody else's").build();
    let failed = bucket.write_batch(entry).add_record(foreign).send().await?;
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(bucket.remove_record(entry).timestamp_us(time).send().await?)
}

fn letters(stored: &[Stored]) -> usize {
    stored.iter().filter(|record| is_dead(record)).count()
}

/// All records are dead letters, and `replayed` of the three kinds are replayed.
async fn scene(name: &str, replayed: usize) -> Result<(Trial, Bucket, Vec<reduct_sink_testbed::Produced>)> {
    let trial = Trial::new(name, 1, REJECTS[0])?;
    let produced = trial.bed.kafka.client().produce(&trial.topic, (0..COUNT).map(message))?;
    trial.run_through()?;
    let bucket = trial.bed.store.client()?.get_bucket(trial.config.bucket()).await?;
    for plugin in REJECTS.get(1..=replayed).unwrap_or_default() {
        trial.mend(plugin)?;
        trial.replay(&["--write"])?;
    }
    let stored = trial.stored().await?;
    ensure!(
        letters(&stored) == 30 - 10 * replayed && stored.len() == 30,
        "{} letters of {}",
        letters(&stored),
        stored.len()
    );
    Ok((trial, bucket, produced))
}

/// A removal reads the block's other records, and where one of them lies behind the end of the file the server gives up the block.
#[tokio::test]
async fn a_removal_of_letters_leaves_the_others_of_their_block() -> Result<()> {
    let (trial, bucket, produced) = scene("beside-letters", 1).await?;
    let entry = trial.stored().await?.into_iter().find(is_dead).map(|letter| letter.entry).unwrap_or_default();
    let later = time_us(COUNT + 1_000);
    cut_off(&bucket, &entry, &[later, later + 1, later + 2]).await?;
    trial.mend(REJECTS[2])?;
    let (code, told) = trial.replay(&["--write"])?;
    ensure!(code == Some(1) && told.contains("10 still failing"), "{code:?} {told}");
    assert_eq!(letters(&trial.stored().await?), 10);
    trial.mend(REJECTS[3])?;
    let (code, told) = trial.replay(&["--write"])?;
    ensure!(code == Some(0), "{code:?} {told}");
    compare(&produced, &trial.stored().await?)?.exact()
}

/// A replay that finds unfinished records at the times of its own waits until nothing can finish them any more, and passes over them.
#[tokio::test]
async fn a_replay_leaves_the_records_of_those_before_it() -> Result<()> {
    let (trial, bucket, produced) = scene("beside-records", 1).await?;
    shorten(&bucket, &trial.topic, time_us(COUNT + 1_000)).await?;
    // All that it writes meets unfinished records, and nothing is written behind those.
    let unfinished: Vec<u64> = (0..COUNT).filter(|n| n % 3 == 1).chain([COUNT + 2_000]).map(time_us).collect();
    cut_off(&bucket, &trial.topic, &unfinished).await?;
    trial.mend(REJECTS[2])?;
    trial.replay(&["--write"])?;
    trial.mend(REJECTS[3])?;
    let (mut code, mut told) = trial.replay(&["--write"])?;
    if code == Some(1) {
        (code, told) = trial.replay(&["--write"])?;
    }
    let after = trial.stored().await?;
    compare(&produced, &after)?.exact()?;
    ensure!(code == Some(0), "{code:?} {told}");
    assert_eq!(letters(&after), 0);
    Ok(())
}
