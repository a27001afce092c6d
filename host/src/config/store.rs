//! `[store]`: from raw values to the configuration of the store.

use std::path::PathBuf;

use super::checks;
use super::problem::{ConfigLocation, ConfigProblem};
use super::reader::{KeyReader, in_full, plain_text};
use super::regular_file::read_small_text;
use super::validate::{content_types, default_text, template};
use super::value::{ConfigValue, Origin};
use super::{BucketSettings, Quota, QuotaType, Secret, StoreConfig};

pub(super) fn store(reader: &mut KeyReader<'_>) -> StoreConfig {
    let expected = "http:// or https://, a host, a port and perhaps a path, without user, password, query or fragment";
    let url = reader.parsed("store.url", expected, |found| checks::url(plain_text(found)?));
    if reader.find("store.bucket").is_none() {
        reader.missing("store.bucket");
    }
    let expected = "a bucket's name of letters, digits, `-` and `_`";
    let bucket = reader.parsed("store.bucket", expected, |found| checks::bucket(plain_text(found)?));
    let ca = reader.path("store.tls.ca");
    if ca.as_ref().is_some_and(|path| path.to_str().is_none())
        && let Some(found) = reader.find("store.tls.ca")
    {
        reader.reject("store.tls.ca", found, "a path that is UTF-8, the configuration file's folder included");
    }
    let (token, token_file) = token(reader);
    StoreConfig {
        url: url.unwrap_or_else(|| default_text("store.url")),
        token,
        token_file,
        bucket: bucket.unwrap_or_default(),
        entry: template(reader, "store.entry", &["{name}", "{topic}", "{partition}"]),
        timeout: reader.duration("store.timeout"),
        ca,
        verify_tls: reader.boolean("store.tls.verify"),
        batch_records: reader.number("store.batch_records"),
        batch_bytes: reader.size("store.batch_bytes"),
        create: BucketSettings {
            max_block_records: reader.number("store.create.max_block_records"),
            max_block_bytes: reader.size("store.create.max_block_size"),
            quota: quota(reader),
        },
        discard: reader.boolean("store.discard"),
        verify_writes: reader.boolean("store.verify_writes"),
        shared_entries: reader.boolean("store.shared_entries"),
        content_types: content_types(reader),
    }
}

/// From `store.token` or the file that `store.token_file` names, with that file; of two layers, the upper one's.
fn token(reader: &mut KeyReader<'_>) -> (Option<Secret>, Option<PathBuf>) {
    const EXPECTED: &str = "a token: one line of visible ASCII characters";
    let layer = |found: &ConfigValue| match found.location {
        ConfigLocation::File { .. } => 0,
        ConfigLocation::Environment(_) => 1,
        ConfigLocation::Flag(_) => 2,
    };
    let (text, file) = (reader.find("store.token"), reader.find("store.token_file"));
    if let (Some(text), Some(file)) = (text, file)
        && layer(text) == layer(file)
    {
        reader.problems.push(ConfigProblem::at(
            &file.location,
            "store.token_file",
            "store.token is set too, expected one of them",
        ));
        return (None, None);
    }
    if text.map(layer) > file.map(layer) {
        let token = reader.parsed("store.token", EXPECTED, |found| checks::token(plain_text(found)?));
        let from_file = text.and_then(|found| match &found.origin {
            Origin::File(path) => Some(path.clone()),
            _ => None,
        });
        return (token.map(Secret::new), from_file);
    }
    let (Some(path), Some(file)) = (reader.path("store.token_file"), file) else { return (None, None) };
    let location = &file.location;
    let shown = in_full(&path);
    let token = match read_small_text(&path) {
        Ok(text) => checks::token(text.trim()).ok_or_else(|| format!("{shown} holds no token, expected {EXPECTED}")),
        Err(error) => Err(format!("cannot read {shown}: {error}")),
    };
    match token {
        Ok(token) => (Some(Secret::new(token)), Some(path)),
        Err(text) => {
            reader.problems.push(ConfigProblem::at(location, "store.token_file", text));
            (None, Some(path))
        }
    }
}

fn quota(reader: &mut KeyReader<'_>) -> Option<Quota> {
    const TYPE: &str = "store.create.quota_type";
    const SIZE: &str = "store.create.quota_size";
    let kind = reader.choice::<QuotaType>(TYPE);
    let size = reader.optional_size(SIZE);
    match (reader.find(TYPE), reader.find(SIZE)) {
        (Some(found), None) if kind != QuotaType::None => {
            let text = "a quota without a size, set quota_size as well, such as \"100GB\"";
            reader.problems.push(ConfigProblem::at(&found.location, TYPE, text));
        }
        (None, Some(found)) => {
            let text = "a size without a kind, set quota_type as well: \"fifo\" or \"hard\"";
            reader.problems.push(ConfigProblem::at(&found.location, SIZE, text));
        }
        _ => (),
    }
    match kind {
        QuotaType::None => None,
        QuotaType::Fifo => size.map(Quota::Fifo),
        QuotaType::Hard => size.map(Quota::Hard),
    }
}
