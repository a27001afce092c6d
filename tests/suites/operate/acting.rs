//! Tests what a person who may act can do with a running host: pause and resume, tap, a replay and a dry run of it. Tests also
//! that the host reports files that would keep it from starting again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Message, Sink, SinkConfig, Stored, bed, payload, process, read_back, unique};
use serde_json::Value;

use super::picky::{MENDED, PICKY, PickyHost};
use super::{BOUND, SHOWN_WITHIN, address, get, status, wait_healthy, wait_problem, wait_ready};
use crate::guest;

/// Runs a command for the host at this address. Returns its exit code and its output.
fn command(address: &str, args: &[&str]) -> Result<(Option<i32>, String)> {
    let args = [args, &["--status", address]].concat();
    let output = run_to_end(&args, &[], BOUND)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

fn position(address: &str) -> Result<u64> {
    let status = status(address)?;
    let partitions = status["partitions"].as_array().context("partitions")?;
    Ok(partitions.iter().filter_map(|partition| partition["position"].as_u64()).sum())
}

#[test]
fn a_pause_reads_nothing_more_and_is_shown_until_it_ends() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("paused");
    kafka.create_topic(&topic, 2)?;
    let address = address()?;
    let config = bed.sink_config(&topic).set("status.listen", address.as_str()).set("limits.stuck_after", "5s");
    let mut sink = Sink::start(&config)?;
    wait_healthy(&mut sink, &address)?;
    let batch = || (0..200).map(|n| Message::new(payload(n, 100)).partition((n % 2) as i32));
    kafka.produce(&topic, batch())?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    let (code, told) = command(&address, &["pause", "--topic", "misspelt"])?;
    ensure!(code == Some(1) && told.contains(&topic), "{code:?} {told}");
    let (code, told) = command(&address, &["pause", "--topic", &topic, "--json"])?;
    ensure!(code == Some(0) && told.contains("is paused"), "{code:?} {told}");
    let message = wait_problem(&mut sink, &address, "paused")?;
    ensure!(message.contains(&topic) && message.contains("reduct-sink resume"), "{message}");
    kafka.produce(&topic, batch())?;
    // This is longer than `stuck_after`, and longer than the host takes to look at the end of an idle partition.
    std::thread::sleep(Duration::from_secs(15));
    ensure!(position(&address)? == 200, "{}", status(&address)?);
    let (_, health) = super::health(&address)?;
    ensure!(!health.to_string().contains("partition.stuck"), "a pause is no stuck partition: {health}");
    process::wait_until("the pause to be the only problem", SHOWN_WITHIN, || {
        let (_, health) = super::health(&address)?;
        ensure!(health["problems"].as_array().map(Vec::len) == Some(1), "{health}");
        Ok(())
    })?;
    wait_ready(&address).context("no restart would help")?;
    ensure!(status(&address)?["paused"]["topics"][0] == topic.as_str(), "{}", status(&address)?);
    let (code, told) = command(&address, &["resume"])?;
    ensure!(code == Some(0), "{told}");
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    wait_healthy(&mut sink, &address)?;
    ensure!(command(&address, &["resume"])?.0 == Some(1), "nothing is paused");

    // This pauses the whole host, also for partitions that are assigned later; a restart ends the pause.
    ensure!(command(&address, &["pause"])?.0 == Some(0));
    kafka.produce(&topic, batch())?;
    sink.stop_cleanly()?;
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()
}

#[test]
fn a_tap_shows_records_and_what_the_plugins_made_of_them() -> Result<()> {
    let PickyHost { kafka, topic, address, config, mut sink, folder: _folder, .. } = PickyHost::start("tapped", "")?;
    ensure!(
        get(&address, "/tap?id=x")?.0 == 403 && get(&address, "/dead-letters")?.0 == 403,
        "records are for those who may act"
    );
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let producing = {
        let (stop, topic, kafka) = (stop.clone(), topic.clone(), bed()?.kafka.client());
        std::thread::spawn(move || -> Result<()> {
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let message = Message::new(format!("frame {n}")).key(format!("key {n}"));
                let message = if n % 50 == 7 {
                    message.header("camera", "left")
                } else {
                    message.header("a", "1").header("camera", "right")
                };
                kafka.produce(&topic, [message])?;
                n += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
    };
    let tapped = |more: &[&str]| -> Result<Vec<Value>> {
        let (code, told) = command(&address, &[&["tap", "--json", "--count", "3"][..], more].concat())?;
        ensure!(code == Some(0), "{told}");
        told.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let failed = tapped(&["--verdict", "failure"])?;
    ensure!(failed.len() == 3, "{failed:?}");
    for record in &failed {
        ensure!(record["outcome"] == "dead-letter" && record["plugins"][0]["verdict"] == "failure", "{record}");
        ensure!(record["reason"].as_str().is_some_and(|reason| reason.contains("no such camera")), "{record}");
        ensure!(record["payload"].as_str().is_some_and(|payload| payload.starts_with("frame ")), "{record}");
    }
    let right = tapped(&["--label", "camera=right", "--topic", &topic])?;
    for record in &right {
        ensure!(record["outcome"] == "written" && record["outputs"][0]["labels"]["camera"] == "right", "{record}");
    }
    let (code, told) = command(&address, &["tap", "--count", "1"])?;
    ensure!(code == Some(0) && told.contains("picky keep") && told.contains("→ written"), "{told}");
    let (code, told) = command(&address, &["tap", "--verdict", "keeps"])?;
    ensure!(code == Some(1) && told.contains("there is no verdict keeps"), "{told}");
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    producing.join().expect("the producer doesn't panic")?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()
}

fn is_dead(record: &Stored) -> bool {
    record.entry.starts_with("dead-letters/")
}

/// A dry run of a replay changes nothing, and reports what `replay --running --write` then does, while the host runs on.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_host_tries_a_replay_and_then_does_it() -> Result<()> {
    let PickyHost { kafka, topic, plugin, address, config, mut sink, folder: _folder } =
        PickyHost::start("replayed", "")?;
    let bed = bed()?;
    let message = |n: u64| {
        let message = Message::new(payload(n, 300)).partition((n % 2) as i32);
        if n.is_multiple_of(10) { message.header("camera", "x") } else { message }
    };
    let produced = kafka.produce(&topic, (0..2000).map(message))?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    let stored = || async { read_back(&bed.store.client()?, config.bucket(), "*").await };
    let before = stored().await?;
    ensure!(before.iter().filter(|record| is_dead(record)).count() == 200);

    // With the unchanged plugin each record fails as before; the host's own figures and circuit breakers don't count
    // this.
    let figures = || -> Result<(Value, Value)> {
        let status = status(&address)?;
        Ok((status["plugins"][0]["failed"].clone(), status["plugins"][0]["breaker_open"].clone()))
    };
    let before_the_dry_run = figures()?;
    let (code, told) = command(&address, &["replay", "--running"])?;
    ensure!(code == Some(0) && told.contains("200 failing") && told.contains("no such camera"), "{told}");
    ensure!(figures()? == before_the_dry_run, "{:?}, then {:?}", before_the_dry_run, figures()?);
    ensure!(stored().await? == before, "a dry run changes nothing");
    let refused = super::request(
        &address,
        &format!("POST /replay?write=true HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    )?;
    ensure!(refused.0 == 403, "it is for those who may act: {refused:?}");
    // A replay that fails for all changes nothing either.
    let (code, told) = command(&address, &["replay", "--running", "--write"])?;
    ensure!(code == Some(1) && told.contains("replay ended") && told.contains("200 failing"), "{code:?} {told}");
    ensure!(figures()? == before_the_dry_run, "{:?}, then {:?}", before_the_dry_run, figures()?);
    ensure!(stored().await? == before, "it changed something");

    std::fs::write(&plugin, guest::guest(MENDED))?;
    process::wait_for("the mended version", BOUND, || {
        let swaps = status(&address)?["swaps"].as_array().cloned().unwrap_or_default();
        Ok(swaps.iter().any(|swap| swap["outcome"] == "baking" || swap["outcome"] == "active").then_some(()))
    })?;
    let (code, told) = command(&address, &["replay", "--running", "--json"])?;
    ensure!(code == Some(0) && told.contains("\"written\":200"), "{told}");
    ensure!(stored().await? == before, "a dry run changes nothing");
    // Another one is refused meanwhile, and the host says how far it is.
    let replaying = {
        let address = address.clone();
        std::thread::spawn(move || command(&address, &["replay", "--running", "--write"]))
    };
    process::wait_for("letters that wait to be removed", BOUND, || {
        let replay = status(&address)?["replay"].clone();
        Ok((replay["settling"] == 200 && replay["settled_in_s"].as_u64().is_some()).then_some(()))
    })?;
    let (code, told) = command(&address, &["replay", "--running", "--write"])?;
    ensure!(code == Some(1) && told.contains("a replay is running already"), "{code:?} {told}");
    let (_, told) = command(&address, &["status"])?;
    ensure!(told.contains("replay running") && told.contains("0 of 200 dead letters handled"), "{told}");
    ensure!(told.contains("; 200 remain: 200 done with and removed from the dead letters in "), "{told}");
    let (code, told) = replaying.join().map_err(|_| anyhow::anyhow!("the command panicked"))??;
    ensure!(code == Some(0) && told.contains("200 written") && told.contains("0 failing, 0 left"), "{told}");
    sink.stop_cleanly()?;
    let after = stored().await?;
    compare(&produced, &after)?.exact()?;
    ensure!(!after.iter().any(is_dead), "each is done with");
    ensure!(after.iter().filter(|record| record.label("mended").is_some()).count() == 200);
    Ok(())
}

#[test]
fn files_that_would_keep_it_from_starting_again_are_shown() -> Result<()> {
    let bed = bed()?;
    let topic = unique("next");
    bed.kafka.client().create_topic(&topic, 1)?;
    let folder = process::data_folder("next-start")?;
    let (plugin, file) = (folder.path().join("picky.wasm"), folder.path().join("sink.toml"));
    std::fs::write(&plugin, guest::guest(PICKY))?;
    let address = address()?;
    let config: SinkConfig =
        bed.sink_config(&topic).set("status.listen", address.as_str()).plugin("picky", &plugin, "")?;
    std::fs::write(&file, config.text())?;
    let mut sink = Sink::start_with(&["--config", file.to_str().context("UTF-8")?], &[])?;
    wait_healthy(&mut sink, &address)?;
    std::fs::write(&file, format!("{}\n[store\n", config.text()))?;
    let message = wait_problem(&mut sink, &address, "next-start")?;
    ensure!(message.contains("would go wrong") && message.contains("the configuration"), "{message}");
    wait_ready(&address).context("it still takes part")?;
    let (_, told) = command(&address, &["status"])?;
    ensure!(told.contains("next-start"), "{told}");
    std::fs::write(&file, config.text())?;
    wait_healthy(&mut sink, &address)?;

    std::fs::write(&plugin, b"no component")?;
    let message = wait_problem(&mut sink, &address, "next-start")?;
    ensure!(message.contains("the file of plugin picky"), "{message}");
    std::fs::write(&plugin, guest::guest(PICKY))?;
    wait_healthy(&mut sink, &address)?;
    std::fs::remove_file(&plugin)?;
    let message = wait_problem(&mut sink, &address, "next-start")?;
    ensure!(message.contains("the file of plugin picky") && !message.contains("there is no file"), "{message}");
    ensure!(command(&address, &["status"])?.1.contains("there is no file"), "a caller who may act sees why");
    std::fs::write(&plugin, guest::guest(PICKY))?;
    wait_healthy(&mut sink, &address)?;
    process::wait_for("the log to say so", SHOWN_WITHIN, || Ok(sink.log()?.contains("is right again").then_some(())))?;
    sink.stop_cleanly()
}
