//! SIGTERM while plugins misbehave: the host ends in time, whatever they are at.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Message, Sink, all, bed, figures, payload, process, unique};

use super::misdeeds::Misdeed;
use super::{CATCH_UP, at_work, by_answers, by_tables, by_wasi, has_died};
use crate::guest::Guest;

/// `limits.shutdown` is as long by default.
const STOP_WITHIN: f64 = 25.0;
const KEEP: &str = "(call $keep)";

/// Each misdeed has a topic of its own, of which no record is spared; two workers are at them when the signal comes.
#[test]
fn sigterm_ends_the_host_under_each_hostile_plugin() -> Result<()> {
    let misdeeds: Vec<Misdeed> =
        [at_work::all(), by_wasi::all(), by_answers::all(), by_tables::all()].into_iter().flatten().collect();
    // With as few at a time, each is at work at the signal.
    let together = if all() { 4 } else { 40 };
    let mut slowest: f64 = 0.0;
    for some in misdeeds.chunks(together) {
        let names: Vec<&str> = some.iter().map(|misdeed| misdeed.name).collect();
        slowest = slowest.max(stopped_under(some).with_context(|| names.join(", "))?);
    }
    figures::record("stopped_under_components", misdeeds.len() as f64)?;
    figures::record("slowest_stop_under_attack_s", slowest)?;
    Ok(())
}

fn stopped_under(misdeeds: &[Misdeed]) -> Result<f64> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let folder = process::data_folder("stops")?;
    let topics: Vec<String> = misdeeds.iter().map(|misdeed| unique(misdeed.name)).collect();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut config = bed.sink_config(&topics[0]).topics(&names).set("cache.path", "").set("limits.workers", 2);
    for (misdeed, topic) in misdeeds.iter().zip(&topics) {
        kafka.create_topic(topic, 1)?;
        kafka.produce(topic, (0..100).map(|n| Message::new(payload(n, 500))))?;
        let path = folder.path().join(format!("{}.wasm", misdeed.name));
        std::fs::write(&path, misdeed.component_for_all())?;
        let keys = format!(
            "timeout = '200ms'\nmemory = '8MB'\nattempts = 2\nlimits.verdict = '1MB'\nwhen.topics = ['{topic}']\n{}",
            misdeed.keys
        );
        config = config.plugin_with(misdeed.name, &path, &keys)?;
    }
    let mut sink = Sink::start(&config)?;
    sink.wait_log("assigned partitions=[\"", CATCH_UP)?;
    std::thread::sleep(Duration::from_millis(1000));
    ensure!(!has_died(&mut sink), "the host died: {}", sink.log()?);
    end(&mut sink)
}

fn end(sink: &mut Sink) -> Result<f64> {
    let started = Instant::now();
    sink.stop_cleanly()?;
    let took = started.elapsed().as_secs_f64();
    ensure!(took <= STOP_WITHIN, "the stop took {took} s");
    Ok(took)
}

/// A good plugin is at work, and another version of it is being loaded when the signal comes.
#[test]
fn sigterm_ends_the_host_while_a_plugin_hangs_in_its_start() -> Result<()> {
    let bed = bed()?;
    let topic = unique("starts");
    bed.kafka.client().create_topic(&topic, 1)?;
    let folder = process::data_folder("starts")?;
    let path = folder.path().join("plugin.wasm");
    let config = bed.sink_config(&topic).set("cache.path", "").plugin_with("plugin", &path, "memory = '8MB'")?;
    let configure = |body: &str| Guest::new(KEEP).configure(body).build();
    let started = |fields: &str| Guest::new(KEEP).configure("(i32.const 0)").importing(fields, "", "transform").build();
    let mut slowest: f64 = 0.0;
    for (name, component) in [
        ("an endless configure", configure("(loop $ever (br $ever)) unreachable")),
        ("an endless start", started("(func $go (loop $ever (br $ever))) (start $go)")),
        (
            "a configure that fills its memory",
            configure(
                "(loop $ever (memory.fill (i32.const 0) (i32.const 1) (i32.const 200000)) (br $ever)) unreachable",
            ),
        ),
        ("a component that is long to compile", long_to_compile()),
    ] {
        std::fs::write(&path, Guest::new(KEEP).build())?;
        let mut sink = Sink::start(&config)?;
        sink.wait_log("running", CATCH_UP)?;
        reduct_sink_testbed::guest::replace(&path, &component)?;
        // The file is looked at when it has been quiet for a while.
        std::thread::sleep(Duration::from_millis(1500));
        slowest = slowest.max(end(&mut sink).with_context(|| name)?);
    }
    // The same at the first start, where nothing runs yet.
    std::fs::write(&path, configure("(loop $ever (br $ever)) unreachable"))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("starting", CATCH_UP)?;
    slowest = slowest.max(end(&mut sink).context("an endless configure at the start")?);
    figures::record("slowest_stop_while_starting_s", slowest)
}

/// Many large functions: some seconds of work for the compiler.
fn long_to_compile() -> Vec<u8> {
    let body = "(local.set $i (i32.mul (i32.add (local.get $i) (i32.const 7)) (local.get $n)))".repeat(400);
    let functions: String = (0..300).map(|n| format!("(func $f{n} (local $i i32) (local $n i32) {body})")).collect();
    Guest::new(KEEP).defining(&functions).build()
}
