//! Fixtures: records in files, each with the answer that is expected of the plugin.
//!
//! ```text
//! fixtures/
//!   config.toml              the plugin's configuration, if it takes one (a case may have its own)
//!   heartbeat/               a case: a folder with
//!     record.toml              the record: headers, key and the rest (JSON, record.json, will do too)
//!     payload.jpg              its payload: the file called `payload`, whatever its extension
//!     expected.toml            the expected answer; `plugin test --update` writes it
//!   small.toml               several cases in one file, each a [[case]] with a name
//!   small.expected.toml      the expected answers of these cases, by name
//! ```
//!
//! Guarantees: a record that [`Case::write`] wrote is read back unchanged; an unknown key is an error that names the
//! file and the line; a folder without a case is an error, and not a test that passes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::answer::{PluginAnswer, Whole};
use super::content::FixtureContent;
use crate::config::in_full;
use crate::record::{Header, InputRecord, TopicPartition};

/// The timestamp of a record whose file gives none. It is fixed, so that expectations stay true.
const TIMESTAMP_MS: u64 = 1_700_000_000_000;
/// Payloads of more bytes than this get their own file.
const INLINE_BYTES: usize = 1024;

/// One record and what is expected of it.
#[derive(Debug)]
pub struct Case {
    /// The fixture's name.
    pub name: String,
    /// The record that the chain is asked about.
    pub input: Arc<InputRecord>,
    /// The plugin's configuration, as JSON text for `configure`.
    pub config: String,
    /// The expected answer; `None`: the fixture has no expectation yet.
    pub expected: Option<PluginAnswer>,
    /// The folder of its files.
    pub folder: PathBuf,
    home: Home,
}

/// The place of a case's expectation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Home {
    /// A file of its own.
    File(PathBuf),
    /// A file for several cases, and the case's name in it.
    Shared(PathBuf, String),
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RecordFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    partition: u32,
    offset: Whole,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp_ms: Option<Whole>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_timestamp: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<FixtureContent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<FixtureContent>,
    /// Whether the record's value is Kafka's null.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tombstone: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderFile>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderFile {
    key: FixtureContent,
    /// `None`: the header's value is Kafka's null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<FixtureContent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    case: Vec<toml::Table>,
}

/// The expectations of several cases, by name.
type Expectations = BTreeMap<String, PluginAnswer>;

/// All cases below `folder`, in the order of their names.
pub fn read(folder: &Path) -> anyhow::Result<Vec<Case>> {
    ensure!(
        folder.is_dir(),
        "there is no folder {}; put fixtures there, or name another folder with --fixtures",
        in_full(folder)
    );
    let config = match either(folder, "config")? {
        Some(path) => parse::<serde_json::Value>(&path)?,
        None => serde_json::Value::Object(serde_json::Map::new()),
    };
    let mut cases = Vec::new();
    read_folder(folder, "", &config.to_string(), &mut cases)?;
    ensure!(
        !cases.is_empty(),
        "{} has no case; a case is a folder with record.toml, or a [[case]] in a file of several",
        in_full(folder)
    );
    Ok(cases)
}

impl Case {
    /// Writes each of these answers as the expectation of its case.
    pub fn expect(answers: &[(&Case, PluginAnswer)]) -> anyhow::Result<()> {
        let mut shared: BTreeMap<&Path, Expectations> = BTreeMap::new();
        for (case, answer) in answers {
            match &case.home {
                Home::File(path) => write_toml(path, answer)?,
                Home::Shared(path, name) => {
                    let expectations = match shared.entry(path) {
                        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            entry.insert(if path.exists() { parse(path)? } else { Expectations::new() })
                        }
                    };
                    expectations.insert(name.clone(), answer.clone());
                }
            }
        }
        shared.iter().try_for_each(|(path, expectations)| write_toml(path, expectations))
    }

    /// Writes a record as a case in `folder`, without an expectation.
    pub fn write(folder: &Path, record: &InputRecord) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", in_full(folder)))?;
        let payload = match &record.payload {
            Some(payload)
                if payload.len() > INLINE_BYTES || matches!(FixtureContent::of(payload), FixtureContent::Base64(_)) =>
            {
                let path = folder.join("payload.bin");
                fs::write(&path, payload).with_context(|| format!("can't write {}", in_full(&path)))?;
                None
            }
            Some(payload) if payload.is_empty() => None,
            other => other.as_deref().map(FixtureContent::of),
        };
        let header = |header: &Header| HeaderFile {
            key: FixtureContent::of(&header.key),
            value: header.value.as_deref().map(FixtureContent::of),
        };
        let file = RecordFile {
            topic: Some(record.source.topic.to_string()),
            partition: record.source.partition,
            offset: Whole(record.offset),
            timestamp_ms: record.timestamp_ms.map(Whole),
            no_timestamp: record.timestamp_ms.is_none(),
            key: record.key.as_deref().map(FixtureContent::of),
            payload,
            tombstone: record.payload.is_none(),
            config: None,
            headers: record.headers.iter().map(header).collect(),
        };
        write_toml(&folder.join("record.toml"), &file)
    }
}

fn read_folder(folder: &Path, prefix: &str, config: &str, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", in_full(folder)))? {
        paths.push(entry.with_context(|| format!("can't read {}", in_full(folder)))?.path());
    }
    paths.sort();
    for path in paths {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let name = format!("{prefix}{file_name}");
            match either(&path, "record")? {
                Some(record) => cases.push(read_case(&path, &record, name, config)?),
                None => read_folder(&path, &format!("{name}/"), config, cases)?,
            }
        } else if let Some(stem) = file_name.strip_suffix(".toml").or_else(|| file_name.strip_suffix(".json"))
            && !stem.ends_with(".expected")
            && !(stem == "config" && prefix.is_empty())
        {
            read_several(&path, &format!("{prefix}{stem}"), config, cases)?;
        }
    }
    Ok(())
}

fn read_case(folder: &Path, record: &Path, name: String, config: &str) -> anyhow::Result<Case> {
    let mut file: RecordFile = parse(record)?;
    if let Some(payload) = payload_file(folder)? {
        ensure!(
            file.payload.is_none() && !file.tombstone,
            "{} gives a payload, and there is the file {payload}, too; keep one of them",
            in_full(record)
        );
        file.payload = Some(FixtureContent::file(payload));
    }
    let expected = either(folder, "expected")?;
    let home = Home::File(expected.clone().unwrap_or_else(|| folder.join("expected.toml")));
    let expected = expected.as_deref().map(parse).transpose()?;
    let case = || -> anyhow::Result<Case> { case(file, name, folder, config, expected, home) };
    case().with_context(|| in_full(record))
}

/// Reads a file of several cases and the expectations beside it.
fn read_several(path: &Path, stem: &str, config: &str, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let Several { case: tables } = parse(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let home = path.with_extension("expected.toml");
    let mut expectations: Expectations = if home.exists() { parse(&home)? } else { Expectations::new() };
    let mut names = Vec::new();
    for (number, mut table) in (1..).zip(tables) {
        let here = || format!("{}: case {number}", in_full(path));
        let Some(toml::Value::String(name)) = table.remove("name") else {
            bail!("{} has no name; give it `name = \"…\"`", here());
        };
        ensure!(!names.contains(&name), "{}: an earlier case is called {name:?}, too; rename one of them", here());
        let expected = expectations.remove(&name);
        let home = Home::Shared(home.clone(), name.clone());
        let file = table.try_into::<RecordFile>().map_err(|error| anyhow::anyhow!("{}", one_line(&error)));
        let file = file.with_context(here)?;
        cases.push(case(file, format!("{stem}/{name}"), folder, config, expected, home).with_context(here)?);
        names.push(name);
    }
    if let Some(name) = expectations.keys().next() {
        bail!(
            "{} expects something of {name:?}, and {} has no such case; remove the expectation, or name the case so",
            in_full(&home),
            in_full(path)
        );
    }
    Ok(())
}

fn case(
    file: RecordFile,
    name: String,
    folder: &Path,
    config: &str,
    expected: Option<PluginAnswer>,
    home: Home,
) -> anyhow::Result<Case> {
    ensure!(!(file.tombstone && file.payload.is_some()), "a tombstone has no payload: remove `payload` or `tombstone`");
    ensure!(
        !(file.no_timestamp && file.timestamp_ms.is_some()),
        "`no_timestamp` and `timestamp_ms` contradict each other: remove one of them"
    );
    if let Some(config) = &file.config {
        ensure!(config.is_object(), "`config` isn't a table; write `config = {{ key = \"value\" }}`");
    }
    let bytes = |content: &FixtureContent| content.bytes(folder);
    let payload = match &file.payload {
        _ if file.tombstone => None,
        Some(payload) => Some(bytes(payload).context("`payload`")?),
        None => Some(Bytes::new()),
    };
    let header = |header: &HeaderFile| -> anyhow::Result<Header> {
        Ok(Header { key: bytes(&header.key)?, value: header.value.as_ref().map(bytes).transpose()? })
    };
    let input = InputRecord {
        source: TopicPartition { topic: file.topic.as_deref().unwrap_or("topic").into(), partition: file.partition },
        topic_id: None,
        offset: file.offset.0,
        timestamp_ms: (!file.no_timestamp).then(|| file.timestamp_ms.map_or(TIMESTAMP_MS, |Whole(ms)| ms)),
        key: file.key.as_ref().map(bytes).transpose().context("`key`")?,
        headers: file.headers.iter().map(header).collect::<anyhow::Result<_>>().context("`headers`")?,
        payload,
    };
    let config = file.config.map_or_else(|| config.to_owned(), |config| config.to_string());
    Ok(Case { name, input: Arc::new(input), config, expected, folder: folder.to_owned(), home })
}

/// The name of the file called `payload`, with or without an extension; `None`: there is none.
fn payload_file(folder: &Path) -> anyhow::Result<Option<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", in_full(folder)))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == "payload" || name.starts_with("payload.") {
            found.push(name);
        }
    }
    found.sort();
    ensure!(found.len() <= 1, "{} has several payloads: {}; keep one", in_full(folder), found.join(", "));
    Ok(found.pop())
}

/// The path of `NAME.toml` or `NAME.json`; `None`: there is neither.
fn either(folder: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    let [toml, json] = ["toml", "json"].map(|extension| folder.join(format!("{name}.{extension}")));
    match (toml.exists(), json.exists()) {
        (true, true) => bail!("there are {} and {}; keep one of them", in_full(&toml), in_full(&json)),
        (true, false) => Ok(Some(toml)),
        (false, true) => Ok(Some(json)),
        (false, false) => Ok(None),
    }
}

fn parse<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("can't read {}", in_full(path)))?;
    let parsed = match path.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::from_str(&text).map_err(anyhow::Error::from),
        false => toml::from_str(&text).map_err(anyhow::Error::from),
    };
    parsed.with_context(|| in_full(path))
}

fn write_toml(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = toml::to_string(value).with_context(|| format!("can't write {}", in_full(path)))?;
    fs::write(path, text).with_context(|| format!("can't write {}", in_full(path)))
}

fn one_line(error: &impl ToString) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> anyhow::Result<Vec<Case>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        read(folder.path())
    }

    #[test]
    fn what_was_written_is_read_back() {
        let header = |key: &'static [u8], value: Option<&'static [u8]>| Header {
            key: Bytes::from_static(key),
            value: value.map(Bytes::from_static),
        };
        let plain = InputRecord {
            source: TopicPartition { topic: "frames.left".into(), partition: 3 },
            topic_id: None,
            offset: u64::MAX,
            timestamp_ms: Some(7),
            key: Some(Bytes::from_static(b"\xff\0")),
            headers: vec![header(b"a", Some(b"1")), header(b"a", None), header(b"\xfe", Some(b""))],
            payload: Some(Bytes::from_static(b"text")),
        };
        let large = InputRecord { payload: Some(vec![b'x'; INLINE_BYTES + 1].into()), ..plain.clone() };
        let binary = InputRecord { payload: Some(Bytes::from_static(b"\0\xff")), ..plain.clone() };
        let empty = InputRecord { payload: Some(Bytes::new()), key: Some(Bytes::new()), ..plain.clone() };
        let tombstone = InputRecord { payload: None, key: None, headers: vec![], timestamp_ms: None, ..plain.clone() };
        let folder = tempfile::tempdir().unwrap();
        let records = [plain, large, binary, empty, tombstone];
        for (at, record) in records.iter().enumerate() {
            Case::write(&folder.path().join(at.to_string()), record).unwrap();
        }
        let cases = read(folder.path()).unwrap();
        assert_eq!(cases.iter().map(|case| (*case.input).clone()).collect::<Vec<_>>(), records);
        assert!(cases.iter().all(|case| case.expected.is_none() && case.config == "{}"));
    }

    #[test]
    fn several_cases_share_a_file() {
        let text = "[[case]]\nname = 'a'\nheaders = [{ key = 'type', value = 'x' }, { key = 'type' }]\n\
                    [[case]]\nname = 'b'\npayload = { repeat = 'ab', times = 3 }\nconfig = { n = 1 }\n";
        let cases = read_text("few.toml", text).unwrap();
        assert_eq!(cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>(), ["few/a", "few/b"]);
        assert_eq!(cases[0].input.headers[1].value, None);
        assert_eq!(cases[1].input.payload.as_deref(), Some(b"ababab".as_slice()));
        assert_eq!((cases[0].config.as_str(), cases[1].config.as_str()), ("{}", r#"{"n":1}"#));
        let json = r#"{"case": [{"name": "a", "payload": {"base64": "/w=="}}]}"#;
        assert_eq!(read_text("few.json", json).unwrap()[0].input.payload.as_deref(), Some(b"\xff".as_slice()));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (name, text, expected) in [
            (
                "a/record.toml",
                "partition = 1\nheader = []\n",
                &["record.toml", "line 2", "`header`", "`headers`"] as &[_],
            ),
            ("a/record.json", "{\"offset\": -1}", &["record.json", "from 0 on"]),
            ("a/record.toml", "payload = 7", &["expected a text, or one of", "file"]),
            ("a/record.toml", "payload = { base64 = '%' }", &["record.toml", "`payload`", "isn't valid base64"]),
            ("a/record.toml", "key = { file = 'gone' }", &["`key`", "can't read", "gone"]),
            ("a/record.toml", "tombstone = true\npayload = ''", &["a tombstone has no payload"]),
            ("a/record.toml", "no_timestamp = true\ntimestamp_ms = 1", &["contradict"]),
            ("a/record.toml", "config = 1", &["isn't a table"]),
            ("few.toml", "[[case]]\noffset = 1", &["few.toml: case 1 has no name"]),
            ("few.toml", "[[case]]\nname = 'a'\n[[case]]\nname = 'a'", &["case 2", "an earlier case is called \"a\""]),
            ("few.toml", "[[case]]\nname = 'a'\noffse = 1", &["case 1", "`offse`"]),
            ("few.toml", "cases = 1", &["few.toml", "`cases`", "`case`"]),
            ("few/readme.md", "", &["has no case", "record.toml"]),
        ] {
            let error = format!("{:#}", read_text(name, text).unwrap_err());
            for part in expected {
                assert!(error.contains(part), "{part:?} isn't in {error:?}");
            }
        }
    }

    #[test]
    fn an_expectation_without_a_case_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("few.toml"), "[[case]]\nname = 'a'").unwrap();
        fs::write(folder.path().join("few.expected.toml"), "[b]\nverdict = 'drop'").unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("expects something of \"b\""));
    }
}
