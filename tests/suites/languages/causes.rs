//! Tests ten typical mistakes in each language: the reason of the failure names the mistake, and its file and line unless it
//! is the answer that is wrong. What the plugin prints is in the log with its record.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink::chain::Outcome;
use reduct_sink_testbed::original::unquote;
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Message, Sink, bed, figures, process, read_back, unique};

use super::guests::{chain, component, header, record};

/// Each language with the file that makes the mistakes, and the name of the file in the reasons.
const LANGUAGES: [(&str, &str, &str); 8] = [
    ("c", "plugin.c", "plugin.c"),
    ("cpp", "plugin.cpp", "plugin.cpp"),
    ("go", "transformer/plugin.go", "plugin.go"),
    ("javascript", "plugin.js", "plugin.js"),
    ("python", "app.py", "app.py"),
    ("rust", "src/lib.rs", "src/lib.rs"),
    ("typescript", "plugin.ts", "plugin.ts"),
    ("zig", "plugin.zig", "plugin.zig"),
];

const MISTAKES: usize = 10;
/// For all languages. Python's component compiles for seconds.
const BOUND: Duration = Duration::from_secs(300);
/// The mistakes are made by the record at this offset, because some of them need it.
const OFFSET: u64 = 7;

struct Mistake {
    name: String,
    /// What the reason must contain.
    texts: Vec<String>,
}

#[test]
fn a_reason_names_the_mistake_in_every_language() -> Result<()> {
    let mut problems = Vec::new();
    for (language, file, called) in LANGUAGES {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("causes").join(language).join(file);
        let mistakes = mistakes(&source, called)?;
        ensure!(mistakes.len() == MISTAKES, "{} makes {} mistakes", source.display(), mistakes.len());
        let mut chain = chain(&component("causes", language), &["{}".into()])?;
        let before = problems.len();
        for Mistake { name, texts } in mistakes {
            let record = record(vec![header("mistake", name.clone())], "payload");
            match chain.transform(&Arc::new(record)) {
                Outcome::DeadLetter(failure) if texts.iter().all(|text| failure.reason.contains(text)) => {}
                other => problems.push(format!("{language}: {name}: expected {texts:?}: {other:?}")),
            }
        }
        figures::record(&format!("causes_{language}"), (MISTAKES + before - problems.len()) as f64)?;
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// On a running host, a topic a language: the dead letter, the dry run and the log name the cause, and with it the record.
#[tokio::test(flavor = "multi_thread")]
async fn each_cause_is_told_with_its_topic_partition_and_offset() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let prefix = unique("causes");
    let topic_of = |language: &str| format!("{prefix}-{language}");
    let topics: Vec<String> = LANGUAGES.iter().map(|(language, ..)| topic_of(language)).collect();
    let all: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut config = bed.sink_config(&topics[0]).topics(&all);
    let mut sent = Vec::new();
    for (language, file, called) in LANGUAGES {
        let topic = topic_of(language);
        kafka.create_topic(&topic, MISTAKES as i32)?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("causes").join(language).join(file);
        for (partition, mistake) in (0..).zip(mistakes(&source, called)?) {
            let before = (0..OFFSET).map(|_| Message::new("payload"));
            let message = Message::new("payload").header("mistake", mistake.name.clone());
            kafka.produce(&topic, before.chain([message]).map(|message| message.partition(partition)))?;
            sent.push((language, topic.clone(), partition, mistake));
        }
        let keys = format!(
            "timeout = '3s'\nmemory = '256MB'\nwhen = {{ topics = [{topic:?}], headers = {{ mistake = true }} }}\n"
        );
        config = config.plugin_with(language, &component("causes", language), &keys)?;
    }
    ensure!(sent.len() == LANGUAGES.len() * MISTAKES, "{} mistakes", sent.len());
    let folder = process::data_folder("causes")?;
    let file = folder.path().join("sink.toml");
    std::fs::write(&file, config.text())?;
    let ended = run_to_end(&["run", "--dry-run", "--config", &file.display().to_string()], &[], BOUND)?;
    let dry = String::from_utf8_lossy(&ended.stdout).into_owned();

    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &all, BOUND)?;
    sink.stop_cleanly()?;
    let letters = read_back(&bed.store.client()?, config.bucket(), "dead-letters/*").await?;
    let log = sink.log()?;
    let mut problems = Vec::new();
    for (language, topic, partition, Mistake { name, texts }) in sent {
        let names = |line: &str| texts.iter().all(|text| line.contains(text));
        let source = format!("{topic}/{partition}");
        let letter = letters.iter().find(|letter| {
            letter.source() == Some(&source) && letter.label("kafka.offset") == Some(&OFFSET.to_string())
        });
        let reason = letter.and_then(|letter| letter.label("sink.reason")).unwrap_or("no dead letter");
        // A label has no quotation marks.
        let reason = String::from_utf8_lossy(&unquote(reason)?).into_owned();
        if !texts.iter().all(|text| reason.contains(&text.replace('"', "'"))) {
            problems.push(format!("{language}: {name}: dead letter: expected {texts:?}: {reason}"));
        }
        let place = format!("{source}@{OFFSET} by plugin `{language}`");
        if !dry.lines().any(|line| line.contains(&place) && names(line)) {
            let found = dry.lines().find(|line| line.contains(&place)).unwrap_or("no line");
            problems.push(format!("{language}: {name}: dry run: expected {texts:?}: {found}"));
        }
        let place = format!("topic={topic} partition={partition} offset={OFFSET}");
        let printed = format!("making the mistake {name}");
        // What a plugin prints has its topic in quotation marks.
        let by = [&*printed, &format!("plugin={language}"), &place.replace(&topic, &format!("{topic:?}"))];
        if !log.lines().any(|line| by.iter().all(|part| line.contains(part))) {
            let found = log.lines().find(|line| line.contains(&printed)).unwrap_or("no line");
            problems.push(format!("{language}: {name}: what it printed: {found}"));
        }
        if !log.lines().any(|line| line.contains(&place) && names(&line.replace("\\\"", "\""))) {
            let found = log.lines().find(|line| line.contains(&place)).unwrap_or("no line");
            problems.push(format!("{language}: {name}: log: expected {texts:?}: {found}"));
        }
    }
    // CPython asks for the environment and for randomness while it starts, which is no matter of the plugin.
    for asked in ["asked for the environment", "asked for randomness"] {
        problems.extend(log.lines().filter(|line| line.contains(asked)).map(|line| format!("log: {line}")));
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    figures::record("causes_told_with_their_record", (LANGUAGES.len() * MISTAKES) as f64)
}

/// The mistakes that the file's comments describe; see tests/causes/README.md.
fn mistakes(source: &Path, called: &str) -> Result<Vec<Mistake>> {
    let text = std::fs::read_to_string(source).with_context(|| source.display().to_string())?;
    let mistakes = text.lines().zip(1..).filter_map(|(line, number)| {
        let (place, comment) = ["//", "#"].into_iter().find_map(|comment| {
            let named = |sign| line.split_once(&format!("{comment}{sign} ")).map(|(_, behind)| behind);
            named("=").map(|text| (Some(format!("({called}:{number})")), text)).or(named("~").map(|text| (None, text)))
        })?;
        let (name, text) = comment.split_once(": ")?;
        Some(Mistake { name: name.into(), texts: std::iter::once(text.into()).chain(place).collect() })
    });
    Ok(mistakes.collect())
}
