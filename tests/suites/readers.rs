//! Everything that is stored can be read by ReductStore's published clients: reduct-py, reduct-js, reduct-rs, reduct-cli.
//!
//! Each shape of a record stands between two plain neighbours. It is read as the first, middle and last record of an
//! answer, by conditions on a text and on a number, by a pattern of entries, and as a single record; the shape and its
//! neighbours must come back as they were written. What must come back is told by the records that were produced, not by the host.

mod attachments;
mod choice;
mod cli;
mod client_defects;
mod clients;
mod handled;
mod producers;
mod rust;
mod schemas;
mod shapes;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::original::{Header, label_name, original};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Bed, Message, Sink, SinkConfig, Stored, bed, figures, long, process, read_back, unique};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::guest;
use clients::{Answer, Client, NODE_OPTIONS, Read, installed};
use rust::Protocol;
use shapes::{random, records, shapes};

const BOUND: Duration = Duration::from_secs(300);
const FIRST_MS: i64 = 1_700_000_000_000;

/// What ReductStore must hold of a record: the identity, the original key and headers, labels that nobody forged.
fn check(stored: &Stored, source: &str, offset: u64, sent: &Message) -> Result<()> {
    let told = || format!("{stored:?}");
    ensure!(stored.source() == Some(source), "forged source: {}", told());
    ensure!(stored.label("kafka.offset") == Some(&offset.to_string()), "forged offset: {}", told());
    ensure!(stored.label("kafka.index").is_none() && stored.label("sink.plugins").is_none(), "forged: {}", told());
    let whole: (Option<_>, Vec<Header>) = (sent.key.clone(), sent.headers.clone());
    ensure!(original(&stored.labels)? == whole, "other key or headers: {}", told());
    let digest: [u8; 32] = Sha256::digest(sent.payload.as_deref().unwrap_or_default()).into();
    ensure!(stored.sha256 == digest, "other payload: {}", told());
    ensure!(stored.label("kafka.tombstone").is_some() == sent.payload.is_none(), "tombstone: {}", told());
    for (key, value) in &sent.headers {
        let has_text = value.as_ref().is_some_and(|value| !value.is_empty());
        let later = sent.headers.iter().rev().find(|(other, _)| label_name(other) == label_name(key));
        let last_has_text = later.is_some_and(|(_, value)| value.as_ref().is_some_and(|value| !value.is_empty()));
        let name = label_name(key);
        ensure!(!(has_text && last_has_text) || stored.labels.contains_key(&name), "no label {name:?}: {}", told());
    }
    Ok(())
}

struct Bench {
    bed: &'static Bed,
    topic: String,
    /// Which entry is asked about.
    entry: String,
    config: SinkConfig,
    sent: Vec<Message>,
    stored: Vec<Stored>,
}

impl Bench {
    async fn new(sent: Vec<Message>, partitions: i32) -> Result<Self> {
        let bed = bed()?;
        let topic = unique("readers");
        bed.kafka.client().create_topic_with(
            &topic,
            partitions,
            &[("retention.ms", "-1"), ("max.message.bytes", "33554432")],
        )?;
        let config = bed.sink_config(&topic);
        bed.kafka.client().produce(&topic, sent.clone())?;
        let mut this = Self { bed, entry: topic.clone(), topic, config, sent, stored: Vec::new() };
        this.run().await?;
        Ok(this)
    }

    async fn run(&mut self) -> Result<()> {
        let mut sink = Sink::start(&self.config)?;
        sink.wait_caught_up(&self.bed.kafka.client(), self.config.group(), &[&self.topic], BOUND)?;
        sink.stop_cleanly()?;
        self.stored = read_back(&self.bed.store.client()?, self.config.bucket(), "*").await?;
        Ok(())
    }

    /// What the label `kafka.source` of all records says. Behind it stands `@` and the topic's id.
    fn source(&self) -> String {
        format!("{}/0", self.topic)
    }

    /// The questions about the record at a place: as first, middle and last of an answer, by number, by text, alone.
    fn questions(&self, at: usize) -> Vec<Value> {
        let time = |at: usize| self.stored[at.min(self.stored.len() - 1)].timestamp_us;
        let range = |from: usize, to: usize| [time(from), time(to) + 1];
        let mut questions = vec![
            json!({ "id": format!("{at} first"), "range": range(at, at + 1) }),
            json!({ "id": format!("{at} middle"), "range": range(at - 1, at + 1) }),
            json!({ "id": format!("{at} last"), "range": range(at - 1, at) }),
            json!({ "id": format!("{at} number"), "when": { "&kafka.offset": { "$eq": offset_of(&self.stored[at]) } } }),
            json!({ "id": format!("{at} single"), "single": time(at) }),
            json!({ "id": format!("{at} text and number"), "when": { "$and": [
                { "&kafka.source": { "$starts_with": format!("{}@", self.source()) } },
                { "&kafka.offset": { "$eq": offset_of(&self.stored[at]) } },
            ] } }),
        ];
        // A label of the record's own, if its value is one that ReductStore doesn't take for a number or a duration.
        if let Some((name, value)) = text_label(&self.stored[at]) {
            questions.push(json!({ "id": format!("{at} text"), "when": { format!("&{name}"): { "$eq": value } } }));
        }
        if let Some(name) = true_label(&self.stored[at]) {
            questions.push(json!({ "id": format!("{at} truth"), "when": { format!("&{name}"): { "$eq": true } } }));
        }
        questions
    }

    fn expected(&self, id: &str) -> Result<Vec<Read>> {
        let (at, way) = id.split_once(' ').context("an id")?;
        let at: usize = at.parse()?;
        let range = match way {
            "wildcard" => 0..self.stored.len(),
            "first" => at..at + 2,
            "middle" => at - 1..at + 2,
            "last" => at - 1..at + 1,
            "number" | "text and number" => {
                let offset = offset_of(&self.stored[at]);
                let same = self.stored.iter().filter(|stored| offset_of(stored) == offset);
                return Ok(same.map(Read::from).collect());
            }
            "text" => {
                let (name, value) = text_label(&self.stored[at]).context("a text")?;
                let same = self.stored.iter().filter(|stored| stored.label(name) == Some(value));
                return Ok(same.map(Read::from).collect());
            }
            "truth" => {
                let name = true_label(&self.stored[at]).context("a truth value")?;
                let same = self.stored.iter().filter(|stored| matches!(stored.label(name), Some("true" | "1")));
                return Ok(same.map(Read::from).collect());
            }
            _ => at..at + 1,
        };
        Ok(self.stored.get(range).context("a range")?.iter().map(Read::from).collect())
    }

    /// Asks each client everything about the records at some places, none of which is the first or the last, and notes how
    /// many came back as written with their neighbours: `shapes` and the kind of records, for each client.
    async fn read_by_all(&self, kind: &str, places: &[usize]) -> Result<()> {
        let mut questions: Vec<Value> = places.iter().flat_map(|at| self.questions(*at)).collect();
        questions.push(json!({ "id": "0 wildcard", "wildcard": format!("{}*", self.entry) }));
        let (url, bucket) = (self.bed.store.url(), self.config.bucket());
        let noted = |client: &str| figures::record(&format!("shapes{kind}{client}"), places.len() as f64);
        noted("")?;
        self.compare_all(&questions, rust::ask(self, &questions, Protocol::OneEntry).await?)?;
        self.compare_all(&questions, rust::ask(self, &questions, Protocol::ManyEntries).await?)?;
        noted("_rs")?;
        for (name, client) in [("_py", Client::python()?), ("_js", Client::javascript()?)] {
            self.compare_all(&questions, client.ask(&url, bucket, &self.entry, &questions)?)
                .with_context(|| format!("shapes{kind}{name}"))?;
            noted(name)?;
        }
        cli::read_around(self, places)?;
        noted("_cli")
    }

    fn compare_all(&self, questions: &[Value], answers: Vec<Answer>) -> Result<()> {
        ensure!(answers.len() == questions.len(), "{} answers to {} questions", answers.len(), questions.len());
        answers.into_iter().try_for_each(|answer| self.compare(answer))
    }

    /// An error where the answer differs from what is stored.
    fn compare(&self, Answer { id, mut records }: Answer) -> Result<()> {
        // A single record that is read alone names no entry in some clients.
        records.iter_mut().for_each(|read| read.entry = self.entry.clone());
        ensure!(records == self.expected(&id)?, "{id}: found {records:#?}, wanted {:#?}", self.expected(&id)?);
        Ok(())
    }
}

fn offset_of(stored: &Stored) -> u64 {
    stored.label("kafka.offset").and_then(|offset| offset.parse().ok()).unwrap_or(u64::MAX)
}

/// A label whose value ReductStore takes for a truth value; 1 is equal to it.
fn true_label(stored: &Stored) -> Option<&str> {
    stored.labels.iter().find(|(_, value)| *value == "true").map(|(name, _)| name.as_str())
}

fn text_label(stored: &Stored) -> Option<(&str, &str)> {
    let is_text = |value: &str| {
        value.len() > 3 && value.len() < 200 && value != "true" && value.chars().all(|c| c.is_ascii_alphabetic())
    };
    let found = stored.labels.iter().find(|(name, value)| !name.starts_with("kafka.") && is_text(value));
    found.map(|(name, value)| (name.as_str(), value.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reads_every_shape() -> Result<()> {
    let shapes = shapes();
    ensure!(shapes.len() >= 80, "{} shapes", shapes.len());
    let bench = Bench::new(records(&shapes), 1).await?;
    ensure!(bench.stored.len() == bench.sent.len(), "{} stored of {}", bench.stored.len(), bench.sent.len());
    let source = bench.source();
    for (offset, (stored, sent)) in (0..).zip(bench.stored.iter().zip(&bench.sent)) {
        check(stored, &source, offset, sent).with_context(|| format!("record {offset}"))?;
    }
    bench.read_by_all("", &(1..bench.stored.len()).step_by(2).collect::<Vec<_>>()).await?;
    // Each difference would have failed above.
    figures::record("forged", 0.0)?;
    figures::record("neighbours_damaged", 0.0)
}

/// The dead letter of every shape holds key and headers as they were, and a replay writes the record as if it had been
/// written in the first place.
#[tokio::test(flavor = "multi_thread")]
async fn every_shape_is_replayed_from_its_dead_letter() -> Result<()> {
    let bed = bed()?;
    let topic = unique("replayed");
    bed.kafka.client().create_topic_with(&topic, 1, &[("retention.ms", "-1"), ("max.message.bytes", "33554432")])?;
    let sent = records(&shapes());
    bed.kafka.client().produce(&topic, sent.clone())?;
    let folder = process::data_folder("replayed")?;
    let plugin = folder.path().join("plugin.wasm");
    std::fs::write(&plugin, guest::guest(r#"(call $reject $"not yet")"#))?;
    let config = bed.sink_config(&topic).plugin("picky", &plugin, "")?.property("session.timeout.ms", "6000");
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&bed.kafka.client(), config.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()?;
    let client = bed.store.client()?;
    let letters = read_back(&client, config.bucket(), "dead-letters/*").await?;
    ensure!(letters.len() == sent.len(), "{} dead letters of {}", letters.len(), sent.len());
    for (letter, sent) in letters.iter().zip(&sent) {
        let whole = (sent.key.clone(), sent.headers.clone());
        match &letter.behind_payload {
            None => ensure!(original(&letter.labels)? == whole, "{letter:?}"),
            Some(text) => {
                let text = std::str::from_utf8(text)?;
                ensure!(reduct_sink_testbed::original::original_of_text(text)? == whole, "{letter:?}");
            }
        }
    }
    std::fs::write(&plugin, guest::guest("(call $keep)"))?;
    let file = folder.path().join("sink.toml");
    std::fs::write(&file, config.text())?;
    let output = run_to_end(&["replay", "--config", &file.display().to_string(), "--write"], &[], BOUND)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    let stored = read_back(&client, config.bucket(), "*").await?;
    ensure!(stored.len() == sent.len(), "{} stored of {}", stored.len(), sent.len());
    let source = format!("{topic}/0");
    for (offset, (stored, sent)) in (0..).zip(stored.iter().zip(&sent)) {
        let mut plain = stored.clone();
        // The plugin that kept it left its mark.
        ensure!(plain.labels.remove("sink.plugins").is_some_and(|mark| mark.starts_with("picky@")), "{stored:?}");
        check(&plain, &source, offset, sent).with_context(|| format!("record {offset}"))?;
    }
    Ok(())
}

/// Random headers, read by one client: 100,000 sets with `--long`.
#[tokio::test(flavor = "multi_thread")]
async fn random_headers_come_back() -> Result<()> {
    let sets = if long() { 100_000 } else { 2_000 };
    let mut dice = Dice::new("random headers")?;
    let sent: Vec<Message> = (0..sets).map(|n| random(&mut dice).timestamp_ms(FIRST_MS + n)).collect();
    let bench = Bench::new(sent, 1).await?;
    ensure!(bench.stored.len() == bench.sent.len(), "{} stored of {}", bench.stored.len(), bench.sent.len());
    let source = bench.source();
    for (offset, (stored, sent)) in (0..).zip(bench.stored.iter().zip(&bench.sent)) {
        check(stored, &source, offset, sent).with_context(|| format!("record {offset}"))?;
    }
    let end = bench.stored.last().context("a record")?.timestamp_us + 1;
    let all = [json!({ "id": "all", "range": [0, end] })];
    let answers = Client::python()?.ask(&bench.bed.store.url(), bench.config.bucket(), &bench.topic, &all)?;
    let [Answer { records, .. }] = &answers[..] else { bail!("{} answers", answers.len()) };
    let expected: Vec<Read> = bench.stored.iter().map(Read::from).collect();
    let differs = records.iter().zip(&expected).position(|(one, other)| one != other);
    ensure!(records.len() == expected.len() && differs.is_none(), "record {differs:?} differs");
    figures::record("random_sets", sets as f64)
}

/// Every line of the page for readers, against a topic of one partition.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_for_readers_runs() -> Result<()> {
    let sent = (0..3).map(|n| {
        let message = Message::new("x").header("size", "2000").header("type", "image");
        message.timestamp_ms(FIRST_MS + n)
    });
    let bench = Bench::new(sent.collect(), 1).await?;
    let page = include_str!("../../host/docs/reading.md");
    let folder = installed()?;
    for (language, program, script) in
        [("python", folder.join("bin/python"), "page.py"), ("javascript", "node".into(), "page.mjs")]
    {
        let block = page.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
        let code = block.context("no block")?.replace("http://127.0.0.1:8383", &bench.bed.store.url());
        let code = code.replace("\"kafka\"", &format!("{:?}", bench.config.bucket())).replace("camera", &bench.topic);
        let file = folder.join(format!("{}-{script}", bench.topic));
        std::fs::write(&file, code)?;
        let output = Command::new(program).arg(&file).env("NODE_OPTIONS", NODE_OPTIONS).output()?;
        std::fs::remove_file(&file)?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{language}: {text}");
        for expected in ["2000", "image", &bench.stored[0].timestamp_us.to_string()] {
            ensure!(text.contains(expected), "{language}: no {expected} in {text}");
        }
    }
    Ok(())
}
