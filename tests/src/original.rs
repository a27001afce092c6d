//! Reads a record's key and headers back from the labels in ReductStore, as `host/docs/record-mapping.md` describes it.
//!
//! Guarantees: shares no code with the host.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

/// A header: its key, and its value unless that is null.
pub type Header = (Bytes, Option<Bytes>);

/// The record's key and headers.
pub fn original(labels: &BTreeMap<String, String>) -> Result<(Option<Bytes>, Vec<Header>)> {
    let plain = |name: &str| labels.get(name).map(|value| Bytes::from(value.clone()));
    let mut key = plain("kafka.key");
    let is_ours = |name: &str| name.starts_with("kafka.") || name.starts_with("sink.");
    let all = labels.iter().filter(|(name, _)| !is_ours(name));
    let all = || all.clone().map(|(name, value)| (name.clone().into(), Some(value.clone().into()))).collect();
    let Some(text) = labels.get("kafka.headers") else { return Ok((key, all())) };
    let mut headers = Vec::new();
    let mut parts = text.split('&').peekable();
    if let Some(part) = parts.next_if(|part| part.starts_with('@')) {
        key = value(part.trim_start_matches('@'), plain("kafka.key"))?;
    }
    if parts.peek().is_none() {
        return Ok((key, all()));
    }
    for part in parts {
        let end = part.find(['=', '*', '!']).unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        let name = unquote(name)?;
        let label = label_name(&name);
        headers.push((name.into(), value(rest, plain(&label)).with_context(|| format!("{part:?} of {labels:?}"))?));
    }
    Ok((key, headers))
}

/// The key and headers from the text that follows a dead letter's payload, in which every part has its value itself.
pub fn original_of_text(text: &str) -> Result<(Option<Bytes>, Vec<Header>)> {
    let labels = BTreeMap::from([("kafka.headers".to_owned(), text.to_owned())]);
    if text.is_empty() { Ok((None, Vec::new())) } else { original(&labels) }
}

/// The name of the label for a header with this key.
pub fn label_name(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let mut name: String = match std::str::from_utf8(key) {
        Ok(text) => text.chars().map(legal).collect(),
        Err(_) => key
            .utf8_chunks()
            .flat_map(|c| c.valid().chars().map(legal).chain(c.invalid().iter().map(|_| '_')))
            .collect(),
    };
    if text.is_empty() {
        name.push('_');
    }
    for prefix in ["kafka", "sink"] {
        if let Some(rest) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
            return format!("{prefix}_{rest}");
        }
    }
    if name == "__proto__" { "_proto_".into() } else { name }
}

fn legal(c: char) -> char {
    match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '.' | '-') => c,
        _ => '_',
    }
}

fn value(told: &str, label: Option<Bytes>) -> Result<Option<Bytes>> {
    Ok(match told {
        "" => Some(label.context("no such label")?),
        "*" => Some(unquote(std::str::from_utf8(&label.context("no such label")?)?)?.into()),
        "!" => None,
        told => Some(unquote(told.strip_prefix('=').context("no = before a value")?)?.into()),
    })
}

/// Percent-decoding.
pub fn unquote(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        bytes.extend(&rest.as_bytes()[..at]);
        ensure!(rest.is_char_boundary(at + 1) && rest.len() >= at + 3, "{text:?} ends in an escape");
        let Ok(byte) = u8::from_str_radix(&rest[at + 1..at + 3], 16) else { bail!("{text:?} has a wrong escape") };
        bytes.push(byte);
        rest = &rest[at + 3..];
    }
    bytes.extend(rest.as_bytes());
    Ok(bytes)
}
