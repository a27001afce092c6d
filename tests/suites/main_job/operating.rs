//! Tests how an operator handles a running host: `status`, `plugin promote` and `plugin rollback`, a changed
//! configuration, and SIGHUP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Load, Message, Sink, bed, guest, payload, process, read_back, sized, unique};
use serde_json::Value;

use super::{CATCH_UP, assert_exact};

const BOUND: Duration = Duration::from_secs(60);

/// Runs the host's own client commands against the address of a running host.
struct Operator(String);

impl Operator {
    fn ask(&self, command: &[&str]) -> Result<String> {
        let output = run_to_end(command, &[("REDUCT_SINK_STATUS_LISTEN", &self.0)], BOUND)?;
        let (told, failed) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        ensure!(output.status.success(), "{command:?} ended with {}: {failed}", output.status);
        Ok(told)
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(&["status", "--json"])?)?)
    }

    /// The value that the status has under `key` for each plugin, in the chain's order.
    fn plugins(&self, key: &str) -> Result<Vec<String>> {
        let status = self.status()?;
        let plugins = status["plugins"].as_array().context("no plugins")?;
        Ok(plugins.iter().map(|plugin| plugin[key].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn wait_for_swap(&self, sink: &mut Sink, outcome: &str) -> Result<Value> {
        process::wait_for(&format!("a swap that is {outcome}"), CATCH_UP, || {
            sink.process().expect_running()?;
            let status = self.status()?;
            let last = status["swaps"].as_array().and_then(|swaps| swaps.last()).cloned().unwrap_or_default();
            Ok((last["outcome"] == outcome).then_some(last))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_promotes_a_version_and_takes_it_back() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("operated");
    kafka.create_topic(&topic, 2)?;
    let folder = process::data_folder("plugin")?;
    let file = folder.path().join("plugin.wasm");
    let component = guest::passthrough()?;
    guest::replace(&file, &guest::version(&component, "version 0"))?;
    let operator = Operator(format!("127.0.0.1:{}", process::free_port()?));
    let config = bed.sink_config(&topic).set("status.listen", operator.0.as_str()).plugin_with(
        "swapped",
        &file,
        "trial = { mode = 'manual', records = 50, every = 1 }",
    )?;
    let load = Load::start(&kafka, &topic, sized(90, 300, 300), |n| Message::new(payload(n, 300)))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    let [first] = operator.plugins("digest")?.try_into().ok().context("one plugin")?;

    // No version is on trial yet.
    let refused = operator.ask(&["plugin", "promote", "swapped"]).err().context("nothing to promote")?;
    ensure!(refused.to_string().contains("plugin swapped has"), "{refused:#}");
    let refused = operator.ask(&["plugin", "promote", "swaped"]).err().context("no such plugin")?;
    for part in ["exit status: 1", "the chain has no plugin swaped; it has: swapped"] {
        ensure!(refused.to_string().contains(part), "{refused:#}");
    }
    guest::replace(&file, &guest::version(&component, "version 1"))?;
    let report = operator.wait_for_swap(&mut sink, "awaits-promotion")?;
    ensure!(report["trial"]["records"] == 50 && report["trial"]["same"] == 50, "{report}");
    ensure!(operator.plugins("digest")? == [first.as_str()], "it isn't promoted yet");

    operator.ask(&["plugin", "promote", "swapped"])?;
    let [second] = operator.plugins("digest")?.try_into().ok().context("one plugin")?;
    ensure!(second != first && report["new"] == second.as_str(), "{second} isn't the new one");
    // The new version must handle some records before it is rolled back.
    process::wait_for("records under the new version", CATCH_UP, || {
        Ok((operator.status()?["plugins"][0]["kept"].as_u64() > Some(100)).then_some(()))
    })?;
    operator.ask(&["plugin", "rollback", "swapped"])?;
    ensure!(operator.plugins("digest")? == [first.as_str()], "it isn't taken back");
    let table = operator.ask(&["status"])?;
    ensure!(table.contains("rolled-back") && table.contains(&first[..12]), "{table}");

    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    assert_exact(&produced, &stored)?;
    for digest in [&first, &second] {
        let mark = format!("swapped@{}", &digest[..8]);
        ensure!(stored.iter().any(|record| record.label("sink.plugins").is_some_and(|label| label.starts_with(&mark))));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_is_taken_up_and_a_wrong_one_is_told() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("reloaded");
    kafka.create_topic(&topic, 1)?;
    let folder = process::data_folder("plugin")?;
    let (one, other) = (folder.path().join("one.wasm"), folder.path().join("other.wasm"));
    std::fs::copy(guest::plugin("filter")?, &one)?;
    let rules = "on_match = 'drop'\nrules = [{ field = 'header:kind', equals = 'debug' }]";
    let operator = Operator(format!("127.0.0.1:{}", process::free_port()?));
    let config = bed.sink_config(&topic).set("status.listen", operator.0.as_str()).plugin("filter", &one, rules)?;
    let load = Load::start(&kafka, &topic, sized(90, 300, 300), |n| Message::new(payload(n, 300)))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    // Some records go through the first chain.
    let group = kafka.group(config.group())?;
    process::wait_for("records through the shorter chain", CATCH_UP, || {
        let committed = group.committed(&topic).unwrap_or_default();
        Ok((committed.iter().map(|(_, offset)| offset).sum::<u64>() > 300).then_some(()))
    })?;
    let rewrite = |sink: &Sink, text: &str| std::fs::write(sink.folder().join("sink.toml"), text);

    // Without a change SIGHUP harms nothing.
    sink.process().signal(libc::SIGHUP)?;
    sink.wait_log("nothing changed in the chain", CATCH_UP)?;

    rewrite(&sink, &config.text().replace("'drop'", "'dorp'").replace("\"drop\"", "\"dorp\""))?;
    sink.wait_log("isn't applied", CATCH_UP)?;
    rewrite(&sink, "[kafka\n")?;
    sink.wait_log("the changed configuration is wrong", CATCH_UP)?;

    // The file of the new plugin is missing and isn't watched yet; SIGHUP tells the host that it is there.
    let longer = config.clone().plugin("relabel", &other, "steps = [{ set = 'site', value = 'plant-1' }]")?;
    let refusals = |sink: &Sink| Ok::<_, anyhow::Error>(sink.log()?.matches("other.wasm").count());
    let before = refusals(&sink)?;
    rewrite(&sink, &longer.text())?;
    process::wait_for("word of the missing file", CATCH_UP, || Ok((refusals(&sink)? > before).then_some(())))?;
    ensure!(operator.plugins("name")? == ["filter"], "the old chain doesn't go on");
    std::fs::copy(guest::plugin("relabel")?, &other)?;
    sink.process().signal(libc::SIGHUP)?;
    process::wait_for("the longer chain", CATCH_UP, || {
        Ok((operator.plugins("name")? == ["filter", "relabel"]).then_some(()))
    })?;

    let before = load.sent();
    process::wait_for("records through it", CATCH_UP, || Ok((load.sent() > before + 300).then_some(())))?;
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    assert_exact(&produced, &stored)?;
    let labelled = stored.iter().filter(|record| record.label("site") == Some("plant-1")).count();
    ensure!((1..stored.len()).contains(&labelled), "{labelled} of {} went through the longer chain", stored.len());
    Ok(())
}
