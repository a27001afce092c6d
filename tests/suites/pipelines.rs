//! Tests several pipelines in one process: each has its own topics, chain, store and state; a pipeline that fails
//! doesn't stop the others, is reported under its name, and is started again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{
    Load, Message, Sink, SinkConfig, Store, bed, figures, payload, process, read_back, sized, unique,
};
use serde_json::Value;

use crate::guest::guest;
use crate::operate::{address, get};

const BOUND: Duration = Duration::from_secs(120);

fn json(address: &str, path: &str) -> Result<(u16, Value)> {
    let (code, body) = get(address, path)?;
    Ok((code, serde_json::from_str(&body).with_context(|| format!("{path}: {body:?} is no JSON"))?))
}

/// Waits until `/health` has a problem with this code of this pipeline. Returns its message.
fn wait_problem(sink: &mut Sink, address: &str, pipeline: &str, code: &str) -> Result<String> {
    let mut last = String::new();
    let found = process::wait_for(&format!("the problem {code} of {pipeline}"), BOUND, || {
        sink.process().expect_running()?;
        let Ok((_, health)) = json(address, "/health") else { return Ok(None) };
        last = health.to_string();
        let problems = health["problems"].as_array().cloned().unwrap_or_default();
        let found = problems.into_iter().find(|problem| problem["code"] == code && problem["pipeline"] == pipeline);
        Ok(found.map(|problem| problem["message"].as_str().unwrap_or_default().to_owned()))
    });
    found.with_context(|| last)
}

fn wait_healthy(sink: &mut Sink, address: &str) -> Result<()> {
    let mut last = String::new();
    let healthy = process::wait_for("all pipelines to be well", BOUND, || {
        sink.process().expect_running()?;
        let Ok((code, health)) = json(address, "/health") else { return Ok(None) };
        last = health.to_string();
        Ok((code == 200).then_some(()))
    });
    healthy.with_context(|| format!("{last}\n{}", sink.log().unwrap_or_default()))
}

/// Runs a command for the host at this address. Returns its exit code and its output.
fn command(address: &str, args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = run_to_end(&[args, &["--status", address]].concat(), &[], BOUND)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

/// Of three pipelines, the store of one refuses it and the plugin of another one doesn't load. Both are repaired while
/// the third one delivers.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_start_does_not_stop_the_others_and_starts_when_it_is_mended() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let guarded = Store::start_with(Some("secret"), &[])?;
    let [well, refused, broken] = ["well", "refused", "broken"].map(unique);
    for topic in [&well, &refused, &broken] {
        kafka.create_topic(topic, 2)?;
    }
    let (folder, address) = (process::data_folder("broken")?, address()?);
    let file = folder.path().join("broken.wasm");
    std::fs::write(&file, "not WebAssembly")?;
    let of_well = bed.sink_config(&well).set("status.listen", address.as_str());
    let of_refused = SinkConfig::new(&bed.kafka.brokers(), &guarded.url(), &unique("refused")).topics(&[&refused]);
    let of_broken = bed.sink_config(&broken).plugin("broken", &file, "")?;
    let several =
        |refused: &SinkConfig| SinkConfig::several(&[("well", &of_well), ("refused", refused), ("broken", &of_broken)]);
    let mut sink = Sink::start(&several(&of_refused))?;
    let load = Load::start(&kafka, &well, sized(150, 500, 500), |n| Message::new(payload(n, 300)))?;
    let waiting = |topic: &str| kafka.produce(topic, (0..300).map(|n| Message::new(payload(n, 300))));
    let (in_refused, in_broken) = (waiting(&refused)?, waiting(&broken)?);

    let why = wait_problem(&mut sink, &address, "refused", "pipeline.failed")?;
    ensure!(why.contains("check store.token") && why.contains("started again"), "{why}");
    let why = wait_problem(&mut sink, &address, "broken", "pipeline.failed")?;
    ensure!(!why.contains("is text"), "a caller who may not act sees no cause: {why}");
    process::wait_for("records of the one that is well", BOUND, || {
        sink.process().expect_running()?;
        let Ok((_, status)) = json(&address, "/status?pipeline=well") else { return Ok(None) };
        Ok((status["written"].as_u64() > Some(200)).then_some(()))
    })?;
    // What went wrong while its group began may be shown until the next look.
    process::wait_until("the two that failed to be the only problems", BOUND, || {
        let (code, ready) = json(&address, "/readyz")?;
        let problems = ready["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of = |name: &str| problems.iter().any(|problem| problem["pipeline"] == name);
        ensure!(code == 503 && problems.len() == 2 && of("refused") && of("broken"), "{code} {ready}");
        for (name, code) in [("well", 200), ("refused", 503), ("broken", 503), ("none", 404)] {
            let (told, body) = get(&address, &format!("/health?pipeline={name}"))?;
            ensure!(told == code, "{name}: {told} {body}");
        }
        let (_, metrics) = get(&address, "/metrics")?;
        for line in
            ["reduct_sink_problem{pipeline=\"refused\",code=\"pipeline.failed\"} 1", "healthy{pipeline=\"well\"} 1"]
        {
            ensure!(metrics.contains(line), "{line}\n{metrics}");
        }
        Ok(())
    })?;
    ensure!(get(&address, "/livez")?.0 == 200, "a restart would only stop the one that is well");
    let (_, status) = json(&address, "/status")?;
    let of = |name: &str, key: &str| status["pipelines"][name][key].clone();
    ensure!(of("well", "written").as_u64() > Some(0), "{status}");
    ensure!(of("refused", "written") == 0 && of("refused", "pipeline_failures").as_u64() > Some(0), "{status}");
    let told = command(&address, &["status"])?.1;
    ensure!(
        ["pipeline broken (failed", "pipeline refused (failed", "pipeline well\n"]
            .iter()
            .all(|part| told.contains(part)),
        "{told}"
    );
    ensure!(told.contains("is text, not a component"), "who may act sees the cause: {told}");

    // Both are repaired while the third pipeline goes on.
    sink.reconfigure(&several(&of_refused.clone().set("store.token", "secret")))?;
    std::fs::write(&file, guest(r#"(call $label $"mended" $"yes") (call $change)"#))?;
    let in_well = load.finish()?;
    for (config, topic) in [(&of_well, &well), (&of_refused, &refused), (&of_broken, &broken)] {
        sink.wait_caught_up(&kafka, config.group(), &[topic], BOUND)?;
    }
    wait_healthy(&mut sink, &address)?;
    let log = sink.log()?;
    ensure!(log.lines().any(|line| line.contains(" running ") && line.contains("pipeline=\"refused\"")), "{log}");
    ensure!(!log.lines().any(|line| line.contains("pipeline=\"well\"") && line.contains("ERROR")), "{log}");
    sink.stop_cleanly()?;
    for (config, store, produced) in
        [(&of_well, &bed.store, in_well), (&of_refused, &guarded, in_refused), (&of_broken, &bed.store, in_broken)]
    {
        let stored = read_back(&store.client()?, config.bucket(), "*").await?;
        compare(&produced, &stored)?.exact()?;
        let mended = stored.iter().filter(|record| record.labels.contains_key("mended")).count();
        ensure!(mended == if config.bucket() == of_broken.bucket() { 300 } else { 0 }, "{mended}");
    }
    figures::record("pipelines", 3.0)
}

/// A plugin is swapped in one pipeline, and that pipeline is paused. Neither affects the other pipeline, although it
/// reads the same topic and its plugin has the same name.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_one_does_not_touch_the_other() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (topic, folder, address) = (unique("shared"), process::data_folder("apart")?, address()?);
    kafka.create_topic(&topic, 2)?;
    let version = |number: u32| guest(&format!(r#"(call $label $"version" $"{number}") (call $change)"#));
    let files = ["one", "two"].map(|name| folder.path().join(format!("{name}.wasm")));
    files.iter().try_for_each(|file| std::fs::write(file, version(1)))?;
    let config = |file| bed.sink_config(&topic).set("status.listen", address.as_str()).plugin("mark", file, "");
    let (one, two) = (config(&files[0])?, config(&files[1])?);
    let mut sink = Sink::start(&SinkConfig::several(&[("one", &one), ("two", &two)]))?;
    wait_healthy(&mut sink, &address)?;
    let load = Load::start(&kafka, &topic, sized(120, 400, 400), |n| Message::new(payload(n, 300)))?;
    let plugin =
        |name: &str| Ok::<_, anyhow::Error>(json(&address, "/status")?.1["pipelines"][name]["plugins"][0].clone());
    let (before, other) = (plugin("one")?, plugin("two")?);

    let new = folder.path().join("new");
    std::fs::write(&new, version(2))?;
    std::fs::rename(new, &files[0])?;
    process::wait_for("the swap", BOUND, || {
        sink.process().expect_running()?;
        Ok((plugin("one")?["digest"] != before["digest"]).then_some(()))
    })?;
    let after = plugin("two")?;
    ensure!(after["digest"] == other["digest"] && after["since_s"] == other["since_s"], "{after}");
    ensure!(json(&address, "/status?pipeline=two")?.1["swaps"].as_array().is_some_and(Vec::is_empty));

    // The chain of the other one changes by the configuration; this one's stays.
    let longer = two.clone().plugin("more", &files[1], "")?;
    let three = bed.sink_config(&topic);
    sink.reconfigure(&SinkConfig::several(&[("one", &one), ("three", &three), ("two", &longer)]))?;
    sink.wait_log("the file has the pipelines one, three, two now, and the process runs one, two", BOUND)?;
    sink.reconfigure(&SinkConfig::several(&[("one", &one), ("two", &longer)]))?;
    let chain = |name: &str| {
        let status = json(&address, "/status")?.1;
        Ok::<_, anyhow::Error>(status["pipelines"][name]["plugins"].as_array().map_or(0, Vec::len))
    };
    process::wait_for("the longer chain", BOUND, || {
        sink.process().expect_running()?;
        Ok((chain("two")? == 2).then_some(()))
    })?;
    ensure!(chain("one")? == 1 && plugin("one")?["digest"] != before["digest"], "{:?}", plugin("one")?);

    let file = sink.folder().join("sink.toml");
    let with_file = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let output = run_to_end(&[args, &["--config", file.to_str().context("UTF-8")?]].concat(), &[], BOUND)?;
        Ok((output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
    };
    let (code, told) = with_file(&["check"])?;
    let lines = [format!("ok      one: topic {topic}: "), format!("ok      two: bucket {}: there", two.bucket())];
    ensure!(code == Some(0) && lines.iter().all(|line| told.contains(line)), "{lines:?} {code:?} {told}");
    let (code, told) = with_file(&["run", "--dry-run"])?;
    ensure!(code == Some(2) && told.contains("--pipeline: one, two"), "{code:?} {told}");
    let (code, told) = with_file(&["run", "--dry-run", "--count", "5", "--pipeline", "two"])?;
    ensure!(code == Some(0) && told.contains("nothing was written or committed"), "{code:?} {told}");

    let (code, told) = command(&address, &["pause"])?;
    ensure!(
        code == Some(1) && told.contains("choose one with --pipeline NAME") && told.contains("one, two"),
        "{code:?} {told}"
    );
    ensure!(command(&address, &["pause", "--pipeline", "three"])?.1.contains("there are: one, two"));
    let (code, told) = command(&address, &["pause", "--pipeline", "one"])?;
    ensure!(code == Some(0), "{told}");
    wait_problem(&mut sink, &address, "one", "paused")?;
    let mut produced = load.finish()?;
    // These come after the pause, however soon it was shown.
    produced.extend(kafka.produce(&topic, (0..100).map(|n| Message::new(payload(n, 300))))?);
    sink.wait_caught_up(&kafka, two.group(), &[&topic], BOUND)?;
    ensure!(kafka.group(one.group())?.lag(&topic)? > 0, "it is paused");
    for args in [&["tap", "--count", "1"][..], &["plugin", "rollback", "mark"], &["replay", "--running"]] {
        let (code, told) = command(&address, args)?;
        ensure!(code == Some(1) && told.contains("one, two"), "{args:?}: {code:?} {told}");
    }
    let (code, told) = command(&address, &["plugin", "rollback", "mark", "--pipeline", "one"])?;
    ensure!(code == Some(0), "{told}");
    ensure!(command(&address, &["resume", "--pipeline", "one"])?.0 == Some(0));
    sink.wait_caught_up(&kafka, one.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()?;
    for (name, config) in [("one", &one), ("two", &two)] {
        let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
        compare(&produced, &stored)?.exact().context(name)?;
        let swapped = stored.iter().filter(|record| record.labels["version"] == "2").count();
        ensure!((swapped > 0) == (name == "one"), "{name}: {swapped} by the new version");
    }
    Ok(())
}

/// A pipeline that fails while it runs is started again, and its records are stored once. The process ends by itself
/// only if it can start none of its pipelines.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_is_started_again_and_a_process_without_any_ends() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let [well, stopped] = ["well", "stopped"].map(unique);
    for topic in [&well, &stopped] {
        kafka.create_topic(topic, 1)?;
    }
    let (folder, address) = (process::data_folder("stop")?, address()?);
    let file = folder.path().join("stop.wasm");
    std::fs::write(&file, guest("unreachable"))?;
    let of_well = bed.sink_config(&well).set("status.listen", address.as_str());
    let of_stopped = bed.sink_config(&stopped).plugin_with("stop", &file, "on_failure = 'stop'")?;
    let mut sink = Sink::start(&SinkConfig::several(&[("well", &of_well), ("stopped", &of_stopped)]))?;
    wait_healthy(&mut sink, &address)?;
    let produce = |topic: &str| kafka.produce(topic, (0..200).map(|n| Message::new(payload(n, 300))));
    let in_stopped = produce(&stopped)?;
    wait_problem(&mut sink, &address, "stopped", "pipeline.failed")?;
    let in_well = produce(&well)?;
    sink.wait_caught_up(&kafka, of_well.group(), &[&well], BOUND)?;
    ensure!(get(&address, "/livez")?.0 == 200);
    std::fs::write(&file, guest("(call $keep)"))?;
    sink.wait_caught_up(&kafka, of_stopped.group(), &[&stopped], BOUND)?;
    wait_healthy(&mut sink, &address)?;
    sink.stop_cleanly()?;
    for (config, produced) in [(&of_well, in_well), (&of_stopped, in_stopped)] {
        compare(&produced, &read_back(&bed.store.client()?, config.bucket(), "*").await?)?.exact()?;
    }

    std::fs::write(&file, "not WebAssembly")?;
    let config = |topic| bed.sink_config(topic).plugin("broken", &file, "");
    let mut sink = Sink::start(&SinkConfig::several(&[("a", &config(&well)?), ("b", &config(&stopped)?)]))?;
    let status = sink.process().wait(BOUND)?;
    ensure!(status.code() == Some(3), "{status}: {}", sink.log()?);
    Ok(())
}
