//! Tests what ends or bounds a replay: kills of the store, the end of its pipeline, the number of letters that wait to be removed; and what
//! a replay does with a record that is there with other bytes.

use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::verify::Ledger;

use super::running::{Replayer, Scene, count, often_poison};
use super::*;

/// A plugin that makes this payload of every record.
fn says(payload: &str) -> String {
    format!(r#"(call $payload $"{payload}") (call $change)"#)
}

/// The store is killed and started again while two hosts replay beside live records. Nothing may be missing. Records that are there
/// twice are counted: guarantees.md has the limit, because late records reopen blocks that were complete, and a crash harms those.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_killed_while_hosts_replay_beside_live_records() -> Result<()> {
    let mut scene = Scene::new("running-store-kills", 4)?;
    let mut dice = Dice::new(&scene.topic)?;
    let (mut one, mut two) = (Replayer::start(&scene.config)?, Replayer::start(&scene.config)?);
    let load = Load::start(&scene.kafka, &scene.topic, sized(30, 100, 100), often_poison)?;
    wait_for("records", BOUND, || Ok((load.sent() >= sized(300, 2_000, 20_000)).then_some(())))?;
    scene.mend(MENDED, &mut [&mut one, &mut two])?;
    let kills = sized(2, 5, 20);
    for kill in 0..kills {
        one.begin()?;
        two.begin()?;
        let is_late = kill % 5 == 4 || kill + 1 == kills;
        if is_late {
            // While letters are removed, more than a minute after the last kill: until then a replay leaves all letters.
            wait_for("letters that are removed", BOUND, || {
                one.sink.process().expect_running()?;
                let now = one.status()?["replay"].clone();
                if now["running"] != true {
                    one.begin()?;
                }
                Ok((now["settled_in_s"] == 0).then_some(()))
            })?;
        }
        tokio::time::sleep(dice.millis(0..if is_late { 1_500 } else { 6_000 })).await;
        scene.store.kill9()?;
        tokio::time::sleep(dice.millis(0..3_000)).await;
        scene.store.restart()?;
        tokio::time::sleep(dice.millis(0..8_000)).await;
    }
    let produced = load.finish()?;
    one.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    // What a running host leaves, because the store shows something else, is for a replay without hosts.
    for host in [&mut one, &mut two] {
        host.wait("no replay", |status| status["replay"]["running"] != true)?;
        let (_, told) = host.replay()?;
        println!("{told}");
    }
    one.sink.stop_cleanly()?;
    two.sink.stop_cleanly()?;
    let file = one.sink.folder().join("sink.toml");
    let output = run_to_end(&["replay", "--write", "--config", &file.display().to_string()], &[], BOUND)?;
    println!("{}", text(&output));
    let after = scene.stored().await?;
    let diff = compare(&produced, &after)?;
    println!("{diff}");
    figures::record("running_replay_store_kills", f64::from(kills))?;
    figures::record("running_replay_store_twice", diff.twice.len() as f64)?;
    figures::record("running_replay_store_missing", diff.missing.len() as f64)?;
    assert!(diff.missing.is_empty() && diff.wrong_bytes.is_empty() && diff.unexpected.is_empty(), "{diff}");
    assert!(!after.iter().any(is_dead), "letters are left");
    Ok(())
}

/// A pipeline fails while its replay waits to remove letters. The replay ends with it and removes nothing; the pipeline that is started again
/// can replay, finds what was written and removes the letters.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_ends_with_its_pipeline() -> Result<()> {
    const POISON: u64 = 40;
    let scene = Scene::new("running-ends", 1)?;
    // It stops the host at a record with two headers.
    let stopper = scene.plugin.with_file_name("stopper.wasm");
    let stops = "(if (i32.eq (local.get $header-count) (i32.const 2)) (then unreachable)) (call $keep)";
    std::fs::write(&stopper, guest::guest(stops))?;
    std::fs::write(&scene.plugin, guest::guest(r#"(call $reject $"not yet")"#))?;
    let one = scene.config.clone().plugin_with("stopper", &stopper, "on_failure = 'stop'")?;
    let other = bed()?.sink_config(&scene.topic);
    let address = crate::operate::address()?;
    let several = SinkConfig::several(&[("one", &one.set("status.listen", address.as_str())), ("other", &other)]);
    let mut sink = Sink::start(&several)?;
    let mut produced = scene.kafka.produce(&scene.topic, (0..POISON).map(|n| Message::new(payload(n, 300))))?;
    sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    let status = || -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&crate::operate::get(&address, "/status?pipeline=one")?.1)?)
    };
    let replay = |more: &str| {
        let args = ["replay", "--running", "--write", "--pipeline", "one", "--status", &address, more];
        let mut command = std::process::Command::new(binary()?);
        command.args(args.iter().filter(|arg| !arg.is_empty()));
        Process::spawn("reduct-sink replay", command, &process::new_log("replay")?)
    };
    let before = status()?["plugins"][0]["digest"].clone();
    std::fs::write(&scene.plugin, guest::guest(MENDED))?;
    wait_for("the mended plugin", BOUND, || Ok((status()?["plugins"][0]["digest"] != before).then_some(())))?;
    let mut asked = replay("")?;
    // In the first minute of a host it leaves all letters, so that this one has to begin after it.
    wait_for("letters that wait to be removed", BOUND * 2, || {
        let now = status()?["replay"].clone();
        if now["running"] != true {
            asked = replay("")?;
        }
        Ok((now["settling"].as_u64() == Some(POISON)).then_some(()))
    })?;
    produced.extend(scene.kafka.produce(&scene.topic, [Message::new("stop").header("a", "1").header("b", "2")])?);
    sink.wait_log("this pipeline failed and is started again", BOUND)?;
    sink.wait_log("the replay was stopped before the end", BOUND)?;
    let letters = scene.stored().await?.iter().filter(|record| is_dead(record)).count() as u64;
    assert_eq!(letters, POISON, "it removes no letter after the end of its pipeline");
    asked.kill9()?;

    std::fs::write(&stopper, guest::guest("(call $keep)"))?;
    sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    wait_for("all letters to be replayed", BOUND * 2, || {
        replay("--json")?.wait(BOUND)?;
        let now = status()?["replay"].clone();
        Ok((now["running"] == false && count(&now, "letters") == 0).then_some(()))
    })?;
    sink.stop_cleanly()?;
    let after = scene.stored().await?;
    compare(&produced, &after)?.exact()?;
    assert!(!after.iter().any(is_dead));
    Ok(())
}

/// No more than 10,000 outputs, and those of a page of 64 letters, wait at a time; the letters behind them are written after their removal.
#[tokio::test(flavor = "multi_thread")]
async fn letters_with_many_outputs_are_removed_in_several_steps() -> Result<()> {
    const LETTERS: u64 = 70;
    const PARTS: usize = 300;
    let scene = Scene::new("running-bounds", 1)?;
    std::fs::write(&scene.plugin, guest::guest(r#"(call $reject $"not yet")"#))?;
    let message = |n: u64| Message::new(payload(n, 100)).timestamp_ms(1_700_000_000_000 + n as i64);
    let produced = scene.kafka.produce(&scene.topic, (0..LETTERS).map(message))?;
    let mut host = Replayer::start(&scene.config)?;
    host.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    let part = r#"(call $part) (call $payload $"x") "#;
    scene.mend(&format!("{} (call $split)", part.repeat(PARTS)), &mut [&mut host])?;
    let (mut most, mut letters) = (0, LETTERS);
    wait_for("all letters to be replayed", BOUND * 4, || {
        let now = host.status()?["replay"].clone();
        most = most.max(count(&now, "settling"));
        if now["running"] != true {
            // In the first minute of a host it leaves all letters.
            letters = if now["letters"] == 0 { 0 } else { letters };
            if letters > 0 {
                host.begin()?;
            }
        }
        Ok((letters == 0).then_some(()))
    })?;
    host.sink.stop_cleanly()?;
    let mut ledger = Ledger::default();
    produced.iter().for_each(|record| ledger.expect_parts(record, vec![&b"x"[..]; PARTS]));
    ledger.audit(&scene.store.client()?, scene.config.bucket()).await?.exact()?;
    assert!(most > 0 && most < LETTERS, "{most} letters waited at a time");
    figures::record("running_replay_most_settling", most as f64)
}

/// The record of a letter is there already, with the bytes that another version of the plugin made. A replay, with a host or without,
/// compares them, and leaves both: either may be the one to keep.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_there_with_other_bytes_is_left_with_its_letter() -> Result<()> {
    let mut scene = Scene::new("other-version", 1)?;
    scene.kafka.produce(&scene.topic, (0..40).map(often_poison))?;
    let mut host = Replayer::start(&scene.config)?;
    host.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    host.sink.stop_cleanly()?;
    // Another group reads everything again, so that the first version's records stand beside the letters.
    std::fs::write(&scene.plugin, guest::guest(&says("first")))?;
    scene.config = scene.config.clone().set("kafka.group", unique("again"));
    let mut host = Replayer::start(&scene.config)?;
    host.sink.wait_caught_up(&scene.kafka, scene.config.group(), &[&scene.topic], BOUND)?;
    let first = |records: &[Stored]| records.iter().filter(|record| !is_dead(record) && record.size == 5).count();
    let before = scene.stored().await?;
    assert_eq!((first(&before), before.iter().filter(|record| is_dead(record)).count()), (10, 10));

    // A host that runs compares them, and leaves the letters.
    scene.mend(&says("another"), &mut [&mut host])?;
    wait_for("a replay that is past a host's first minute", BOUND, || {
        let (_, told) = host.replay()?;
        Ok(told["left_because"]
            .to_string()
            .contains("what is in ReductStore under their identity differs")
            .then_some(()))
    })?;
    host.sink.stop_cleanly()?;
    assert_eq!(scene.stored().await?, before, "it changed nothing");

    let file = host.sink.folder().join("sink.toml");
    let output = run_to_end(&["replay", "--write", "--config", &file.display().to_string()], &[], BOUND)?;
    let told = text(&output);
    assert!(output.status.code() == Some(1) && told.contains("differs from what the plugins make"), "{told}");
    assert_eq!(scene.stored().await?, before, "nor did the replay without a host: {told}");

    // The plugin that made those records counts as proof.
    std::fs::write(&scene.plugin, guest::guest(&says("first")))?;
    let output = run_to_end(&["replay", "--write", "--config", &file.display().to_string()], &[], BOUND)?;
    let told = text(&output);
    assert!(output.status.success() && told.contains("10 outputs were there already"), "{told}");
    let after = scene.stored().await?;
    assert_eq!((first(&after), after.len(), after.iter().any(is_dead)), (10, 40, false), "{told}");
    Ok(())
}
