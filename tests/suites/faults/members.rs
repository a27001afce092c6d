//! Tests changes of the consumer group: hosts join, leave, are killed or suspended, and lose partitions to each other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::process::{self, wait_for};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, SinkConfig, Store, figures, long, payload, unique};

use super::{STEP, Trial, guests, kafka, pause, size, sized, wait_progress, with_each_assignor};

#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_and_leave_with_range() -> Result<()> {
    storm("range").await
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_and_leave_with_roundrobin() -> Result<()> {
    storm("roundrobin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_and_leave_with_cooperative_sticky() -> Result<()> {
    storm("cooperative-sticky").await
}

/// With Kafka's newer group protocol (KIP-848) the brokers assign the partitions and set the session's timeouts.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_and_leave_with_the_consumer_protocol() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "storm-kip-848", 8)?.configure(with_the_consumer_protocol);
    let flags = ["--topic", &trial.topic, "--brokers", trial.kafka.brokers(), "--bucket", "b", "--group", "checked"];
    let url = store.url();
    let flags: Vec<&str> = flags.into_iter().chain(["--url", &url, "--property", "group.protocol=consumer"]).collect();
    let check = |more: &[&str]| {
        let args: Vec<&str> = ["check"].into_iter().chain(flags.iter().copied()).chain(more.iter().copied()).collect();
        let output = run_to_end(&args, &[], STEP)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok::<_, anyhow::Error>((output.status.success(), text))
    };
    let (is_well, text) = check(&[])?;
    ensure!(is_well, "check refuses the protocol: {text}");
    // librdkafka refuses properties that the brokers decide in this protocol, and the host reports the reason.
    for property in ["session.timeout.ms=6000", "partition.assignment.strategy=range"] {
        let (is_well, text) = check(&["--property", property])?;
        ensure!(!is_well && text.contains("group.protocol"), "{property}: {text}");
    }
    storm_of(trial, &store).await
}

fn with_the_consumer_protocol(config: SinkConfig) -> SinkConfig {
    let config = config.without_property("session.timeout.ms").without_property("heartbeat.interval.ms");
    config.property("group.protocol", "consumer")
}

/// A host without a partition has to know how long the group waits for one that was killed, before it takes its lag for known. What the
/// group itself is configured to wins.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_partition_asks_how_long_the_group_waits() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "session-kip-848", 1)?.configure(with_the_consumer_protocol);
    let mut first = Sink::start(&trial.config)?;
    first.wait_log("assigned partitions=[\"", STEP)?;
    let mut second = Sink::start(&trial.config)?;
    // The broker's own times, see `start_kafka`.
    second.wait_log("session_s=3.0 heartbeat_s=0.3", STEP)?;
    let group = AlterConfig::new(ResourceSpecifier::Group(trial.config.group()))
        .set("consumer.session.timeout.ms", "7000")
        .set("consumer.heartbeat.interval.ms", "200");
    let altered = trial.kafka.admin()?.alter_configs([&group], &AdminOptions::new()).await?;
    ensure!(altered.iter().all(Result::is_ok), "{altered:?}");
    let mut third = Sink::start(&trial.config)?;
    third.wait_log("session_s=7.0 heartbeat_s=0.2", STEP)?;
    for host in [&mut first, &mut second, &mut third] {
        host.stop_cleanly()?;
    }
    Ok(())
}

/// Several partitions write one entry, so a second host must not run.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_entry_has_a_single_host() -> Result<()> {
    let store = Store::start()?;
    let mut trial = Trial::new(kafka()?.client(), &store, "single-host", 2)?.alone()?;
    trial.config = trial.config.set("store.entry", "shared");
    let produced = trial.kafka.produce(&trial.topic, (0..200).map(|n| Message::new(payload(n, 500))))?;
    let mut first = Sink::start(&trial.config)?;
    first.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], STEP)?;
    let mut second = Sink::start(&trial.config)?;
    let ended = wait_for("one of two hosts to end", STEP, || {
        Ok(if let Some(status) = second.process().exited()? { Some((status, second.log()?)) } else { None })
    });
    let (status, log) = ended?;
    ensure!(!status.success() && log.contains("has 2 members, and store.entry = \"shared\" puts"), "{status}: {log}");

    // With the newer protocol nobody tells a host whether it is alone.
    let config = with_the_consumer_protocol(trial.config.clone().set("kafka.group", "single-kip-848"));
    let mut third = Sink::start(&config)?;
    third.wait_log("the brokers name none of its members", STEP)?;
    third.stop_cleanly()?;
    trial.settle(&mut [&mut first], &store, Ledger::of(&produced)).await
}

async fn storm(strategy: &str) -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, &format!("storm-{strategy}"), 8)?
        .configure(|config| config.property("partition.assignment.strategy", strategy));
    storm_of(trial, &store).await
}

/// Four hosts start and end at random; one in three is killed instead of stopped.
async fn storm_of(mut trial: Trial, store: &Store) -> Result<()> {
    let mut dice = Dice::new(&trial.topic)?;
    let load = trial.load(500)?;
    let mut hosts: [Option<Sink>; 4] = [const { None }; 4];
    for _ in 0..sized(6, 10, 60) {
        let slot = &mut hosts[dice.below(4) as usize];
        match slot.take() {
            None => *slot = Some(Sink::start(&trial.config)?),
            Some(mut sink) => {
                trial.weigh(&mut sink);
                if dice.one_in(3) {
                    sink.kill9()?;
                    figures::add("kills_host", 1.0)?;
                } else {
                    stop_in_time(&mut sink)?;
                }
            }
        }
        figures::add("group_events", 1.0)?;
        pause(&mut dice, 0..2500).await;
        for sink in hosts.iter_mut().flatten() {
            sink.process().expect_running()?;
        }
    }
    let produced = trial.finish(load, 0)?;
    if hosts.iter().all(Option::is_none) {
        hosts[0] = Some(Sink::start(&trial.config)?);
    }
    let mut sinks: Vec<&mut Sink> = hosts.iter_mut().flatten().collect();
    trial.settle(&mut sinks, store, Ledger::of(&produced)).await
}

/// A worker is busy for longer than a rebalance waits for it. A partition that was revoked and is assigned again must
/// not be read by both of its readers in this host.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_plugin_is_rebalanced_all_the_same() -> Result<()> {
    with_each_assignor(slow_plugin)
}

async fn slow_plugin(assignor: &str) -> Result<()> {
    let store = Store::start()?;
    let folder = process::data_folder("slow")?;
    let file = folder.path().join("slow.wasm");
    std::fs::write(&file, guests::slow(30))?;
    let mut trial = Trial::new(kafka()?.client(), &store, &format!("slow-{assignor}"), 4)?
        .configure(|config| config.set("limits.workers", 1).property("partition.assignment.strategy", assignor));
    trial.config = trial.config.plugin_with("slow", &file, "grants.clocks = true\ntimeout = '10s'")?;
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    // All records are there when the host starts, so that the worker is busy for as long as possible each time.
    let count = sized(200, 400, 6_000);
    let produced = trial.kafka.produce(&trial.topic, (0..count).map(|n| Message::new(payload(n, 1000))))?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 0)?;
    for _ in 0..size(3, 30) {
        let mut other = Sink::start(&trial.config)?;
        other.wait_log("assigned partitions=[\"", STEP)?;
        pause(&mut dice, 0..2000).await;
        stop_in_time(&mut other)?;
        figures::add("group_events", 2.0)?;
    }
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

fn stop_in_time(sink: &mut Sink) -> Result<Duration> {
    let start = Instant::now();
    sink.stop_cleanly()?;
    ensure!(start.elapsed() < Duration::from_secs(25), "stopping took {:?}", start.elapsed());
    Ok(start.elapsed())
}

/// A host that stops commits everything that was acknowledged, so that the next host has no record to look up.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_leaves_nothing_to_be_read_again() -> Result<()> {
    let store = Store::start()?;
    let mut trial = Trial::new(kafka()?.client(), &store, "sigterm", 8)?;
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(1000)?;
    let (mut slowest, mut given_up) = (Duration::ZERO, 0);
    for _ in 0..size(4, 100) {
        let before = trial.committed(&group)?;
        let mut sink = Sink::start(&trial.config)?;
        wait_progress(&mut sink, &trial, &group, before)?;
        pause(&mut dice, 0..800).await;
        trial.weigh(&mut sink);
        slowest = slowest.max(stop_in_time(&mut sink)?);
        figures::add("group_events", 1.0)?;
        let log = sink.log()?;
        // Where the store is too slow for what is in flight, the next host finds some of what this one gave up, and nothing else.
        let found = log.rsplit_once(" found=").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        let found = found.with_context(|| format!("the host doesn't say how many it found:\n{log}"))?;
        ensure!(found <= given_up, "{found} records were read again, {given_up} had been given up:\n{log}");
        given_up += sink.unacknowledged()?;
    }
    figures::record("sigterm_slowest_s", slowest.as_secs_f64())?;
    let produced = trial.finish(load, 0)?;
    let mut sink = Sink::start(&trial.config)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// A suspended host continues after the group has given its partitions to the other host.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_host_wakes_up_after_its_session() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "held", 6)?
        .configure(|config| config.property("session.timeout.ms", "6000").property("heartbeat.interval.ms", "500"));
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(800)?;
    let mut hosts = [Sink::start(&trial.config)?, Sink::start(&trial.config)?];
    for round in 0..size(2, 20) as usize {
        let [first, second] = &mut hosts;
        let (held, other) = if round % 2 == 0 { (first, second) } else { (second, first) };
        let before = trial.committed(&group)?;
        wait_progress(held, &trial, &group, before)?;
        pause(&mut dice, 0..1000).await;
        held.process().signal(libc::SIGSTOP)?;
        // At full size two of them are as long as a machine is suspended in the tests with injected clocks.
        let held_for = if long() && round < 2 { 60 } else { 8 };
        tokio::time::sleep(Duration::from_secs(held_for)).await;
        let before = trial.committed(&group)?;
        wait_progress(other, &trial, &group, before)?;
        held.process().signal(libc::SIGCONT)?;
        figures::add("group_events", 1.0)?;
        pause(&mut dice, 2000..4000).await;
        held.process().expect_running()?;
    }
    let produced = trial.finish(load, 0)?;
    let [first, second] = &mut hosts;
    trial.settle(&mut [first, second], &store, Ledger::of(&produced)).await
}

/// With an eager strategy every change in the group revokes all partitions and assigns them again. The other member
/// changes its subscription and owns none of this host's topics.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_revoked_and_given_back_at_once() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "revoked", 4)?
        .configure(|config| config.property("partition.assignment.strategy", "range"));
    let group = trial.group()?;
    let others = [unique("other"), unique("other")];
    for other in &others {
        trial.kafka.create_topic(other, 1)?;
    }
    let other: BaseConsumer = trial
        .kafka
        .config()
        .set("group.id", trial.config.group())
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "100")
        .create()?;
    let load = trial.load(500)?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 0)?;
    let revokes = |sink: &Sink| Ok::<_, anyhow::Error>(sink.log()?.matches("revoked partitions=[\"").count() as u64);
    let count = sized(8, 15, 500);
    let mut round = 0;
    while revokes(&sink)? < count {
        let before = revokes(&sink)?;
        other.subscribe(&[&others[round % 2]])?;
        round += 1;
        wait_for("the partitions to be revoked", STEP, || {
            other.poll(Duration::from_millis(20));
            sink.process().expect_running()?;
            Ok((revokes(&sink)? > before).then_some(()))
        })?;
        if round % 10 == 0 {
            let at = trial.committed(&group)?;
            wait_for("the sink to move on", STEP, || {
                other.poll(Duration::from_millis(20));
                sink.process().expect_running()?;
                Ok((trial.committed(&group)? > at).then_some(()))
            })
            .with_context(|| format!("stalled after {before} revokes"))?;
        }
    }
    figures::add("group_events", count as f64)?;
    drop(other);
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}
