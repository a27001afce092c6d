//! Records that plugins handled: labelled, split, or dead letters. All four clients read each shape of them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::original::{label_name, unquote};
use reduct_sink_testbed::{Message, Stored, bed, guest as components, process, read_back, sized, unique};

use super::shapes::{records, shapes};
use super::{Bench, check};
use crate::guest::guest;

fn small_shapes() -> Vec<Message> {
    let is_small = |message: &Message| message.payload.as_ref().is_none_or(|payload| payload.len() < 100_000);
    shapes().into_iter().filter(is_small).collect()
}

/// A topic with the shapes and their neighbours, and a host with this plugin that has written `each` records of each
/// into the entry of this name, in which TOPIC stands for the topic.
async fn written(name: &str, plugin: PathBuf, config: &str, entry: &str, each: usize) -> Result<Bench> {
    let bed = bed()?;
    let topic = unique("handled");
    bed.kafka.client().create_topic_with(&topic, 1, &[("retention.ms", "-1")])?;
    let sent = records(&small_shapes());
    bed.kafka.client().produce(&topic, sent.clone())?;
    let config = bed.sink_config(&topic).plugin(name, &plugin, config)?;
    let entry = entry.replace("TOPIC", &topic);
    let mut bench = Bench { bed, entry, topic, config, sent, stored: Vec::new() };
    bench.run().await?;
    bench.stored = read_back(&bed.store.client()?, bench.config.bucket(), &bench.entry).await?;
    ensure!(bench.stored.len() == each * bench.sent.len(), "{} of {}", bench.stored.len(), bench.sent.len());
    Ok(bench)
}

/// What the host must have made of the record, beside what the plugin did.
fn check_the_rest(bench: &Bench, stored: &Stored, offset: usize, sent: &Message) -> Result<()> {
    let mut plain = stored.clone();
    ensure!(plain.labels.remove("sink.plugins").is_some(), "no mark of the plugin: {stored:?}");
    check(&plain, &bench.source(), offset as u64, sent).with_context(|| format!("record {offset}"))
}

/// The places of the records with the shapes, which have odd offsets. If they were split, one part of each, by turns. In
/// the shortest form each of the three tests reads another `third` of the shapes.
fn places(bench: &Bench, each: usize, third: usize) -> Vec<usize> {
    let place = |offset: usize| offset * each + (offset / 2 + offset / 6) % each;
    let (first, step) = sized((third, 3), (0, 1), (0, 1));
    (1..bench.sent.len()).step_by(2).skip(first).step_by(step).map(place).collect()
}

/// `relabel` sets a label from key and offset, copies one, puts one in the place of a header's, and sets the content
/// type.
#[tokio::test(flavor = "multi_thread")]
async fn labels_made_by_plugins_are_read_by_every_client() -> Result<()> {
    let steps = r#"
        steps = [
            { set = "made", value = "{key}|{offset}, \"ä\"", default = "without a key" },
            { set = "tag", value = "ours" },
            { copy = "tag", to = "copied" },
            { content_type = "image/x-made" },
        ]
    "#;
    let bench = written("labels", components::plugin("relabel")?, steps, "TOPIC", 1).await?;
    for (offset, (stored, sent)) in bench.stored.iter().zip(&bench.sent).enumerate() {
        let mut rest = stored.clone();
        let made = unquote(&rest.labels.remove("made").context("the label made")?)?;
        let wanted = match &sent.key {
            Some(key) => [key, format!("|{offset}, \"ä\"").as_bytes()].concat(),
            None => b"without a key".to_vec(),
        };
        ensure!(made == wanted, "made {made:?}: {stored:?}");
        for name in ["tag", "copied"] {
            ensure!(rest.labels.remove(name).is_some_and(|value| value == "ours"), "{name}: {stored:?}");
        }
        ensure!(rest.content_type == "image/x-made", "{stored:?}");
        // If a plugin sets a header's label, the header's own value isn't stored.
        let mut sent = sent.clone();
        sent.headers.retain(|(key, _)| label_name(key) != "tag");
        check_the_rest(&bench, &rest, offset, &sent)?;
    }
    bench.read_by_all("_labelled", &places(&bench, 1, 0)).await
}

/// Three parts of each record: as it was, with another payload and type, with a label of its own.
#[tokio::test(flavor = "multi_thread")]
async fn splits_are_read_by_every_client() -> Result<()> {
    let parts = r#"
        (call $part)
        (call $part) (call $payload $"half, of it") (call $type $"text/x-half")
        (call $part) (call $label $"side" $"left, upper")
        (call $split)
    "#;
    let folder = process::data_folder("handled")?;
    let plugin = folder.path().join("parts.wasm");
    std::fs::write(&plugin, guest(parts))?;
    let bench = written("parts", plugin, "", "TOPIC", 3).await?;
    for (at, stored) in bench.stored.iter().enumerate() {
        let (offset, index) = (at / 3, at % 3);
        let mut rest = stored.clone();
        ensure!(rest.labels.remove("kafka.index") == Some(index.to_string()), "part {index}: {stored:?}");
        let mut sent = bench.sent.get(offset).context("a record")?.clone();
        match index {
            1 => {
                sent.payload = Some("half, of it".into());
                ensure!(rest.content_type == "text/x-half", "{stored:?}");
                // The parts of a tombstone have the label that says so, too.
                let tombstone = bench.sent.get(offset).is_some_and(|sent| sent.payload.is_none());
                ensure!(rest.labels.remove("kafka.tombstone").is_some() == tombstone, "{stored:?}");
            }
            2 => ensure!(rest.labels.remove("side").is_some_and(|side| side == "left, upper"), "{stored:?}"),
            _ => {}
        }
        check_the_rest(&bench, &rest, offset, &sent)?;
    }
    bench.read_by_all("_split", &places(&bench, 3, 1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_by_every_client() -> Result<()> {
    let folder = process::data_folder("handled")?;
    let picky = folder.path().join("picky.wasm");
    std::fs::write(&picky, guest(r#"(call $reject $"not yet; a=b, c")"#))?;
    let bench = written("picky", picky, "", "dead-letters/TOPIC/0", 1).await?;
    for stored in &bench.stored {
        ensure!(stored.label("sink.plugin") == Some("picky"), "{stored:?}");
        ensure!(stored.label("sink.reason").is_some_and(|reason| reason.contains("not yet; a=b, c")), "{stored:?}");
    }
    bench.read_by_all("_dead_letters", &places(&bench, 1, 2)).await
}
