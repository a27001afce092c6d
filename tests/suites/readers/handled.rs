//! Dead letters, and records of a content type that a client stumbles over, by reduct-rs, reduct-py and reduct-js.

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Message, bed, figures, process, read_back, unique};

use super::{Bench, Client, by_rust, records, shapes};
use crate::guest::guest;

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

/// Asks these clients about the records at these places.
async fn ask_all(bench: &Bench, places: &[usize]) -> Result<()> {
    by_rust(bench).await?;
    bench.ask_about(&Client::python()?, places)?;
    bench.ask_about(&Client::javascript()?, places)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_by_three_clients() -> Result<()> {
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
