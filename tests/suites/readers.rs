//! Everything that is stored can be read by ReductStore's published clients: reduct-py, reduct-js, reduct-rs, reduct-cli.
//!
//! Each shape of a record stands between two plain neighbours. It is read as the first, middle and last record of an
//! answer, by conditions on a text and on a number, and as a single record; the shape and its neighbours must come back
//! as they were written. What must come back is told by the records that were produced, not by the host.

mod attachments;
mod choice;
mod cli;
mod handled;
mod producers;
mod schemas;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::original::{Header, label_name, original};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{
    Bed, Message, Sink, SinkConfig, Stored, bed, figures, long, payload, process, read_back, unique,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::guest;

const BOUND: Duration = Duration::from_secs(300);
const FIRST_MS: i64 = 1_700_000_000_000;
/// Labels and 85 records need more than the 16 KiB of headers that Node.js reads unless it is told otherwise.
const NODE_OPTIONS: &str = "--max-http-header-size=1048576";

/// A record as a client returned it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Read {
    entry: String,
    time: u64,
    labels: BTreeMap<String, String>,
    #[serde(rename = "type")]
    content_type: String,
    size: usize,
    sha256: String,
}

impl From<&Stored> for Read {
    fn from(stored: &Stored) -> Self {
        Self {
            entry: stored.entry.clone(),
            time: stored.timestamp_us,
            labels: stored.labels.clone(),
            content_type: stored.content_type.clone(),
            size: stored.size,
            sha256: hex(&stored.sha256),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug, Deserialize)]
struct Answer {
    id: String,
    records: Vec<Read>,
}

/// Every kind of header, key and payload: at least eighty.
fn shapes() -> Vec<Message> {
    let all: Vec<u8> = (1..=255).collect();
    let text = |key: &str, value: &str| Message::new("text").header(key.to_owned(), value.to_owned());
    let mut shapes = vec![
        Message::new("no headers"),
        Message::new("plain").header("load", "50 %").header("size", "5").header("type", "binary"),
        Message::new("unsorted").header("type", "binary").header("size", "5"),
        Message::new("repeated").header("tag", "floor-1").header("tag", "robot-arm"),
        Message::new("repeated, apart").header("a", "1").header("b", "x").header("a", "2").header("a", "1"),
        Message::new("repeated, null last").header("a", "1").null_header("a"),
        Message::new("null").null_header("null"),
        Message::new("empty").header("empty", ""),
        Message::new("empty key").header("", "3"),
        Message::new("empty key and value").header("", ""),
        Message::new("empty key, null").null_header(""),
        Message::new("empty keys").header("", "1").header("", "2"),
        Message::new("camelCase").header("deviceId", "a"),
        Message::new("two cases").header("deviceId", "a").header("deviceid", "b").header("DEVICEID", "c"),
        Message::new("forged").header("kafka.source", "evil/0").header("kafka.offset", "7"),
        Message::new("forged case").header("Kafka.Offset", "7").header("KAFKA.SOURCE", "evil/0"),
        Message::new("forged own").header("sink.plugins", "me").header("sink.reason", "x").header("kafka.key", "k"),
        Message::new("forged exact").header("kafka.headers", "a=1&b!").header("kafka.index", "3"),
        Message::new("forged by value").header("a", "1,kafka.offset=7").header("b", "x,y=z"),
        Message::new("forged by encoding").header("%6bafka.offset", "7").header("kafka%2eoffset", "8"),
        Message::new("at").header("@x", "1"),
        Message::new("proto").header("__proto__", "1").header("constructor", "2"),
        Message::new("numbers as names").header("0", "zero").header("1", "one").header("17", "seventeen"),
        Message::new("names like an answer's").header("x-reduct-labels", "1").header("x-reduct-entries", "2"),
        Message::new("content type").header("Content-Type", "image/jpeg"),
        Message::new("content type with quotes").header("content-type", "text/plain; charset=\"utf-8\""),
        Message::new("illegal content type").header("content-type", "a,b"),
        Message::new("looks encoded").header("v", "%41").header("w", "%null").header("a%n2", "y"),
        Message::new("broken encoding").header("k%n2", "y").header("%", "1").header("%4", "2"),
        Message::new("json").header("json", r#"{"a": "b, c"}"#),
        Message::new("bytes in keys").header(vec![0xff, 0xfe], "1").header(vec![0xc3], "2"),
        Message::new("binary value").header("trace", vec![0, 1, 2, 0xff]),
        Message::new("every byte in a value").header("all", (0..=255).collect::<Vec<u8>>()),
        Message::new("every byte in a key").header(all, "1"),
        Message::new("long value").header("long", "x".repeat(5_000)),
        Message::new("long key").header("n".repeat(3_000), "x"),
        Message::new("long capitals").header("N".repeat(1_000), "x"),
        (0..70).fold(Message::new("many"), |message, n| message.header(format!("h{n:02}"), "value")),
        (0..30).fold(Message::new("many capitals"), |message, n| message.header(format!("H{n}"), "value")),
        Message::new("no key").header("a", "1"),
        Message::new("empty record key").key(""),
        Message::new("binary record key").key(vec![0, 0xff, b'"', b',']),
        Message::new("spaces in the record key").key(" k "),
        Message::new("text record key").key("camera 7, left"),
        Message::tombstone("gone").header("why", "deleted"),
        Message { headers: vec![], ..Message::default() },
        Message::new(""),
        Message::new("").header("Empty", "x"),
        Message::new(payload(9, 16 << 20)).header("kind", "16 MiB"),
        Message::new(payload(8, 524_288)).header("Kind", "half a MiB"),
    ];
    for (key, value) in [
        ("comma", "a,b"),
        ("equals", "a=b"),
        ("both", "a=b,c=d"),
        ("quote", "a\"b"),
        ("quotes", "\"a,b\""),
        ("apostrophe", "it's"),
        ("space", "a b"),
        ("spaces", "  a  "),
        ("only spaces", "   "),
        ("tab", "a\tb"),
        ("lines", "a\r\nb"),
        ("nul", "a\0b"),
        ("del", "\u{7f}"),
        ("city", "Zürich"),
        ("emoji", "🦀"),
        ("percent", "100%"),
        ("ampersand", "a&b"),
        ("star", "a*"),
        ("bang", "a!"),
        ("backslash", "a\\b"),
        ("ä", "2"),
        ("日本", "x"),
        ("a b", "1"),
        ("a=b", "1"),
        ("a,b", "1"),
        ("a\"b", "1"),
        ("a\r\nb", "1"),
        ("a/b:c", "1"),
        ("a&b", "1"),
        ("a*", "1"),
        ("a!", "1"),
        ("trace-id", "00-4bf92f-00"),
        ("x.y_z-1", "v"),
    ] {
        shapes.push(text(key, value));
    }
    shapes.extend(producers::as_others_produce());
    shapes
}

/// The shapes with plain neighbours between and around them, a millisecond apart; the shapes have odd numbers.
fn records(shapes: &[Message]) -> Vec<Message> {
    let neighbour =
        |n: usize| Message::new(format!("neighbour {n}")).key(format!("key {n}")).header("n", n.to_string());
    let both = shapes.iter().enumerate().flat_map(|(n, shape)| [neighbour(n), shape.clone()]);
    let all = both.chain([neighbour(shapes.len())]).zip(FIRST_MS..);
    all.map(|(message, at)| message.timestamp_ms(at)).collect()
}

/// What ReductStore must hold of a record: the identity, the original key and headers, labels that nobody forged.
fn check(stored: &Stored, source: &str, offset: u64, sent: &Message) -> Result<()> {
    let told = || format!("{stored:?}");
    ensure!(stored.label("kafka.source") == Some(source), "forged source: {}", told());
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
        ];
        // The text that tells the record: a label with a value that ReductStore doesn't take for a number or a duration.
        if let Some((name, value)) = text_label(&self.stored[at]) {
            questions.push(json!({ "id": format!("{at} text"), "when": { format!("&{name}"): { "$eq": value } } }));
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
            "number" => {
                let offset = offset_of(&self.stored[at]);
                let same = self.stored.iter().filter(|stored| offset_of(stored) == offset);
                return Ok(same.map(Read::from).collect());
            }
            "text" => {
                let (name, value) = text_label(&self.stored[at]).context("a text")?;
                let same = self.stored.iter().filter(|stored| stored.label(name) == Some(value));
                return Ok(same.map(Read::from).collect());
            }
            _ => at..at + 1,
        };
        Ok(self.stored.get(range).context("a range")?.iter().map(Read::from).collect())
    }

    /// Asks a client everything about the shapes; answers with how many came back as written, each way.
    fn ask(&self, client: &Client) -> Result<usize> {
        self.ask_about(client, &(1..self.stored.len()).step_by(2).collect::<Vec<_>>())
    }

    /// The same for the records at some places, none of which is the first or the last.
    fn ask_about(&self, client: &Client, shapes: &[usize]) -> Result<usize> {
        let mut questions: Vec<Value> = shapes.iter().flat_map(|at| self.questions(*at)).collect();
        questions.push(json!({ "id": "0 wildcard", "wildcard": format!("{}*", self.entry) }));
        let answers = client.ask(&self.bed.store.url(), self.config.bucket(), &self.entry, &questions)?;
        ensure!(answers.len() == questions.len(), "{} answers to {} questions", answers.len(), questions.len());
        for answer in answers {
            self.compare(answer)?;
        }
        Ok(shapes.len())
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

fn text_label(stored: &Stored) -> Option<(&str, &str)> {
    let is_text = |value: &str| value.len() > 3 && value.len() < 200 && value.chars().all(|c| c.is_ascii_alphabetic());
    let found = stored.labels.iter().find(|(name, value)| !name.starts_with("kafka.") && is_text(value));
    found.map(|(name, value)| (name.as_str(), value.as_str()))
}

/// A client that reads as a plan asks, in a process of its own.
struct Client(Vec<PathBuf>);

impl Client {
    fn python() -> Result<Self> {
        Ok(Self(vec![installed()?.join("bin/python"), script("reader.py")]))
    }

    /// Node.js finds packages beside the script.
    fn javascript() -> Result<Self> {
        let copy = installed()?.join("reader.mjs");
        let fresh = copy.with_extension(format!("{}.mjs", std::process::id()));
        std::fs::copy(script("reader.mjs"), &fresh)?;
        std::fs::rename(&fresh, &copy)?;
        Ok(Self(vec!["node".into(), copy]))
    }

    fn ask(&self, url: &str, bucket: &str, entry: &str, questions: &[Value]) -> Result<Vec<Answer>> {
        let folder = process::data_folder("readers")?;
        let plan = folder.path().join("plan.json");
        let text = json!({ "url": url, "bucket": bucket, "entry": entry, "questions": questions }).to_string();
        std::fs::write(&plan, text)?;
        let (program, arguments) = self.0.split_first().context("a program")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(&plan).env("NODE_OPTIONS", NODE_OPTIONS);
        let output = command.output().with_context(|| format!("can't start {}", program.display()))?;
        if !output.status.success() {
            bail!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
        }
        let lines = String::from_utf8(output.stdout)?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/readers")).join(name)
}

/// Where `tests/setup readers` put the clients.
fn installed() -> Result<PathBuf> {
    let files = [&include_bytes!("../readers/requirements.txt")[..], &include_bytes!("../readers/package.json")[..]];
    let digest = hex(&Sha256::digest(files.concat())[..6]);
    let path = process::cache()?.join(format!("readers-{digest}"));
    ensure!(path.exists(), "the clients aren't in {}: run tests/setup readers", path.display());
    Ok(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_reads_every_shape() -> Result<()> {
    let shapes = shapes();
    ensure!(shapes.len() >= 80, "{} shapes", shapes.len());
    let bench = Bench::new(records(&shapes), 1).await?;
    ensure!(bench.stored.len() == bench.sent.len(), "{} stored of {}", bench.stored.len(), bench.sent.len());
    let source = format!("{}/0", bench.topic);
    for (offset, (stored, sent)) in (0..).zip(bench.stored.iter().zip(&bench.sent)) {
        check(stored, &source, offset, sent).with_context(|| format!("record {offset}"))?;
    }
    figures::record("shapes", shapes.len() as f64)?;
    figures::record("shapes_rs", by_rust(&bench).await? as f64)?;
    figures::record("shapes_py", bench.ask(&Client::python()?)? as f64)?;
    figures::record("shapes_js", bench.ask(&Client::javascript()?)? as f64)?;
    figures::record("shapes_cli", cli::read_by_cli(&bench)? as f64)?;
    // Each difference would have failed above.
    figures::record("forged", 0.0)?;
    figures::record("neighbours_damaged", 0.0)
}

/// reduct-rs: its single-entry query was read back by; here its multi-entry query, and single records.
async fn by_rust(bench: &Bench) -> Result<usize> {
    let client = bench.bed.store.client()?;
    let bucket = client.get_bucket(bench.config.bucket()).await?;
    let mut read = Vec::new();
    let query = bucket.query(several(&format!("{}*", bench.entry))).start_us(0).stop_us(i64::MAX as u64).send().await?;
    futures::pin_mut!(query);
    while let Some(record) = query.next().await {
        read.push(read_of(record?, &bench.entry).await?);
    }
    let expected: Vec<Read> = bench.stored.iter().map(Read::from).collect();
    ensure!(read == expected, "the multi-entry query differs from what is stored");
    for stored in &bench.stored {
        let record = bucket.read_record(&bench.entry).timestamp_us(stored.timestamp_us).send().await?;
        let read = read_of(record, &bench.entry).await?;
        ensure!(read == Read::from(stored), "alone: {read:?}, wanted {stored:?}");
    }
    Ok(bench.stored.len() / 2)
}

async fn read_of(record: reduct_rs::Record, entry: &str) -> Result<Read> {
    let (time, content_type) = (record.timestamp_us(), record.content_type().to_owned());
    let labels = record.labels().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let payload = record.bytes().await?;
    Ok(Read {
        entry: entry.into(),
        time,
        labels,
        content_type,
        size: payload.len(),
        sha256: hex(&Sha256::digest(&payload)),
    })
}

/// With more than one pattern reduct-rs asks by the protocol for several entries.
fn several(pattern: &str) -> Vec<String> {
    vec![pattern.to_owned(), "nothing-has-this-name*".to_owned()]
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
    let source = format!("{}/0", bench.topic);
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

fn random(dice: &mut Dice) -> Message {
    const PIECES: [&[u8]; 22] = [
        b"%",
        b"%41",
        b"%n2",
        b"&",
        b"*",
        b"!",
        b"@",
        b"=",
        b",",
        b"\"",
        b" ",
        b"\r\n",
        b"a",
        b"A",
        b"7",
        b"\xff",
        b"_",
        b".",
        "ä".as_bytes(),
        b"kafka.",
        b"Sink.",
        b"kafka.offset",
    ];
    let mut bytes = |most: u64| -> Vec<u8> {
        let count = dice.below(most + 1);
        (0..count).flat_map(|_| PIECES[dice.below(PIECES.len() as u64) as usize].to_vec()).collect()
    };
    let mut message = Message::new("x");
    for _ in 0..bytes(6).len() % 7 {
        let (key, value) = (bytes(3), bytes(4));
        message = if value.len() % 5 == 4 { message.null_header(key) } else { message.header(key, value) };
    }
    let key = bytes(3);
    if key.len() % 3 == 0 { message } else { message.key(key) }
}

/// Over several entries reduct-py 1.21.0 and reduct-js 1.20.0 give records the payloads of others: they take the bodies in
/// the order of time, the server sends them in that of entries. When this test fails, they don't any more: then
/// `host/docs/reading.md` has to say so.
#[tokio::test(flavor = "multi_thread")]
async fn wildcards_mix_payloads_up_in_python_and_javascript() -> Result<()> {
    let sent =
        (0..60).map(|n| Message::new(format!("payload {n}")).partition((n % 3) as i32).timestamp_ms(FIRST_MS + n));
    let bench = Bench::new(sent.collect(), 3).await?;
    let wildcard = format!("{}/*", bench.topic);
    let by_time = |mut records: Vec<Read>| {
        records.sort_by_key(|read| (read.time, read.entry.clone()));
        records
    };
    let expected = by_time(bench.stored.iter().map(Read::from).collect());
    let client = bench.bed.store.client()?;
    let bucket = client.get_bucket(bench.config.bucket()).await?;
    let query = bucket.query(several(&wildcard)).start_us(0).stop_us(i64::MAX as u64).send().await?;
    futures::pin_mut!(query);
    let mut read = Vec::new();
    while let Some(record) = query.next().await {
        let record = record?;
        // The client doesn't tell the entry; here it is named after the partition.
        let entry = record.labels().get("kafka.source").cloned().context("a source")?;
        read.push(read_of(record, &entry).await?);
    }
    ensure!(by_time(read) == expected, "reduct-rs reads several entries wrongly");
    for client in [Client::python()?, Client::javascript()?] {
        let question = [json!({ "id": "all", "wildcard": wildcard })];
        let answers = client.ask(&bench.bed.store.url(), bench.config.bucket(), &bench.topic, &question)?;
        let [Answer { records, .. }] = &answers[..] else { bail!("{} answers", answers.len()) };
        let found = by_time(records.clone());
        let head = |read: &Read| (read.entry.clone(), read.time, read.labels.clone());
        ensure!(found.iter().map(head).eq(expected.iter().map(head)), "labels and times are right even so");
        ensure!(found != expected, "the bug is gone: mend host/docs/reading.md, which warns of it");
    }
    Ok(())
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
