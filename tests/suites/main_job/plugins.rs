//! Tests chains of this repository's plugins, and swaps by replacing a file.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use reduct_sink_testbed::guest;
use reduct_sink_testbed::verify::{Expected, compare};
use reduct_sink_testbed::{Load, Message, Sink, Stored, bed, payload, process, read_back, sized, unique};

use super::{CATCH_UP, assert_exact, find, run_through};

#[tokio::test]
async fn a_filter_drops_and_the_rest_is_exact() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("filter");
    kafka.create_topic(&topic, 2)?;
    let kinds = ["debug", "image", "scan"];
    let message = |n: u64| Message::new(payload(n, 300)).header("kind", kinds[n as usize % 3]);
    let produced = kafka.produce(&topic, (0..300).map(message))?;
    let rules = r#"
        on_match = "drop"
        rules = [{ field = "header:kind", equals = "debug" }]
    "#;
    let config = bed.sink_config(&topic).plugin("filter", &guest::plugin("filter")?, rules)?;
    let stored = run_through(bed, &config, &[&topic]).await?;
    let kept: Vec<Expected> =
        produced.iter().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, record)| record.into()).collect();
    assert_eq!(kept.len(), 200);
    compare(kept, &stored)?.exact()?;
    Ok(())
}

#[tokio::test]
async fn each_plugin_sees_what_the_ones_before_it_changed() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("chain");
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(
        &topic,
        [
            Message::new("left").header("camera", "left").header("noise", "1"),
            Message::new("right").header("camera", "right"),
            Message::new("none").header("size", "4"),
        ],
    )?;
    let relabel = r#"
        steps = [
            { rename = "camera", to = "side" },
            { set = "site", value = "plant-1" },
            { remove = "noise" },
        ]
    "#;
    let route = r#"
        limits.entries = ["cameras/*", "other"]
        config.rules = [{ when = [{ field = "label:side", exists = true }], entry = "cameras/{label:side}" }]
        config.default = "other"
    "#;
    let filter = r#"
        on_match = "drop"
        rules = [{ field = "entry", equals = "other" }]
    "#;
    let config = bed
        .sink_config(&topic)
        .plugin("relabel", &guest::plugin("relabel")?, relabel)?
        .plugin_with("route", &guest::plugin("route")?, route)?
        .plugin("filter", &guest::plugin("filter")?, filter)?;
    let stored = run_through(bed, &config, &[&topic]).await?;
    assert_exact(&produced[..2], &stored)?;
    for (record, side) in produced.iter().zip(["left", "right"]) {
        let stored = find(&stored, record);
        assert_eq!(stored.entry, format!("cameras/{side}"));
        assert_eq!((stored.label("side"), stored.label("site")), (Some(side), Some("plant-1")));
        assert_eq!((stored.label("camera"), stored.label("noise")), (None, None));
        let plugins = stored.label("sink.plugins").context("the plugins that handled it")?;
        let names: Vec<&str> = plugins.split('+').filter_map(|plugin| plugin.split('@').next()).collect();
        assert_eq!(names, ["relabel", "route", "filter"]);
    }
    Ok(())
}

#[tokio::test]
async fn without_plugins_records_are_written_as_they_come() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("bare");
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, (0..100).map(|n| Message::new(payload(n, 100)).header("n", n.to_string())))?;
    let stored = run_through(bed, &bed.sink_config(&topic).without_plugins(), &[&topic]).await?;
    assert_exact(&produced, &stored)?;
    assert!(stored.iter().all(|record| record.label("sink.plugins").is_none() && record.label("n").is_some()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_file_under_load_swaps_between_two_records() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("swap");
    kafka.create_topic(&topic, 4)?;
    let folder = process::data_folder("plugin")?;
    let file = folder.path().join("plugin.wasm");
    let component = guest::passthrough()?;
    guest::replace(&file, &guest::version(&component, "version 0"))?;
    let config = bed.sink_config(&topic).plugin("swapped", &file, "")?;
    let load = Load::start(&kafka, &topic, sized(150, 500, 500), |n| Message::new(payload(n, 1000)))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    let group = kafka.group(config.group())?;
    for version in 1..=4 {
        // Each version must handle some records before the next one is activated.
        let before = load.sent();
        process::wait_for("records under this version", CATCH_UP, || {
            sink.process().expect_running()?;
            let committed: u64 = group.committed(&topic).unwrap_or_default().iter().map(|(_, offset)| offset).sum();
            Ok((committed > before).then_some(()))
        })?;
        guest::replace(&file, &guest::version(&component, &format!("version {version}")))?;
        process::wait_for("word of the swap", CATCH_UP, || {
            sink.process().expect_running()?;
            Ok((sink.log()?.matches("swapped").count() >= version).then_some(()))
        })?;
    }
    let before = load.sent();
    process::wait_for("records under the last version", CATCH_UP, || Ok((load.sent() > before + 500).then_some(())))?;
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    assert_exact(&produced, &stored)?;
    assert_eq!(assert_one_version_after_the_other(&stored)?, 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_load_leaves_the_old_version_working() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("bad-swap");
    kafka.create_topic(&topic, 1)?;
    let folder = process::data_folder("plugin")?;
    let file = folder.path().join("plugin.wasm");
    let component = guest::passthrough()?;
    std::fs::write(&file, &component)?;
    let config = bed.sink_config(&topic).plugin("swapped", &file, "")?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    let mut produced = Vec::new();
    let bad: [(&str, Vec<u8>); 4] = [
        ("random", payload(7, 5000)),
        ("truncated", component[..component.len() / 2].to_vec()),
        ("core module", b"\0asm\x01\0\0\0".to_vec()),
        ("another world", b"\0asm\x0d\0\x01\0".to_vec()),
    ];
    for (n, (name, bytes)) in bad.iter().enumerate() {
        guest::replace(&file, bytes)?;
        process::wait_for(&format!("word of the {name} file"), CATCH_UP, || {
            sink.process().expect_running()?;
            Ok((sink.log()?.matches("doesn't load").count() > n).then_some(()))
        })?;
        produced.extend(kafka.produce(&topic, (0..50).map(|n| Message::new(payload(n, 100))))?);
        sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    }
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    assert_exact(&produced, &stored)?;
    assert_eq!(assert_one_version_after_the_other(&stored)?, 1);
    Ok(())
}

/// Expects that in each partition no earlier version follows a later one. Returns how many versions there were.
fn assert_one_version_after_the_other(stored: &[Stored]) -> Result<usize> {
    let mut partitions: BTreeMap<String, BTreeMap<u64, &str>> = BTreeMap::new();
    for record in stored {
        let identity = record.identity()?.context("a record without an identity")?;
        let version = record.label("sink.plugins").context("a record that no plugin handled")?;
        partitions.entry(identity.source).or_default().insert(identity.offset, version);
    }
    let mut all = Vec::new();
    for (source, offsets) in partitions {
        let mut versions: Vec<&str> = offsets.into_values().collect();
        versions.dedup();
        let mut once = versions.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), versions.len(), "{source} went back to a version: {versions:?}");
        all.extend(versions);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all.len())
}
