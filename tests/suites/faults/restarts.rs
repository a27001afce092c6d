//! Tests hosts with a name in the group: a host that is killed and started again continues at once, although requests
//! of the killed process are still on their way; and two hosts with one name.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::proxy::Proxy;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Sink, Store, figures};

use super::{STEP, Trial, address, kafka, pause, sized, wait_progress};

/// Within this time a killed host that was started again must read.
const READS_WITHIN: Duration = Duration::from_secs(10);
/// A session timeout, in milliseconds, during which the group keeps a missing host's partitions for it.
const LONG: &str = "45000";

/// A proxy holds back the host's requests, the host is killed and started again, and then the proxy delivers the
/// requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_reads_at_once_and_its_late_requests_do_no_harm() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "late-requests", 4)?;
    let mut dice = Dice::new(&trial.topic)?;
    let proxy = Proxy::start(address(&store)?, Dice::new(&trial.topic)?, Duration::from_secs(1))?;
    // The host expects late requests for as long as the group would have waited for the killed host.
    let trial = trial.configure(|config| {
        config.set("store.url", proxy.url()).property("session.timeout.ms", "15000").set("kafka.member", "machine")
    });
    let group = trial.group()?;
    let load = trial.load(1500)?;
    let mut sink = Sink::start(&trial.config)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..sized(2, 3, 15) {
        let before = trial.committed(&group)?;
        wait_progress(&mut sink, &trial, &group, before)?;
        proxy.hold();
        wait_for("writes to be held back", STEP, || Ok((proxy.held_bytes() > 40_000).then_some(())))?;
        sink.kill9()?;
        figures::add("kills_host", 1.0)?;
        let before = trial.committed(&group)?;
        let start = Instant::now();
        sink.start_again()?;
        wait_progress(&mut sink, &trial, &group, before)?;
        slowest = slowest.max(start.elapsed());
        pause(&mut dice, 0..3000).await;
        proxy.release();
        pause(&mut dice, 1000..4000).await;
    }
    figures::record("restart_slowest_s", slowest.as_secs_f64())?;
    ensure!(slowest < READS_WITHIN, "a host that was started again read after {slowest:?}");
    sink.wait_log("no more requests of an earlier host can arrive", STEP)?;
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// Of two hosts with one name the older one loses the name, says so, and continues without it. The two don't take the
/// name from each other again and again.
#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_with_one_name_share_the_partitions() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "one-name", 4)?
        .configure(|config| config.set("kafka.member", "twin").property("session.timeout.ms", LONG));
    let group = trial.group()?;
    let load = trial.load(500)?;
    let mut first = Sink::start(&trial.config)?;
    wait_progress(&mut first, &trial, &group, 0)?;
    let mut second = Sink::start(&trial.config)?;
    first.wait_log("going on without a name", STEP)?;
    for sink in [&mut first, &mut second] {
        sink.wait_log("assigned partitions=[\"", STEP)?;
    }
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(sized(8, 12, 60)) {
        let before = trial.committed(&group)?;
        wait_progress(&mut second, &trial, &group, before)?;
        first.process().expect_running()?;
    }
    let lost = |sink: &Sink| Ok::<_, anyhow::Error>(sink.log()?.matches("going on without a name").count());
    ensure!((lost(&first)?, lost(&second)?) == (1, 0), "the name went to and fro");
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut second, &mut first], &store, Ledger::of(&produced)).await
}

/// A host that stops without ever having had a partition leaves the group, too: a replay refuses to write while the group has members, and
/// the others would wait for the end of its session.
#[test]
fn a_host_without_partitions_leaves_when_it_stops() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "idle-member", 1)?
        .configure(|config| config.property("session.timeout.ms", LONG).set("kafka.member", "none"))
        .alone()?;
    let mut first = Sink::start(&trial.config)?;
    first.wait_log("assigned partitions=[\"", STEP)?;
    let mut second = Sink::start(&trial.config)?;
    second.wait_log("assigned partitions=[]", STEP)?;
    second.stop_cleanly()?;
    let admin = trial.kafka.admin()?;
    let members = || -> Result<usize> {
        let groups = admin.inner().fetch_group_list(Some(trial.config.group()), STEP)?;
        Ok(groups.groups().iter().map(|group| group.members().len()).sum())
    };
    ensure!(members()? == 1, "the group has {} members", members()?);
    first.stop_cleanly()?;
    ensure!(members()? == 0, "the group has {} members", members()?);
    Ok(())
}

/// A host with a name that stops leaves the group, so that the others don't wait for the end of its session.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_leaves_its_partitions_to_the_others_at_once() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "farewell", 4)?
        .configure(|config| config.property("session.timeout.ms", LONG).set("kafka.member", "machine"));
    let group = trial.group()?;
    let load = trial.load(200)?;
    let mut first = Sink::start(&trial.config)?;
    wait_progress(&mut first, &trial, &group, 0)?;
    let mut second = Sink::start(&trial.config)?;
    second.wait_log("assigned partitions=[\"", STEP)?;
    first.stop_cleanly()?;
    let start = Instant::now();
    let produced = trial.finish(load, 0)?;
    second.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], Duration::from_secs(15))?;
    figures::record("farewell_s", start.elapsed().as_secs_f64())?;
    trial.settle(&mut [&mut second], &store, Ledger::of(&produced)).await
}
