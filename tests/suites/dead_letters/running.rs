//! Tests replays by running hosts, beside live records: each letter's record is written once and its letter removed, whatever is killed and
//! rebalanced meanwhile; what a host may not do is left, with the reason.

use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::process::wait_until;
use reduct_sink_testbed::{KafkaClient, Store};
use serde_json::Value;

use super::*;
use crate::operate::{address, get};

/// Every fourth record is one that the plugin fails on.
pub(super) fn often_poison(n: u64) -> Message {
    let message = Message::new(payload(n, 500)).timestamp_ms(1_700_000_000_000 + n as i64 / 50);
    match n % 8 {
        1 => message.header("camera", "x"),
        5 => message.header("a", "1").header("b", "2"),
        _ => message,
    }
}

/// A host with an address.
pub(super) struct Replayer {
    pub sink: Sink,
    pub address: String,
}

impl Replayer {
    pub fn start(config: &SinkConfig) -> Result<Self> {
        let address = address()?;
        let sink = Sink::start(&config.clone().set("status.listen", address.as_str()))?;
        Ok(Self { sink, address })
    }

    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&get(&self.address, "/status")?.1)?)
    }

    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        wait_for(what, BOUND, || {
            self.sink.process().expect_running()?;
            Ok(self.status().ok().filter(|status| is_so(status)).map(drop))
        })
    }

    /// Waits until it works with the version that this file holds.
    pub fn wait_version(&mut self, file: &std::path::Path) -> Result<()> {
        let output = std::process::Command::new("sha256sum").arg(file).output()?;
        let digest = String::from_utf8_lossy(&output.stdout).chars().take(64).collect::<String>();
        self.wait("the new version of the plugin", |status| {
            status["plugins"][0]["digest"].as_str().is_some_and(|version| version.contains(&digest))
        })
    }

    pub fn replay(&self) -> Result<(Option<i32>, Value)> {
        replay_at(&self.address)
    }

    /// Begins one, if none runs.
    pub fn begin(&self) -> Result<()> {
        let args = ["replay", "--running", "--write", "--status", &self.address];
        let mut command = std::process::Command::new(binary()?);
        command.args(args);
        // The host may be killed meanwhile; this command may then wait for it.
        let mut replay = Process::spawn("reduct-sink replay", command, &process::new_log("replay")?)?;
        thread::sleep(Duration::from_millis(700));
        if replay.exited()?.is_none() {
            replay.kill9()?;
        }
        Ok(())
    }
}

/// Replays to its end. Returns the exit code and what was told.
fn replay_at(address: &str) -> Result<(Option<i32>, Value)> {
    let output = run_to_end(&["replay", "--running", "--write", "--json", "--status", address], &[], BOUND)?;
    let told = text(&output);
    let line = told.lines().find(|line| line.starts_with('{')).with_context(|| told.clone())?;
    Ok((output.status.code(), serde_json::from_str(line)?))
}

pub(super) fn count(told: &Value, key: &str) -> u64 {
    told[key].as_u64().unwrap_or_default()
}

pub(super) struct Scene {
    pub kafka: KafkaClient,
    pub store: Store,
    pub topic: String,
    pub plugin: std::path::PathBuf,
    pub config: SinkConfig,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub fn new(name: &str, partitions: i32) -> Result<Self> {
        let kafka = bed()?.kafka.client();
        let store = Store::start()?;
        let topic = unique(name);
        kafka.create_topic_with(&topic, partitions, &[("retention.ms", "-1")])?;
        let folder = process::data_folder(name)?;
        let plugin = folder.path().join("plugin.wasm");
        std::fs::write(&plugin, guest::guest(POISONED))?;
        let config = SinkConfig::new(kafka.brokers(), &store.url(), name)
            .topics(&[&topic])
            .plugin_with("picky", &plugin, "")?
            .property("session.timeout.ms", "6000");
        Ok(Self { kafka, store, topic, plugin, config, _folder: folder })
    }

    pub fn mend(&self, plugin: &str, hosts: &mut [&mut Replayer]) -> Result<()> {
        std::fs::write(&self.plugin, guest::guest(plugin))?;
        hosts.iter_mut().try_for_each(|host| host.wait_version(&self.plugin))
    }

    pub async fn stored(&self) -> Result<Vec<Stored>> {
        read_back(&self.store.client()?, self.config.bucket(), "*").await
    }
}

/// Two hosts replay under load with a plugin that still fails for some; hosts are killed and stopped meanwhile, which moves the
/// partitions; then both finish.
#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_replay_beside_live_records_through_kills() -> Result<()> {
    let scene = Scene::new("running-replay", 4)?;
    let mut dice = Dice::new(&scene.topic)?;
    let (mut one, mut two) = (Replayer::start(&scene.config)?, Replayer::start(&scene.config)?);
    let load = Load::start(&scene.kafka, &scene.topic, sized(30, 100, 100), often_poison)?;
    wait_for("records", BOUND, || Ok((load.sent() >= sized(300, 2_000, 20_000)).then_some(())))?;
    scene.mend(HALF_MENDED, &mut [&mut one, &mut two])?;
    for host in [&mut one, &mut two] {
        host.wait("partitions", |status| status["partitions"].as_array().is_some_and(|all| !all.is_empty()))?;
    }

    // Each replays its own partitions and leaves those of the other; of its own some still fail. While partitions move, a host may
    // have none with letters.
    wait_until("the first host to replay some of its letters", BOUND, || {
        let (code, told) = one.replay()?;
        ensure!(told["write"] == true && told["error"].is_null() && count(&told, "settling") == 0, "{told}");
        ensure!(code == Some(1) && count(&told, "written") > 0 && count(&told, "failing") > 0, "{told}");
        ensure!(told["left_because"].to_string().contains("another host of the group"), "{told}");
        Ok(())
    })?;

    scene.mend(MENDED, &mut [&mut one, &mut two])?;
    let mut kills = 0;
    for round in 0..sized(3, 4, 20) {
        one.begin()?;
        two.begin()?;
        tokio::time::sleep(dice.millis(0..4_000)).await;
        match round % 4 {
            0 | 3 => {
                one.sink.kill9()?;
                one.sink.start_again()?;
            }
            1 => {
                // It leaves and comes back: two rebalances.
                two.sink.stop_cleanly()?;
                two.sink.start_again()?;
            }
            _ => {
                two.sink.kill9()?;
                two.sink.start_again()?;
            }
        }
        kills += 1;
        tokio::time::sleep(dice.millis(0..8_000)).await;
    }
    let produced = load.finish()?;
    for host in [&mut one, &mut two] {
        host.wait("partitions", |status| status["partitions"].as_array().is_some_and(|all| !all.is_empty()))?;
    }
    one.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    wait_for("all letters to be replayed", BOUND * 4, || {
        one.wait("no replay", |status| status["replay"]["running"] != true)?;
        two.wait("no replay", |status| status["replay"]["running"] != true)?;
        let other = two.address.clone();
        let second = thread::spawn(move || replay_at(&other));
        let (_, first) = one.replay()?;
        let (_, second) = second.join().map_err(|_| anyhow::anyhow!("the replay panicked"))??;
        Ok((count(&second, "letters") == 0 && count(&first, "failing") == 0).then_some(()))
    })?;
    one.sink.stop_cleanly()?;
    two.sink.stop_cleanly()?;
    let after = scene.stored().await?;
    compare(&produced, &after)?.exact()?;
    assert!(!after.iter().any(is_dead), "{} letters are left", after.iter().filter(|record| is_dead(record)).count());
    figures::record("running_replay_kills", f64::from(kills))?;
    figures::record("running_replay_records", produced.len() as f64)
}

/// A new group reads everything again, with the mended plugin: what the live path writes, a replay finds and writes no second time, and
/// letters of records that the partition hasn't passed are left.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_live_path_wrote_is_found() -> Result<()> {
    let mut scene = Scene::new("running-found", 1)?;
    let count_of = 400;
    let produced = scene.kafka.produce(&scene.topic, (0..count_of).map(often_poison))?;
    let mut host = Replayer::start(&scene.config)?;
    host.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    host.sink.stop_cleanly()?;
    let letters = scene.stored().await?.iter().filter(|record| is_dead(record)).count() as u64;
    assert_eq!(letters, count_of / 4);

    std::fs::write(&scene.plugin, guest::guest(MENDED))?;
    scene.config = scene.config.clone().set("kafka.group", unique("again"));
    let mut host = Replayer::start(&scene.config)?;
    host.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    let twice = scene.stored().await?.len() as u64;
    assert_eq!(twice, count_of + letters, "{DIFFER}: letter and record");
    let (code, told) = host.replay()?;
    assert!(code == Some(0) && count(&told, "written") == letters, "{told}");
    let (code, told) = host.replay()?;
    assert!(code == Some(0) && count(&told, "letters") == 0, "{told}");
    host.sink.stop_cleanly()?;
    compare(&produced, &scene.stored().await?)?.exact()?;
    Ok(())
}

/// Letters in a topic are replayed by a host that is alone in its group, and by no other.
#[tokio::test(flavor = "multi_thread")]
async fn letters_in_a_topic_are_replayed_by_a_host_that_is_alone() -> Result<()> {
    let mut scene = Scene::new("running-topic", 2)?;
    let dead = unique("dead");
    scene.kafka.create_topic_with(&dead, 2, &[("retention.ms", "-1")])?;
    scene.config = scene.config.clone().set("dead_letters.topic", dead.as_str());
    let produced = scene.kafka.produce(&scene.topic, (0..400).map(often_poison))?;
    let (mut one, mut two) = (Replayer::start(&scene.config)?, Replayer::start(&scene.config)?);
    one.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    scene.mend(MENDED, &mut [&mut one, &mut two])?;
    let (code, told) = one.replay()?;
    assert!(code == Some(1) && told["error"].to_string().contains("has 2 members"), "{told}");
    two.sink.stop_cleanly()?;
    one.wait("all partitions", |status| status["partitions"].as_array().is_some_and(|all| all.len() == 2))?;
    let (code, told) = one.replay()?;
    assert!(code == Some(0) && count(&told, "written") == 100, "{told}");
    let (code, told) = one.replay()?;
    assert!(code == Some(0) && count(&told, "letters") == 0, "{told}");
    one.sink.stop_cleanly()?;
    compare(&produced, &scene.stored().await?)?.exact()?;
    Ok(())
}

/// With the newer protocol of groups the brokers don't list the members, so that no host may take itself for the only one.
#[tokio::test(flavor = "multi_thread")]
async fn letters_in_a_topic_stay_where_the_members_cannot_be_counted() -> Result<()> {
    let mut scene = Scene::new("running-kip-848", 1)?;
    let dead = unique("dead");
    scene.kafka.create_topic_with(&dead, 1, &[("retention.ms", "-1")])?;
    scene.config = scene.config.clone().set("dead_letters.topic", dead.as_str());
    scene.config = scene.config.without_property("session.timeout.ms").property("group.protocol", "consumer");
    scene.kafka.produce(&scene.topic, (0..40).map(often_poison))?;
    let mut host = Replayer::start(&scene.config)?;
    host.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    let (code, told) = host.replay()?;
    assert!(code == Some(1) && told["error"].to_string().contains("name none of its members"), "{told}");
    host.sink.stop_cleanly()
}
