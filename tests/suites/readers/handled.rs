//! What plugins make of the shapes, dead letters, and records of a content type that a client stumbles over, by every client.

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::original::original;
use reduct_sink_testbed::{Message, bed, figures, guest as components, process, read_back, unique};

use super::{Bench, Client, by_rust, cli, records, shapes};
use crate::guest::guest;

/// Three parts of each record, with the number of their bytes.
const SPLIT: &str = r#"
    (call $host-payload)
    (local.set $n (i32.div_u (global.get $got-length) (i32.const 3)))
    (call $part)
    (call $payload (global.get $got) (local.get $n))
    (call $part)
    (call $payload (i32.add (global.get $got) (local.get $n)) (local.get $n))
    (call $part)
    (local.set $i (i32.shl (local.get $n) (i32.const 1)))
    (call $payload
        (i32.add (global.get $got) (local.get $i))
        (i32.sub (global.get $got-length) (local.get $i)))
    (call $split)"#;
const PARTS: usize = 3;
/// What the plugin relabel sets: a text with everything that ReductStore takes, and one that it doesn't take as it is.
const RELABEL: &str = "[set]\nsite = \"Hall 3, left; a=b\"\nplace = \"Z\u{fc}rich, \\\"north\\\"\"\n";
const SITE: &str = "Hall 3, left; a=b";

fn small_shapes() -> Vec<Message> {
    let is_small = |message: &Message| message.payload.as_ref().is_none_or(|payload| payload.len() < 100_000);
    shapes().into_iter().filter(is_small).collect()
}

/// A topic with the shapes and their neighbours, and a host with these plugins that has written them.
async fn written(plugins: &[(&str, std::path::PathBuf, &str)], entries: &str) -> Result<Bench> {
    let bed = bed()?;
    let topic = unique("handled");
    bed.kafka.client().create_topic_with(&topic, 1, &[("retention.ms", "-1")])?;
    let sent = records(&small_shapes());
    bed.kafka.client().produce(&topic, sent.clone())?;
    let mut config = bed.sink_config(&topic);
    for (name, path, keys) in plugins {
        config = config.plugin(name, path, keys)?;
    }
    let mut bench = Bench { bed, entry: topic.clone(), topic, config, sent, stored: Vec::new() };
    bench.run().await?;
    bench.stored = read_back(&bed.store.client()?, bench.config.bucket(), entries).await?;
    bench.entry = bench.stored.first().context("a record")?.entry.clone();
    Ok(bench)
}

/// Asks every client about the records at these places.
async fn ask_all(bench: &Bench, places: &[usize]) -> Result<()> {
    by_rust(bench).await?;
    bench.ask_about(&Client::python()?, places)?;
    bench.ask_about(&Client::javascript()?, places)?;
    cli::read_around(bench, places)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn splits_and_the_labels_of_plugins_are_read_by_every_client() -> Result<()> {
    let folder = process::data_folder("handled")?;
    let split = folder.path().join("split.wasm");
    std::fs::write(&split, guest(SPLIT))?;
    let relabel = components::plugin("relabel")?;
    let bench = written(&[("relabel", relabel, RELABEL), ("split", split, "")], "*").await?;
    ensure!(bench.stored.len() == PARTS * bench.sent.len(), "{} stored of {}", bench.stored.len(), bench.sent.len());
    for (at, stored) in bench.stored.iter().enumerate() {
        let (sent, index) = (&bench.sent[at / PARTS], at % PARTS);
        ensure!(stored.label("kafka.offset") == Some(&(at / PARTS).to_string()), "{stored:?}");
        ensure!(stored.label("kafka.index") == Some(&index.to_string()), "{stored:?}");
        ensure!(stored.label("site") == Some(SITE), "{stored:?}");
        ensure!(stored.label("place") == Some("Z%C3%BCrich, %22north%22"), "{stored:?}");
        let mark = stored.label("sink.plugins").unwrap_or_default();
        ensure!(mark.starts_with("relabel@") && mark.contains("+split@"), "{stored:?}");
        let mut labels = stored.labels.clone();
        for of_plugins in ["site", "place", "sink.plugins", "kafka.index"] {
            labels.remove(of_plugins);
        }
        ensure!(original(&labels)? == (sent.key.clone(), sent.headers.clone()), "{stored:?}");
    }
    // The second part of each shape.
    let places: Vec<usize> = (1..bench.sent.len()).step_by(2).map(|shape| PARTS * shape + 1).collect();
    ask_all(&bench, &places).await?;
    figures::record("shapes_split", places.len() as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_by_every_client() -> Result<()> {
    let folder = process::data_folder("handled")?;
    let picky = folder.path().join("picky.wasm");
    std::fs::write(&picky, guest(r#"(call $reject $"not yet; a=b, c")"#))?;
    let bench = written(&[("picky", picky, "")], "dead-letters/*").await?;
    ensure!(bench.stored.len() == bench.sent.len(), "{} stored of {}", bench.stored.len(), bench.sent.len());
    for stored in &bench.stored {
        ensure!(stored.label("sink.plugin") == Some("picky") && stored.label("sink.reason").is_some(), "{stored:?}");
    }
    let places: Vec<usize> = (1..bench.stored.len()).step_by(2).collect();
    ask_all(&bench, &places).await?;
    figures::record("shapes_dead_letters", places.len() as f64)
}

/// reduct-js 1.20.0 parses the body of a single record as JSON where its content type says so, and then can't read it. When
/// this test fails, it doesn't any more: then `host/docs/reading.md` has to say so.
#[tokio::test(flavor = "multi_thread")]
async fn single_records_of_json_are_unreadable_in_javascript() -> Result<()> {
    let sent = (0..3).map(|n| {
        let message = Message::new(format!("{{\"n\": {n}}}")).header("content-type", "application/json");
        message.timestamp_ms(1_700_000_000_000 + n)
    });
    let bench = Bench::new(sent.collect(), 1).await?;
    let questions = bench.questions(1);
    let (single, others): (Vec<_>, Vec<_>) =
        questions.into_iter().partition(|question| question.get("single").is_some());
    let ask = |client: &Client, questions: &[serde_json::Value]| {
        client.ask(&bench.bed.store.url(), bench.config.bucket(), &bench.entry, questions)
    };
    let javascript = Client::javascript()?;
    for answer in ask(&javascript, &others)? {
        bench.compare(answer)?;
    }
    let error =
        ask(&javascript, &single).err().context("the bug is gone: mend host/docs/reading.md, which warns of it")?;
    ensure!(format!("{error:#}").contains("Invalid body type"), "{error:#}");
    for answer in ask(&Client::python()?, &single)? {
        bench.compare(answer)?;
    }
    Ok(())
}
