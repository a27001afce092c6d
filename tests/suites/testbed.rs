//! Tests the test bed itself, on which the other suites rely, without the host.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use reduct_sink_testbed::process::{self, ended_by, wait_for};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Kafka, KafkaClient, Message, Produced, Store, bed, read_back, unique};
use sha2::{Digest, Sha256};

#[test]
fn kafka_delivers_what_was_produced() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let topic = unique("shapes");
    kafka.create_topic(&topic, 1)?;
    let messages: Vec<Message> = vec![
        Message::new("plain").key("k").header("size", "5").timestamp_ms(1_700_000_000_000),
        Message::new("").header("empty", "").null_header("null").header("twice", "1").header("twice", "2"),
        Message::new(vec![0xff, 0x00, 0xfe]).key(vec![0x00, 0xff]).header(vec![0xff, 0xfe], vec![0x00, 0x80]),
        Message::tombstone("gone"),
        Message::new(vec![7; 16 << 20]),
    ];
    let produced = kafka.produce(&topic, messages.clone())?;
    assert_eq!(produced.iter().map(|p| p.offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let read = kafka.read_all(&topic)?;
    assert_eq!(read.len(), messages.len());
    for ((_, offset, got), sent) in read.into_iter().zip(messages) {
        assert_eq!(
            (&got.key, &got.payload, &got.headers),
            (&sent.key, &sent.payload, &sent.headers),
            "offset {offset}"
        );
        assert!(sent.timestamp_ms.is_none() || sent.timestamp_ms == got.timestamp_ms);
    }
    Ok(())
}

#[test]
fn kafka_keeps_what_it_acknowledged_when_killed() -> Result<()> {
    let mut kafka = Kafka::start()?;
    let client = kafka.client();
    client.create_topic("kept", 2)?;
    let produced = client.produce("kept", (0..500).map(|i| Message::new(vec![i as u8; 1000])))?;
    commit(&client, "kept", 1, 17)?;
    kafka.kill9()?;
    kafka.restart()?;
    let more = client.produce("kept", [Message::new("after")])?;
    let read = client.read_all("kept")?;
    assert_eq!(read.len(), produced.len() + more.len());
    for record in produced.iter().chain(&more) {
        let found =
            read.iter().find(|(partition, offset, _)| (*partition, *offset) == (record.partition, record.offset));
        let (_, _, message) = found.context("an acknowledged record is gone")?;
        assert_eq!(digest(message.payload.as_deref().unwrap()), record.sha256);
    }
    assert_eq!(client.group("group")?.committed("kept")?, [(1, 17)]);
    Ok(())
}

#[test]
fn kafka_tells_offsets_and_lag() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let topic = unique("offsets");
    kafka.create_topic(&topic, 2)?;
    kafka.produce(&topic, (0..10).map(|_| Message::new("x").partition(0)))?;
    assert_eq!(kafka.end_offsets(&topic)?, [(0, 10), (1, 0)]);
    let group = kafka.group("group")?;
    assert_eq!((group.committed(&topic)?, group.lag(&topic)?), (vec![], 10));
    commit(&kafka, &topic, 0, 4)?;
    assert_eq!((group.committed(&topic)?, group.lag(&topic)?), (vec![(0, 4)], 6));
    Ok(())
}

#[tokio::test]
async fn the_store_keeps_what_it_acknowledged_when_killed() -> Result<()> {
    let mut store = Store::start_with(Some("secret"), &[])?;
    let client = store.client()?;
    let bucket = client.create_bucket("bucket").send().await?;
    for i in 0..100u64 {
        let data = Bytes::from(vec![i as u8; 1000 + i as usize]);
        bucket.write_record("a/0").timestamp_us(i + 1).add_label("n", i.to_string()).data(data).send().await?;
    }
    store.kill9()?;
    store.restart()?;
    let records = read_back(&store.client()?, "bucket", "a/*").await?;
    assert_eq!(records.len(), 100);
    for (i, record) in records.iter().enumerate() {
        assert_eq!((record.entry.as_str(), record.timestamp_us, record.size), ("a/0", i as u64 + 1, 1000 + i));
        assert_eq!(record.label("n"), Some(i.to_string().as_str()));
        assert_eq!(record.sha256, digest(&vec![i as u8; 1000 + i]));
    }
    Ok(())
}

#[tokio::test]
async fn a_suspended_store_answers_later() -> Result<()> {
    let mut store = Store::start()?;
    let client = store.client()?;
    store.suspend()?;
    let start = Instant::now();
    let (answer, resumed) = tokio::join!(client.server_info(), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        store.resume()
    });
    resumed?;
    answer?;
    assert!(start.elapsed() >= Duration::from_millis(650));
    Ok(())
}

#[tokio::test]
async fn the_verifier_names_every_difference() -> Result<()> {
    let store = &bed()?.store;
    let bucket = unique("verify");
    let client = store.client()?;
    let handle = client.create_bucket(&bucket).send().await?;
    let write = async |time: u64, identity: Option<(&str, u64, Option<u32>)>, payload: &'static str| {
        let mut labels = HashMap::new();
        if let Some((source, offset, index)) = identity {
            labels.insert("kafka.source".to_owned(), source.to_owned());
            labels.insert("kafka.offset".to_owned(), offset.to_string());
            index.map(|index| labels.insert("kafka.index".to_owned(), index.to_string()));
        }
        handle.write_record("e").timestamp_us(time).labels(labels).data(payload).send().await
    };
    write(1, Some(("t/0", 0, None)), "right").await?;
    write(2, Some(("t/0", 1, None)), "wrong").await?;
    write(3, Some(("t/0", 2, None)), "twice").await?;
    write(4, Some(("t/0", 2, None)), "twice").await?;
    write(5, Some(("t/9", 4, Some(1))), "unexpected").await?;
    write(6, None, "anonymous").await?;

    let expected = |offset, payload: &str| Produced {
        topic: "t".into(),
        partition: 0,
        offset,
        size: payload.len(),
        sha256: digest(payload.as_bytes()),
    };
    let expected = [expected(0, "right"), expected(1, "other"), expected(2, "twice"), expected(3, "missing")];
    let diff = compare(&expected, &read_back(&client, &bucket, "*").await?)?;
    assert_eq!((diff.expected, diff.found), (4, 6));
    assert_eq!(diff.missing, ["t/0@3"]);
    assert_eq!(diff.wrong_bytes, ["t/0@1 at e@2"]);
    assert_eq!(diff.twice, ["t/0@2 at e@4, 1 µs after the first"]);
    assert_eq!(diff.unexpected, ["t/9@4#1 at e@5", "e@6, which has no identity"]);
    let told = format!("{:#}", diff.exact().unwrap_err());
    assert!(!diff.is_exact() && told.starts_with("RECORDS DIFFER: 4 records expected, 6 found; 1 missing"), "{told}");
    assert!(compare(&expected[..1], &read_back(&client, &bucket, "e").await?[..1])?.is_exact());
    Ok(())
}

#[test]
fn servers_die_with_the_process_that_started_them() -> Result<()> {
    let program = env!("CARGO_BIN_EXE_testbed");
    let mut parent = Command::new(program).arg("store").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let output = std::io::BufReader::new(parent.stdout.take().context("piped")?);
    let mut values = HashMap::new();
    for line in std::io::BufRead::lines(output) {
        let line = line?;
        let (key, value) = line.split_once('=').context("KEY=VALUE")?;
        values.insert(key.to_owned(), value.to_owned());
        if key == "READY" {
            break;
        }
    }
    let server = format!("/proc/{}", values["STORE_PID"]);
    assert!(std::path::Path::new(&server).exists());
    parent.kill()?;
    assert!(ended_by(parent.wait()?, libc::SIGKILL));
    wait_for("the orphan to die", Duration::from_secs(10), || {
        let status = std::fs::read_to_string(format!("{server}/status")).unwrap_or_default();
        Ok((status.is_empty() || status.contains("State:\tZ")).then_some(()))
    })?;
    // The killed process couldn't remove its logs itself.
    let logs = std::path::Path::new(&values["LOGS"]);
    std::fs::remove_dir_all(logs.parent().context("the run's folder")?)?;
    Ok(())
}

fn commit(kafka: &KafkaClient, topic: &str, partition: i32, offset: i64) -> Result<()> {
    use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
    let consumer: BaseConsumer = kafka.config().set("group.id", "group").create()?;
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset))?;
    consumer.commit(&list, CommitMode::Sync)?;
    Ok(())
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What `tests/run` does between the preparation and the figures, with suites of its own. `dies` kills the shell that would count the
/// tests.
const RUNNER: &str = r#"
set -euo pipefail
for part in suites again print; do source tests/runner/$part.sh; done
begin=$SECONDS work=$1 long= list= json= all= testbed= alone=" last " compiling=" compiled behind_it " compiled_before= side_by_side=3 longest= wanted=()
export TESTBED_FIGURES=$work/figures
touch "$TESTBED_FIGURES"
mkdir "$work/failures"
trap 'finish $?' EXIT
dies() {
    local me=$BASHPID
    echo "test $suite::one ... ok"
    kill -9 "$(awk '/^PPid/ { print $2 }' "/proc/$me/status")"
}
suite_well() { echo "test well::one ... ok"; }
suite_beside() { dies; }
suite_compiled() { dies; }
suite_behind_it() { echo "test behind_it::one ... ok"; }
suite_last() { dies; }
shift
run_all "$@"
run_failed_again
exit 0
"#;

/// Such a run said that nothing had failed.
#[test]
fn a_suite_that_dies_before_its_tests_are_counted_fails_the_run() -> Result<()> {
    for (suites, missing) in [
        (&["well"] as &[&str], &[] as &[&str]),
        (&["well", "beside"], &["beside"]),
        (&["well", "compiled", "behind_it"], &["compiled", "behind_it"]),
        (&["last", "well"], &["last"]),
    ] {
        let folder = process::data_folder("runner")?;
        let mut command = Command::new("bash");
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args(["-c", RUNNER, "run"]);
        let output = command.arg(folder.path()).args(suites).output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), missing.is_empty(), "{told}");
        assert!(told.contains("suite well: 1 passed and 0 failed"), "{told}");
        for suite in missing {
            assert!(told.contains(&format!("FAILED  {suite}: its shell ended before")), "{told}");
        }
        assert!(told.contains(&format!("passed, {} failed", missing.len())), "{told}");
    }
    Ok(())
}
