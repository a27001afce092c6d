//! Tests the command line as a person uses it: flags alone, variables alone, `check`, and the errors about wrong input.

use std::process::Output;
use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Message, Sink, Store, bed, payload, process, read_back, unique};

use super::{CATCH_UP, assert_exact};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test]
async fn flags_alone_run_the_passthrough() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (topic, bucket, group) = (unique("flags"), unique("bucket"), unique("group"));
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, (0..10).map(|n| Message::new(payload(n, 10)).header("n", n.to_string())))?;
    let (brokers, url) = (bed.kafka.brokers(), bed.store.url());
    let flags = ["--brokers", &brokers, "--topic", &topic, "--url", &url, "--bucket", &bucket, "--group", &group];
    let mut sink = Sink::start_with(&flags, &[])?;
    sink.wait_caught_up(&kafka, &group, &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, &bucket, &topic).await?;
    assert_exact(&produced, &stored)?;
    assert!(stored.iter().all(|record| record.label("sink.plugins").is_none()));
    Ok(())
}

#[tokio::test]
async fn variables_alone_run_it_too() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (topic, bucket, group) = (unique("variables"), unique("bucket"), unique("group"));
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, [Message::new("payload")])?;
    let environment = [
        ("REDUCT_SINK_BROKERS", bed.kafka.brokers()),
        ("REDUCT_SINK_TOPICS", topic.clone()),
        ("REDUCT_SINK_URL", bed.store.url()),
        ("REDUCT_SINK_BUCKET", bucket.clone()),
        ("REDUCT_SINK_GROUP", group.clone()),
    ];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut sink = Sink::start_with(&[], &environment)?;
    sink.wait_caught_up(&kafka, &group, &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&bed.store.client()?, &bucket, &topic).await?)
}

#[test]
fn check_says_that_all_is_well_and_consumes_nothing() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (topic, group) = (unique("check"), unique("group"));
    kafka.create_topic(&topic, 2)?;
    kafka.produce(&topic, [Message::new("payload")])?;
    let output = check(&[
        ("--brokers", &bed.kafka.brokers()),
        ("--url", &bed.store.url()),
        ("--topic", &topic),
        ("--bucket", "unused"),
        ("--group", &group),
    ])?;
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains(&topic) && text.contains("2 partitions") && text.contains("1.21"), "{text}");
    assert_eq!(kafka.group(&group)?.committed(&topic)?, []);
    Ok(())
}

#[test]
fn servers_that_cannot_be_reached_are_named() -> Result<()> {
    let bed = bed()?;
    let topic = unique("reach");
    bed.kafka.client().create_topic(&topic, 1)?;
    let nowhere = format!("127.0.0.1:{}", process::free_port()?);
    let url = format!("http://{nowhere}");
    let (brokers, store) = (bed.kafka.brokers(), bed.store.url());

    let output = check(&[("--brokers", &nowhere), ("--url", &store), ("--topic", &topic), ("--bucket", "b")])?;
    let told = text(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains(&nowhere), "{told}");

    let output = check(&[("--brokers", &brokers), ("--url", &url), ("--topic", &topic), ("--bucket", "b")])?;
    let told = text(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains(&url), "{told}");

    let output = check(&[("--brokers", &brokers), ("--url", &store), ("--topic", "no-such"), ("--bucket", "b")])?;
    let told = text(&output);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("no-such"), "{told}");
    Ok(())
}

#[test]
fn a_wrong_token_ends_run_and_check() -> Result<()> {
    let kafka = &bed()?.kafka;
    let store = Store::start_with(Some("right"), &[])?;
    let topic = unique("token");
    kafka.client().create_topic(&topic, 1)?;
    let (brokers, url) = (kafka.brokers(), store.url());
    let flags = ["--brokers", &brokers, "--url", &url, "--topic", &topic, "--bucket", "b", "--token", "wrong"];
    for command in ["run", "check"] {
        let output = run_to_end(&[&[command], &flags[..]].concat(), &[], BOUND)?;
        let told = text(&output);
        assert_eq!(output.status.code(), Some(4), "{command}: {told}");
        assert!(told.contains("token"), "{command}: {told}");
        assert!(!told.contains("wrong\""), "{command} shows the token: {told}");
    }
    Ok(())
}

#[test]
fn wrong_configurations_and_plugins_end_at_once() -> Result<()> {
    let folder = process::data_folder("wrong")?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("key.toml"), "[kafka]\nbroker = \"x:1\"\ntopics = [\"t\"]\n[store]\nbucket = \"b\"\n")?;
    std::fs::write(path("core.wasm"), b"\0asm\x01\0\0\0")?;
    std::fs::write(path("empty-component.wasm"), b"\0asm\x0d\0\x01\0")?;
    std::fs::write(path("text.wasm"), "not a plugin")?;

    let flags = ["--brokers", "127.0.0.1:1", "--topic", "t", "--bucket", "b"];
    let cases = [
        (vec!["--config".to_owned(), path("key.toml")], 2, "brokers"),
        (vec!["--config".to_owned(), path("missing.toml")], 2, "missing.toml"),
        (vec!["--plugin".to_owned(), path("missing.wasm")], 3, "missing.wasm"),
        (vec!["--plugin".to_owned(), path("core.wasm")], 3, "core.wasm"),
        (vec!["--plugin".to_owned(), path("empty-component.wasm")], 3, "empty-component.wasm"),
        (vec!["--plugin".to_owned(), path("text.wasm")], 3, "text.wasm"),
    ];
    for (args, code, mention) in &cases {
        for command in [&["run"][..], &["check", "--offline"]] {
            let args: Vec<&str> = command.iter().copied().chain(flags).chain(args.iter().map(String::as_str)).collect();
            let output = run_to_end(&args, &[], BOUND)?;
            let told = text(&output);
            assert_eq!(output.status.code(), Some(*code), "{args:?}: {told}");
            assert!(told.contains(mention), "{args:?}: {told}");
            assert!(!told.contains("panicked"), "{args:?}: {told}");
        }
    }
    Ok(())
}

fn check(flags: &[(&str, &str)]) -> Result<Output> {
    let args: Vec<&str> = ["check"].into_iter().chain(flags.iter().flat_map(|&(flag, value)| [flag, value])).collect();
    run_to_end(&args, &[], BOUND)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
