//! Topics whose records Kafka itself lost or moved: a log that an unclean leader election truncated, and a mirror on
//! another cluster. Records are compared by their content, because an offset may stand for two of them.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::DIFFER;
use reduct_sink_testbed::{Kafka, KafkaClient, Message, Produced, Sink, Store, figures, payload, unique};

use super::changed_topics::counts;
use super::topics::delete_before;
use super::{ASSIGNORS, CATCH_UP, STEP, Trial, kafka, size, start_kafka, with_each_assignor};

/// The node of the broker that leads the partitions. The first node, which has the controller and the groups, keeps
/// running.
const LEADER: i32 = 2;
const FOLLOWER: i32 = 3;

struct Cluster {
    first: Kafka,
    leader: Kafka,
    follower: Kafka,
}

impl Cluster {
    fn start() -> Result<Self> {
        let properties = [
            ("group.min.session.timeout.ms", "1000"),
            ("broker.session.timeout.ms", "3000"),
            ("replica.lag.time.max.ms", "1000"),
        ];
        let first = Kafka::start_with(&properties)?;
        // Makes Kafka create its topic of the groups while there is no other broker for it.
        let group = first.client().group("first")?;
        first.client().create_topic("first", 1)?;
        group.committed("first")?;
        let start = |node| first.start_broker(node, &properties);
        let (leader, follower) = thread::scope(|scope| {
            let leader = scope.spawn(|| start(LEADER));
            let follower = start(FOLLOWER);
            (leader.join().map_err(|_| anyhow!("a thread panicked")), follower)
        });
        Ok(Self { leader: leader??, follower: follower?, first })
    }

    fn create_topic(&self, name: &str) -> Result<()> {
        let replicas: &[&[i32]] = &[&[LEADER, FOLLOWER], &[LEADER, FOLLOWER]];
        let topic = NewTopic::new(name, 2, TopicReplication::Variable(replicas))
            .set("unclean.leader.election.enable", "true")
            .set("min.insync.replicas", "1");
        let admin = self.first.client().admin()?;
        for created in futures::executor::block_on(admin.create_topics([&topic], &AdminOptions::new()))? {
            created.map_err(|(topic, code)| anyhow!("{topic} can't be created: {code}"))?;
        }
        self.wait_led(name, LEADER)
    }

    fn wait_led(&self, topic: &str, by: i32) -> Result<()> {
        let admin = self.first.client().admin()?;
        wait_for(&format!("{topic} to be led by broker {by}"), STEP, || {
            let metadata = admin.inner().fetch_metadata(Some(topic), STEP)?;
            let topic = metadata.topics().first().context("no topic")?;
            let is_led = topic.partitions().len() == 2 && topic.partitions().iter().all(|p| p.leader() == by);
            Ok(is_led.then_some(()))
        })
    }
}

/// A host with its topic, and the records that Kafka has kept and lost.
struct Reader {
    trial: Trial,
    sink: Sink,
    /// Whether the host is down while the log is truncated; otherwise it is only held.
    is_down: bool,
    kept: Vec<Produced>,
    truncated: Vec<Produced>,
}

impl Reader {
    fn send(&self, partition: i32, numbers: std::ops::Range<u64>) -> Result<Vec<Produced>> {
        // The records of different readers have different contents.
        let message = |n| {
            let text = format!("{} {partition} {n} ", self.trial.topic);
            Message::new([text.into_bytes(), payload(n, 500)].concat()).partition(partition)
        };
        self.trial.kafka.produce(&self.trial.topic, numbers.map(message))
    }

    fn wait_committed(&mut self, offset: u64) -> Result<()> {
        let group = self.trial.group()?;
        wait_for("the commit", CATCH_UP, || {
            self.sink.process().expect_running()?;
            Ok((self.trial.committed(&group)? >= offset).then_some(()))
        })
    }
}

/// Partition 0 stays shorter than the host's position. Partition 1 grows beyond it before the host reads again, so that
/// the next offset exists, but other records stand at the offsets before it than those that the host has read.
/// Two of the hosts are down meanwhile, and Kafka deletes the first records of their partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_an_unclean_election_truncated_is_read_again() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let store = Store::start()?;
    let client = cluster.first.client();
    let mut readers = Vec::new();
    for (assignor, is_down) in
        ASSIGNORS.map(|assignor| (assignor, false)).into_iter().chain([(ASSIGNORS[0], true), (ASSIGNORS[2], true)])
    {
        let name = format!("truncated-{assignor}{}", if is_down { "-down" } else { "" });
        let topic = unique(&name);
        cluster.create_topic(&topic)?;
        let trial = Trial::of_topic(client.clone(), &store, &name, topic)?.configure(|config| {
            config.property("partition.assignment.strategy", assignor).property("session.timeout.ms", "20000")
        });
        let sink = Sink::start(&trial.config)?;
        readers.push(Reader { trial, sink, is_down, kept: Vec::new(), truncated: Vec::new() });
    }
    let before = size(300, 5_000);
    for reader in &mut readers {
        for partition in 0..2 {
            reader.kept.extend(reader.send(partition, 0..before)?);
        }
        reader.wait_committed(2 * before)?;
    }
    // From here on only the leader has the records.
    cluster.follower.kill9()?;
    for reader in &mut readers {
        for partition in 0..2 {
            reader.truncated.extend(reader.send(partition, before..before + 200)?);
        }
        reader.wait_committed(2 * before + 400)?;
        if reader.is_down {
            reader.sink.stop_cleanly()?;
        } else {
            reader.sink.process().signal(libc::SIGSTOP)?;
        }
    }
    cluster.leader.kill9()?;
    cluster.follower.start_again()?;
    for reader in &mut readers {
        cluster.wait_led(&reader.trial.topic, FOLLOWER)?;
        let ends = client.end_offsets(&reader.trial.topic)?;
        ensure!(ends.iter().all(|(_, end)| *end == before), "the log wasn't truncated: {ends:?}");
        reader.kept.extend(reader.send(0, before + 200..before + 300)?);
        reader.kept.extend(reader.send(1, before + 200..before + 600)?);
        if reader.is_down {
            // As retention does: librdkafka begins to read at the beginning, and stops where that is gone.
            delete_before(&reader.trial, 0, 50).await?;
            delete_before(&reader.trial, 1, 50).await?;
            reader.sink.start_again()?;
        } else {
            reader.sink.process().signal(libc::SIGCONT)?;
        }
    }
    for Reader { trial, sink, kept, truncated, .. } in &mut readers {
        let mut counted = BTreeMap::new();
        for _ in 0..60 {
            sink.process().expect_running()?;
            counted = counts(trial, &store, kept).await?;
            if counted.values().all(|count| *count > 0) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        sink.stop_cleanly()?;
        let missing = counted.values().filter(|count| **count == 0).count();
        figures::add("truncated_missing", missing as f64)?;
        ensure!(missing == 0, "{DIFFER}: {missing} of {} records are missing:\n{}", kept.len(), sink.log()?);
        // The store has both the records that Kafka has now and those that Kafka had acknowledged and lost.
        let all: Vec<Produced> = kept.iter().chain(&*truncated).cloned().collect();
        let twice = counts(trial, &store, &all).await?.values().filter(|count| **count > 1).count();
        ensure!(twice == 0, "{DIFFER}: {twice} records are there twice");
        figures::add("ordinary_rows", all.len() as f64)?;
        trial.audit_second(&store).await?;
    }
    Ok(())
}

/// A mirror has the records of the other cluster with the same timestamps at other offsets. The group's offsets are
/// translated as MirrorMaker does it, and the sink continues on the mirror into the same bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_goes_on_with_a_mirror_of_its_topic() -> Result<()> {
    static MIRROR: std::sync::OnceLock<Result<Kafka>> = std::sync::OnceLock::new();
    with_each_assignor(|assignor| async move {
        let mirror = MIRROR.get_or_init(start_kafka).as_ref().map_err(|error| anyhow!("{error:#}"))?;
        goes_on_with(&mirror.client(), assignor).await
    })
}

async fn goes_on_with(mirror: &KafkaClient, assignor: &str) -> Result<()> {
    let store = Store::start()?;
    let name = format!("mirrored-{assignor}");
    let mut trial = Trial::new(kafka()?.client(), &store, &name, 2)?
        .configure(|config| config.property("partition.assignment.strategy", assignor));
    let count = size(600, 20_000);
    // Many records share a timestamp, so that only the offsets distinguish them.
    let message =
        |n: u64| Message::new(payload(n, 300)).timestamp_ms(1_700_000_000_000 + n as i64 / 200).partition(n as i32 % 2);
    let mut produced = trial.kafka.produce(&trial.topic, (0..count).map(message))?;
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    sink.stop_cleanly()?;

    // The first records were already deleted when the mirror was made, so the offsets there are smaller.
    let gone = count / 8;
    mirror.create_topic(&trial.topic, 2)?;
    let left = trial.kafka.read_all(&trial.topic)?.into_iter().filter(|(_, offset, _)| *offset >= gone);
    mirror.produce(&trial.topic, left.map(|(_, _, message)| message))?;
    let ends = mirror.end_offsets(&trial.topic)?;
    for (partition, end) in &ends {
        ensure!(*end == count / 2 - gone, "partition {partition} of the mirror ends at {end}");
    }
    mirror.commit(trial.config.group(), &trial.topic, &ends)?;
    // The producers have moved to the mirror, too, and continue with the same timestamps.
    produced.extend(mirror.produce(&trial.topic, (count..count + count / 2).map(message))?);

    trial.kafka = mirror.clone();
    trial.config = trial.config.clone().set("kafka.brokers", mirror.brokers());
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_caught_up(mirror, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let counted = counts(&trial, &store, &produced).await?;
    let missing = counted.values().filter(|count| **count == 0).count();
    figures::add("mirrored_missing", missing as f64)?;
    figures::add("ordinary_rows", produced.len() as f64)?;
    ensure!(missing == 0, "{DIFFER}: {missing} of {} records are missing", produced.len());
    ensure!(counted.values().all(|count| *count == 1), "{DIFFER}: records are there twice");
    trial.audit_second(&store).await
}
