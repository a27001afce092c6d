//! Reads the conformance cases from `tests/conformance/cases.toml`, and compares them with what a guest made of the
//! records.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reduct_sink::chain::Outcome;
use reduct_sink::record::{Header, InputRecord, OutputRecord};
use serde::Deserialize;

use super::guests::record;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    pub case: Vec<Case>,
    pub load: Vec<Load>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub name: String,
    pub config: String,
    pub error: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    headers: Vec<Vec<String>>,
    #[serde(default)]
    before: Vec<Vec<Vec<String>>>,
    #[serde(default = "one_unconfigured")]
    pub configs: Vec<String>,
    payload: Option<String>,
    payload_fill: Option<usize>,
    #[serde(default)]
    tombstone: bool,
    key: Option<String>,
    #[serde(default)]
    no_key: bool,
    offset: Option<u64>,
    outputs: Option<Vec<Output>>,
    output_count: Option<usize>,
    #[serde(default)]
    dropped: bool,
    failed: Option<String>,
    retry: Option<String>,
}

/// The fields of an expected output; a field that is missing isn't compared.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    entry: Option<String>,
    timestamp: Option<u64>,
    content_type: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    label_count: Option<usize>,
    payload: Option<String>,
    fill: Option<usize>,
    index: Option<u32>,
}

fn one_unconfigured() -> Vec<String> {
    vec!["{}".into()]
}

pub fn read() -> Result<Cases> {
    let cases: Cases = toml::from_str(include_str!("../../conformance/cases.toml"))?;
    let mut names = BTreeMap::new();
    for case in &cases.case {
        ensure!(names.insert(&case.name, ()).is_none(), "two cases are named {:?}", case.name);
        let expected = [
            case.outputs.is_some(),
            case.output_count.is_some(),
            case.dropped,
            case.failed.is_some(),
            case.retry.is_some(),
        ];
        ensure!(expected.into_iter().filter(|is| *is).count() == 1, "{:?} must expect one thing", case.name);
    }
    Ok(cases)
}

impl Case {
    pub fn before(&self) -> Vec<InputRecord> {
        self.before.iter().map(|these| record(headers(these), "0123456789")).collect()
    }

    pub fn record(&self) -> InputRecord {
        let payload = match (&self.payload, self.payload_fill) {
            (Some(text), _) => bytes(text),
            (_, Some(length)) => vec![b'x'; length].into(),
            _ => Bytes::from_static(b"0123456789"),
        };
        let mut record = record(headers(&self.headers), payload);
        if self.tombstone {
            record.payload = None;
        }
        match &self.key {
            Some(key) => record.key = Some(bytes(key)),
            None if self.no_key => record.key = None,
            None => {}
        }
        record.offset = self.offset.unwrap_or(record.offset);
        record
    }

    pub fn check(&self, outcome: &Outcome) -> Result<()> {
        match (outcome, &self.outputs, self.output_count, &self.failed, &self.retry) {
            (Outcome::Outputs(outputs), Some(expected), ..) => {
                ensure!(outputs.len() == expected.len(), "{} outputs, not {}", outputs.len(), expected.len());
                outputs.iter().zip(expected).enumerate().try_for_each(|(at, (output, expected))| {
                    let index = expected.index.or((outputs.len() > 1).then_some(at as u32));
                    ensure!(output.index == index, "output {at} has the index {:?}", output.index);
                    expected.check(output).with_context(|| format!("output {at}"))
                })
            }
            (Outcome::Outputs(outputs), _, Some(expected), ..) => {
                ensure!(outputs.len() == expected, "{} outputs, not {expected}", outputs.len());
                Ok(())
            }
            (Outcome::Dropped, ..) if self.dropped => Ok(()),
            (Outcome::DeadLetter(failure), _, _, Some(text), _) | (Outcome::Retry(failure), .., Some(text)) => {
                let text = text_of(text);
                ensure!(failure.reason.contains(&text), "failed because of {:?}", failure.reason);
                Ok(())
            }
            (other, ..) => bail!("became {}", format!("{other:?}").chars().take(500).collect::<String>()),
        }
    }
}

impl Output {
    fn check(&self, output: &OutputRecord) -> Result<()> {
        ensure!(output.entry == self.entry, "entry {:?}", output.entry);
        ensure!(output.timestamp_us == self.timestamp, "timestamp {:?}", output.timestamp_us);
        ensure!(output.content_type == self.content_type, "content type {:?}", output.content_type);
        let labels: Vec<String> = output
            .labels
            .iter()
            .map(|label| match &label.value {
                Some(value) => format!("{}={value}", label.name),
                None => label.name.clone(),
            })
            .collect();
        match self.label_count {
            Some(count) => ensure!(labels.len() == count, "{} labels", labels.len()),
            None => {
                let expected: Vec<String> = self.labels.iter().map(|label| text_of(label)).collect();
                ensure!(labels == expected, "labels {labels:?}");
            }
        }
        let expected = match (&self.payload, self.fill) {
            (Some(text), _) => Some(bytes(text)),
            (_, Some(length)) => Some(vec![b'x'; length].into()),
            _ => None,
        };
        if output.payload != expected {
            let found = output.payload.as_deref().map(|bytes| {
                let start = String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned();
                format!("{} bytes: {start:?}", bytes.len())
            });
            bail!("payload {found:?}");
        }
        Ok(())
    }
}

fn headers(these: &[Vec<String>]) -> Vec<Header> {
    let header = |header: &Vec<String>| Header { key: bytes(&header[0]), value: header.get(1).map(|text| bytes(text)) };
    these.iter().map(header).collect()
}

/// The text, in which `<<4 x>>` becomes `xxxx`.
fn text_of(text: &str) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<<") {
        let (times, rest_of_it) = after.split_once(' ').expect("<<TIMES TEXT>>");
        let (piece, behind) = rest_of_it.split_once(">>").expect("<<TIMES TEXT>>");
        whole.push_str(before);
        whole.push_str(&piece.repeat(times.parse().expect("a number of times")));
        rest = behind;
    }
    whole + rest
}

fn bytes(text: &str) -> Bytes {
    match text.strip_prefix("hex:") {
        Some(digits) => {
            let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
            (0..digits.len()).step_by(2).map(digit).collect()
        }
        None => text_of(text).into(),
    }
}
