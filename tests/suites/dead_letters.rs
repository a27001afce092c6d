//! Tests dead letters: they go to an entry or to a topic, are acknowledged before the offset is committed, and are
//! replayed once.

mod from_topic;
mod hanging;
mod interrupted;
mod running;
mod unfinished;

use std::collections::BTreeMap;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use crate::guest;
use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::{self, Process, wait_for};
use reduct_sink_testbed::sink::{binary, run_to_end};
use reduct_sink_testbed::verify::{DIFFER, Expected, compare};
use reduct_sink_testbed::{
    Bed, Kafka, Load, Message, Produced, Sink, SinkConfig, Stored, bed, figures, long, payload, read_back, sized,
    source_of, unique,
};

/// How long a step may take; a bound, not an expectation.
const BOUND: Duration = Duration::from_secs(240);

/// The body of a plugin that rejects records with one header, traps on records with two, and keeps all others.
const POISONED: &str = r#"
    (if (i32.eq (local.get $header-count) (i32.const 1)) (then (return (call $reject $"no such camera"))))
    (if (i32.eq (local.get $header-count) (i32.const 2)) (then unreachable))
    (call $keep)"#;
/// The body of a repaired plugin that still rejects records with one header.
const HALF_MENDED: &str = r#"
    (if (i32.eq (local.get $header-count) (i32.const 1)) (then (return (call $reject $"no such camera"))))
    (call $keep)"#;
const MENDED: &str = r#"(call $label $"mended" $"yes") (call $change)"#;
/// The body of a plugin that splits a record into three parts, of which the second has a timestamp that the store can't
/// hold.
const UNWRITABLE_PART: &str = r#"
    (call $part) (call $payload $"first")
    (call $part) (call $payload $"second") (call $time (i64.const -1))
    (call $part) (call $payload $"third")
    (call $split)"#;
const WRITABLE_PARTS: &str = r#"
    (call $part) (call $payload $"first")
    (call $part) (call $payload $"second")
    (call $part) (call $payload $"third")
    (call $split)"#;

fn is_poison(n: u64) -> bool {
    n % 100 == 7
}

/// Record `n`. The plugin fails on one in a hundred, by a reject and by a trap in turn.
fn message(n: u64) -> Message {
    let message = Message::new(payload(n, 500)).key(format!("key {n}")).timestamp_ms(1_700_000_000_000 + n as i64 / 50);
    match n % 200 {
        7 => message.header(vec![0xff, b'%', b'4', b'1'], vec![0, 0xfe, b'"']),
        107 => message.header("Twice", "1").null_header("Twice"),
        _ => message,
    }
}

struct Trial {
    bed: &'static Bed,
    topic: String,
    plugin: std::path::PathBuf,
    config: SinkConfig,
    _folder: tempfile::TempDir,
}

impl Trial {
    fn new(name: &str, partitions: i32, plugin: &str) -> Result<Self> {
        let bed = bed()?;
        let topic = unique(name);
        // The records' timestamps are so old that retention would delete them.
        bed.kafka.client().create_topic_with(&topic, partitions, &[("retention.ms", "-1")])?;
        let folder = process::data_folder("dead-letters")?;
        let file = folder.path().join("plugin.wasm");
        std::fs::write(&file, guest::guest(plugin))?;
        let config =
            bed.sink_config(&topic).plugin("picky", &file, "lens = 'left'")?.property("session.timeout.ms", "6000");
        Ok(Self { bed, topic, plugin: file, config, _folder: folder })
    }

    fn produce(&self, count: u64) -> Result<Vec<Produced>> {
        self.bed.kafka.client().produce(&self.topic, (0..count).map(message))
    }

    fn run_through(&self) -> Result<()> {
        let mut sink = Sink::start(&self.config)?;
        sink.wait_caught_up(&self.bed.kafka.client(), self.config.group(), &[&self.topic], BOUND)?;
        sink.stop_cleanly()
    }

    fn mend(&self, plugin: &str) -> Result<()> {
        Ok(std::fs::write(&self.plugin, guest::guest(plugin))?)
    }

    async fn stored(&self) -> Result<Vec<Stored>> {
        read_back(&self.bed.store.client()?, self.config.bucket(), "*").await
    }

    fn replay(&self, more: &[&str]) -> Result<(Option<i32>, String)> {
        let file = self.config_file()?;
        let args = [&["replay", "--config", &file][..], more].concat();
        let output = run_to_end(&args, &[], BOUND)?;
        Ok((output.status.code(), text(&output)))
    }

    fn config_file(&self) -> Result<String> {
        let file = self.plugin.with_file_name("sink.toml");
        std::fs::write(&file, self.config.text())?;
        Ok(file.to_str().context("a path that is UTF-8")?.to_owned())
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_dead(record: &Stored) -> bool {
    record.entry.starts_with("dead-letters/")
}

/// Records on which the plugin fails go to the dead letters and all others to their entries, each once. A trial of a
/// replay changes nothing. With the repaired plugin a replay writes each record once and removes its dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn poison_is_kept_replayed_once_and_gone() -> Result<()> {
    let trial = Trial::new("poison", 2, POISONED)?;
    let produced = trial.produce(if long() { 50_000 } else { 3000 })?;
    trial.run_through()?;
    let before = trial.stored().await?;
    compare(&produced, &before)?.exact()?;
    let letters: Vec<&Stored> = before.iter().filter(|record| is_dead(record)).collect();
    let poison: Vec<&Produced> = produced.iter().zip(0..).filter(|(_, n)| is_poison(*n)).map(|(p, _)| p).collect();
    compare(poison.iter().map(|p| Expected::from(*p)), &letters.into_iter().cloned().collect::<Vec<_>>())?.exact()?;
    for letter in before.iter().filter(|record| is_dead(record)) {
        let reason = letter.label("sink.reason").context("a reason")?;
        let is_twice = letter.label("kafka.headers").is_some_and(|headers| headers == "Twice=1&Twice!");
        let expected = if is_twice { "unreachable" } else { "no such camera" };
        assert!(reason.contains(expected), "{reason}");
        // The file's sha256, and eight digits that identify the configuration, as the written records have them.
        let version = letter.label("sink.digest").context("a version")?;
        let (digest, config) = version.split_once(':').context("a configuration")?;
        assert_eq!((letter.label("sink.plugin"), digest.len(), config.len()), (Some("picky"), 64, 8));
        let mark = format!("picky@{}:{config}", &digest[..12]);
        assert!(before.iter().any(|record| record.label("sink.plugins") == Some(&mark)), "no record has {mark}");
        assert!(letter.label("kafka.key").is_some_and(|key| key.starts_with("key ")));
    }
    let count = poison.len();

    // With the unchanged plugin each record fails as before, and nothing changes.
    for more in [&[][..], &["--write"]] {
        let (code, told) = trial.replay(more)?;
        assert_eq!(code, Some(if more.is_empty() { 0 } else { 1 }), "{told}");
        assert!(told.contains(&format!("{count} dead letters: 0 ")) && told.contains("no such camera"), "{told}");
        assert_eq!(trial.stored().await?, before);
    }

    trial.mend(HALF_MENDED)?;
    let (code, told) = trial.replay(&[])?;
    assert!(
        code == Some(0)
            && told.contains(&format!("{} would be written, 0 dropped, {} still fail", count / 2, count / 2)),
        "{told}"
    );
    assert_eq!(trial.stored().await?, before, "a dry run changes nothing");
    let (code, told) = trial.replay(&["--write"])?;
    assert!(
        code == Some(1) && told.contains(&format!("{} written, 0 dropped, {} still failing", count / 2, count / 2)),
        "{told}"
    );
    let half = trial.stored().await?;
    compare(&produced, &half)?.exact()?;
    assert_eq!(half.iter().filter(|record| is_dead(record)).count(), count / 2);

    trial.mend(MENDED)?;
    let pattern = format!("dead-letters/{}/*", trial.topic);
    let (code, told) = trial.replay(&["--dead-letters", &pattern, "--write"])?;
    assert!(code == Some(0) && told.contains(&format!("{} written", count / 2)), "{told}");
    let (code, told) = trial.replay(&["--write"])?;
    assert!(code == Some(0) && told.contains("0 dead letters"), "{told}");
    let after = trial.stored().await?;
    compare(&produced, &after)?.exact()?;
    assert!(!after.iter().any(is_dead));
    // The replayed records are as if they had been written at once.
    for record in after.iter().filter(|record| record.label("mended").is_some()) {
        let offset: u64 = record.label("kafka.offset").context("an offset")?.parse()?;
        let source = record.source().context("a source")?;
        let n = produced.iter().position(|p| format!("{}/{}", p.topic, p.partition) == source && p.offset == offset);
        let sent = message(n.context("a record that was produced")? as u64);
        assert_eq!(record.timestamp_us / 1000, sent.timestamp_ms.unwrap() as u64);
        assert_eq!(record.entry, source, "the default entry of a topic with several partitions");
        assert!(record.label("sink.reason").is_none() && record.label("kafka.timestamp").is_none());
    }
    Ok(())
}

/// A replay that is killed and run again until it finishes writes each output once and loses none.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_writes_nothing_twice() -> Result<()> {
    let trial = Trial::new("interrupted", 2, r#"(call $reject $"not yet")"#)?;
    // Many records share one millisecond, so that their timestamps collide.
    let all_dead = |n: u64| Message::new(payload(n, 700)).timestamp_ms(1_700_000_000_000 + n as i64 / 1500);
    let produced =
        trial.bed.kafka.client().produce(&trial.topic, (0..if long() { 20_000 } else { 4000 }).map(all_dead))?;
    trial.run_through()?;
    assert!(trial.stored().await?.iter().all(is_dead));
    trial.mend(MENDED)?;
    let file = trial.config_file()?;
    let mut kills = 0;
    // Where a request was interrupted the next replay waits for a minute, which the last one does in full.
    for round in 0..sized(4u64, 12, 60) {
        let mut command = std::process::Command::new(binary()?);
        command.args(["replay", "--config", &file, "--write"]);
        let mut replay = Process::spawn("reduct-sink replay", command, &process::new_log("replay")?)?;
        thread::sleep(Duration::from_millis(400 + round * 150));
        if replay.exited()?.is_some_and(|status| status.success()) {
            break;
        }
        replay.kill9()?;
        kills += 1;
    }
    let (code, told) = trial.replay(&["--write"])?;
    assert_eq!(code, Some(0), "{told}");
    let after = trial.stored().await?;
    compare(&produced, &after)?.exact()?;
    assert!(!after.iter().any(is_dead));
    assert!(kills > 1, "no replay was interrupted");
    figures::record("replay_kills", f64::from(kills))
}

/// A replay refuses to write while a host runs, because two writers of one entry can lose records.
#[tokio::test]
async fn a_replay_refuses_to_write_beside_a_running_sink() -> Result<()> {
    refuses_beside_a_running_sink(Trial::new("company", 1, POISONED)?).await
}

/// Brokers list no members of such groups; the group's coordinator tells them.
#[tokio::test]
async fn a_replay_refuses_to_write_beside_a_running_sink_with_the_consumer_protocol() -> Result<()> {
    let mut trial = Trial::new("company-kip-848", 1, POISONED)?;
    trial.config = trial.config.without_property("session.timeout.ms").property("group.protocol", "consumer");
    refuses_beside_a_running_sink(trial).await
}

async fn refuses_beside_a_running_sink(trial: Trial) -> Result<()> {
    trial.produce(300)?;
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_caught_up(&trial.bed.kafka.client(), trial.config.group(), &[&trial.topic], BOUND)?;
    let before = trial.stored().await?;
    let (code, told) = trial.replay(&["--write"])?;
    assert!(code == Some(1) && told.contains("has live members (1)") && told.contains("stop"), "{told}");
    let (code, told) = trial.replay(&[])?;
    assert!(code == Some(0) && told.contains("3 dead letters"), "{told}");
    assert_eq!(trial.stored().await?, before);
    sink.stop_cleanly()?;
    // Nobody is left in the group.
    trial.mend(MENDED)?;
    let (code, told) = trial.replay(&["--write"])?;
    assert!(code == Some(0) && told.contains("3 written"), "{told}");
    Ok(())
}

/// Records that the sink could not write are replayed like those on which a plugin failed. Of a split record only the
/// missing part is written.
#[tokio::test]
async fn a_part_that_could_not_be_written_is_replayed_alone() -> Result<()> {
    let trial = Trial::new("parts", 1, UNWRITABLE_PART)?;
    trial.produce(20)?;
    trial.run_through()?;
    let before = trial.stored().await?;
    assert_eq!((before.len(), before.iter().filter(|record| is_dead(record)).count()), (60, 20));
    let (code, told) = trial.replay(&["--write"])?;
    assert!(code == Some(1) && told.contains("20 still failing") && told.contains("its timestamp"), "{told}");
    assert_eq!(trial.stored().await?, before, "the refusal of a replay loses no dead letter");
    trial.mend("(call $keep)")?;
    let (_, told) = trial.replay(&[])?;
    assert!(told.contains("the chain makes no such part"), "{told}");
    trial.mend(WRITABLE_PARTS)?;
    let (code, told) = trial.replay(&["--write"])?;
    assert!(code == Some(0) && told.contains("20 written"), "{told}");
    let after = trial.stored().await?;
    assert!(after.len() == 60 && !after.iter().any(is_dead));
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for record in &after {
        let of = |name: &str| record.label(name).unwrap_or_default().to_owned();
        *seen.entry((of("kafka.offset"), of("kafka.index"))).or_default() += 1;
    }
    assert!(seen.len() == 60 && seen.values().all(|count| *count == 1), "{seen:?}");
    Ok(())
}

/// A dead letter in a topic has the record's payload, key and headers, followed by headers with its origin, the plugin
/// that failed and the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_gets_the_original_records() -> Result<()> {
    let mut trial = Trial::new("to-topic", 3, POISONED)?;
    let kafka = trial.bed.kafka.client();
    let dead = unique("dead");
    kafka.create_topic(&dead, 2)?;
    trial.config = trial.config.set("dead_letters.topic", dead.as_str());
    let count = 3000;
    let produced = trial.produce(count)?;
    trial.run_through()?;
    let letters = letters(kafka.read_all(&dead)?)?;
    let poison: Vec<(u64, &Produced)> = (0..count).zip(&produced).filter(|(n, _)| is_poison(*n)).collect();
    assert_eq!(letters.len(), poison.len(), "each once");
    for (n, produced) in &poison {
        let sent = message(*n);
        let source = format!("{}/{}", produced.topic, produced.partition);
        let [letter] = &letters[&(source, produced.offset, None)][..] else { panic!("record {n} isn't there once") };
        assert_eq!((&letter.key, &letter.payload), (&sent.key, &sent.payload));
        let (own, ours) = letter.headers.split_at(sent.headers.len());
        assert_eq!(own, sent.headers);
        let ours: BTreeMap<&[u8], &[u8]> =
            ours.iter().map(|(key, value)| (&key[..], value.as_deref().unwrap_or_default())).collect();
        let reason = String::from_utf8_lossy(ours[&b"sink.reason"[..]]);
        assert!(reason.contains(if sent.headers.len() == 1 { "no such camera" } else { "unreachable" }), "{reason}");
        assert_eq!((ours[&b"sink.plugin"[..]], ours[&b"sink.digest"[..]].len()), (&b"picky"[..], 64 + 1 + 8));
        assert_eq!(ours[&b"kafka.timestamp"[..]], sent.timestamp_ms.unwrap().to_string().as_bytes());
    }
    let stored = trial.stored().await?;
    let good = (0..count).zip(&produced).filter(|(n, _)| !is_poison(*n)).map(|(_, produced)| produced);
    compare(good, &stored)?.exact()?;

    // A new group reads all records again: the host finds the dead letters that are already in the topic.
    trial.config = trial.config.clone().set("kafka.group", unique("group"));
    trial.run_through()?;
    assert_eq!(kafka.read_all(&dead)?.len(), poison.len());
    Ok(())
}

/// After kills of the host each dead letter is in the topic exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_leaves_each_letter_in_the_topic_once() -> Result<()> {
    let mut trial = Trial::new("killed", 2, POISONED)?;
    let kafka = trial.bed.kafka.client();
    let dead = unique("dead");
    kafka.create_topic(&dead, 1)?;
    trial.config = trial.config.set("dead_letters.topic", dead.as_str());
    let group = kafka.group(trial.config.group())?;
    // A new group has no coordinator at first.
    let committed = || group.committed(&trial.topic).map_or(0, |all| all.iter().map(|(_, offset)| offset).sum::<u64>());
    let load =
        Load::start(&kafka, &trial.topic, sized(150, 500, 500), |n| if n % 5 == 0 { message(7) } else { message(n) })?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..if long() { 20 } else { 3 } {
        let before = committed();
        wait_for("the sink to move on", BOUND, || {
            sink.process().expect_running()?;
            Ok((committed() > before + 300).then_some(()))
        })?;
        sink.kill9()?;
        sink.start_again()?;
    }
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, trial.config.group(), &[&trial.topic], BOUND)?;
    sink.stop_cleanly()?;
    let poison = |n: usize| n.is_multiple_of(5) || is_poison(n as u64);
    let letters = letters(kafka.read_all(&dead)?)?;
    for (n, record) in produced.iter().enumerate() {
        let source = format!("{}/{}", record.topic, record.partition);
        let copies = letters.get(&(source, record.offset, None)).map_or(0, Vec::len);
        assert_eq!(copies, usize::from(poison(n)), "{DIFFER}: letters of record {n}");
    }
    let good = produced.iter().enumerate().filter(|(n, _)| !poison(*n)).map(|(_, record)| record);
    compare(good, &trial.stored().await?)?.exact()?;
    Ok(())
}

/// While the dead letters' topic is missing, the host doesn't commit past the first dead letter and goes on writing the
/// other records; when the topic is there, the host catches up.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_holds_the_offset_until_it_is_there() -> Result<()> {
    let mut trial = Trial::new("missing", 1, POISONED)?;
    let kafka = trial.bed.kafka.client();
    let dead = unique("dead");
    trial.config = trial.config.set("dead_letters.topic", dead.as_str());
    let file = trial.config_file()?;
    let output = run_to_end(&["check", "--config", &file], &[], BOUND)?;
    assert!(
        output.status.code() == Some(4)
            && text(&output).contains(&format!("dead-letter topic {dead}: there is no such topic")),
        "{}",
        text(&output)
    );

    let produced = trial.produce(300)?;
    let group = kafka.group(trial.config.group())?;
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_log("dead letters can't be written to their topic", BOUND)?;
    wait_for("the offset of the first poison to be committed", BOUND, || {
        Ok((group.committed(&trial.topic)? == [(0, 7)]).then_some(()))
    })?;
    let deadline = Instant::now() + BOUND;
    while trial.stored().await?.len() < 297 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(if long() { 60 } else { 4 })).await;
    sink.process().expect_running()?;
    assert_eq!(group.committed(&trial.topic)?, [(0, 7)], "the first poison's");
    assert_eq!(trial.stored().await?.len(), 297);
    // A stop doesn't wait for the topic, and commits no record whose dead letter isn't written.
    sink.stop_cleanly()?;
    assert_eq!(group.committed(&trial.topic)?, [(0, 7)], "the first poison's");
    sink.start_again()?;

    kafka.create_topic(&dead, 1)?;
    sink.wait_caught_up(&kafka, trial.config.group(), &[&trial.topic], BOUND)?;
    sink.stop_cleanly()?;
    assert_eq!(letters(kafka.read_all(&dead)?)?.len(), 3);
    let good = (0..).zip(&produced).filter(|(n, _)| !is_poison(*n)).map(|(_, produced)| produced);
    compare(good, &trial.stored().await?)?.exact()?;
    let output = run_to_end(&["check", "--config", &file], &[], BOUND)?;
    assert!(output.status.success() && text(&output).contains(&format!("dead-letter topic {dead}: 1 partition")));
    Ok(())
}

/// Kafka is away while dead letters are being written: the host continues by itself, and each dead letter is there
/// once.
#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_away_for_a_while() -> Result<()> {
    let mut kafka = Kafka::start()?;
    let client = kafka.client();
    client.create_topic("source", 2)?;
    client.create_topic("dead", 2)?;
    let bed = bed()?;
    let folder = process::data_folder("dead-letters")?;
    let file = folder.path().join("plugin.wasm");
    std::fs::write(&file, guest::guest(r#"(call $reject $"always")"#))?;
    let config = SinkConfig::new(client.brokers(), &bed.store.url(), &unique("bucket"))
        .topics(&["source"])
        .plugin("picky", &file, "")?
        .set("dead_letters.topic", "dead")
        .set("limits.in_flight_records", 500);
    let produced = client.produce("source", (0..6000).map(|n| Message::new(payload(n, 2000))))?;
    let mut sink = Sink::start(&config)?;
    wait_for("the first letters", BOUND, || {
        sink.process().expect_running()?;
        let ends = client.end_offsets("dead")?;
        Ok((ends.iter().map(|(_, end)| end).sum::<u64>() > 200).then_some(()))
    })?;
    kafka.kill9()?;
    thread::sleep(Duration::from_secs(if long() { 60 } else { 8 }));
    sink.process().expect_running()?;
    kafka.restart()?;
    sink.wait_caught_up(&client, config.group(), &["source"], BOUND)?;
    sink.stop_cleanly()?;
    let letters = letters(client.read_all("dead")?)?;
    for record in &produced {
        let source = format!("source/{}", record.partition);
        let copies = letters.get(&(source, record.offset, None)).map_or(0, Vec::len);
        ensure!(copies == 1, "{copies} letters of source/{}@{}", record.partition, record.offset);
    }
    assert_eq!(letters.len(), produced.len());
    Ok(())
}

/// The dead letters in a topic by the identities that their headers give.
#[expect(clippy::type_complexity, reason = "source, offset and index")]
fn letters(records: Vec<(u32, u64, Message)>) -> Result<BTreeMap<(String, u64, Option<u32>), Vec<Message>>> {
    let mut letters: BTreeMap<_, Vec<Message>> = BTreeMap::new();
    for (_, _, message) in records {
        let last = |name: &str| {
            let found = message.headers.iter().rev().find(|(key, _)| key == name.as_bytes());
            found.and_then(|(_, value)| value.as_ref()).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let source = source_of(&last("kafka.source").context("a letter without a source")?).to_owned();
        let offset = last("kafka.offset").context("a letter without an offset")?.parse()?;
        let index = last("kafka.index").map(|index| index.parse()).transpose()?;
        letters.entry((source, offset, index)).or_default().push(message);
    }
    Ok(letters)
}
