//! Replays the dead letters of ReductStore's entries: each is removed when it is done with.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use tokio::runtime::Handle;

use super::beside_live::BesideLive;
use super::{FoundLetter, LetterPlace, Replay, ReplayError, wrong};
use crate::config::Config;
use crate::dead_letters::format;
use crate::flow::PartitionState;
use crate::record::entry_name::{EntryName, Template};
use crate::sink::pages::EntryRecord;
use crate::sink::store::Store;

/// Dead letters that are read, handled and removed together.
const PAGE_RECORDS: usize = 500;
const PAGE_BYTES: usize = 16 << 20;

pub fn replay(
    replay: &mut Replay<'_>,
    store: &Store,
    tokio: &Handle,
    pattern: Option<&str>,
) -> Result<(), ReplayError> {
    let config = replay.config;
    let wrong = |error| wrong(config, error);
    let glob =
        glob(pattern, config).map_err(|error| ReplayError::Failed(format!("the pattern of entries: {error}")))?;
    let entries = tokio.block_on(store.entries()).map_err(wrong)?;
    for entry in entries.iter().filter(|entry| glob.is_match(entry.as_str())) {
        let mut from = 0;
        while !replay.stopped() {
            let page = tokio.block_on(store.page(entry, from, PAGE_RECORDS, PAGE_BYTES)).map_err(wrong)?;
            let Some(last) = page.last() else { break };
            from = last.timestamp_us.saturating_add(1);
            let mut found = Vec::new();
            for EntryRecord { timestamp_us, labels, payload, .. } in page {
                match format::read(&labels, payload) {
                    Some(letter) => {
                        found.push(FoundLetter {
                            place: LetterPlace::Entry { entry: entry.clone(), timestamp_us },
                            letter,
                        });
                    }
                    None => replay.summary.others += 1,
                }
            }
            replay.page(found, |done| {
                let times = done.into_iter().filter_map(|place| match place {
                    LetterPlace::Entry { timestamp_us, .. } => Some(*timestamp_us),
                    LetterPlace::Topic { .. } => None,
                });
                tokio.block_on(store.remove_letters(entry, &times.collect::<Vec<_>>())).map_err(wrong)
            })?;
        }
    }
    Ok(())
}

/// Letters that are written together beside live records.
const SMALL_PAGE: usize = 64;
const SMALL_PAGE_BYTES: usize = 4 << 20;

/// The same beside the live records of the host that runs.
pub fn replay_beside_live(replay: &mut BesideLive<'_>) -> Result<(), ReplayError> {
    let (config, sink) = (replay.config, replay.sink.clone());
    let wrong = |error| wrong(config, error);
    let (store, runtime) = (sink.store(), sink.runtime());
    let glob = glob(None, config).map_err(|error| ReplayError::Failed(format!("the pattern of entries: {error}")))?;
    // What comes later is for the next replay: this one would have no end while plugins fail.
    let newest: BTreeMap<String, u64> = runtime.block_on(store.newest()).map_err(wrong)?.into_iter().collect();
    let remove = &mut |replay: &BesideLive<'_>, live: &Arc<PartitionState>, places: &[&LetterPlace]| {
        let times = places.iter().filter_map(|place| match place {
            LetterPlace::Entry { timestamp_us, .. } => Some(*timestamp_us),
            LetterPlace::Topic { .. } => None,
        });
        let (entry, owners, times) = (&live.dead_letter_entry, vec![Arc::clone(live)], times.collect());
        let removal = replay.sink.remove_letters(entry, owners, times, replay.store_start()?);
        replay.sink.runtime().block_on(removal)
    };
    for (entry, newest) in newest.into_iter().filter(|(entry, _)| glob.is_match(entry)) {
        let Ok(entry) = EntryName::parse(&entry) else { continue };
        let mut from = 0;
        while !replay.stopped() && from <= newest {
            let page = runtime.block_on(store.page(&entry, from, SMALL_PAGE, SMALL_PAGE_BYTES)).map_err(wrong)?;
            let Some(last) = page.last() else { break };
            from = last.timestamp_us.saturating_add(1);
            let mut found = Vec::new();
            for EntryRecord { timestamp_us, labels, payload, .. } in page {
                match format::read(&labels, payload) {
                    Some(letter) => {
                        let place = LetterPlace::Entry { entry: entry.clone(), timestamp_us };
                        found.push(FoundLetter { place, letter });
                    }
                    None => replay.summary.others += 1,
                }
            }
            replay.page(found)?;
            if replay.is_full() {
                replay.settle(remove)?;
            }
        }
    }
    replay.settle(remove)
}

/// How many records the entries of dead letters have.
pub fn count(config: &Config, store: &Store, tokio: &Handle) -> Result<u64, ReplayError> {
    let glob = glob(None, config).map_err(|error| ReplayError::Failed(format!("the pattern of entries: {error}")))?;
    let counts = tokio.block_on(store.record_counts()).map_err(|error| wrong(config, error))?;
    Ok(counts.into_iter().filter(|(entry, _)| glob.is_match(entry)).map(|(_, count)| count).sum())
}

/// The entries that are meant: those of the pattern, or all that the configured template can name.
fn glob(pattern: Option<&str>, config: &Config) -> Result<Regex, String> {
    let pattern = match pattern {
        Some(pattern) => pattern.to_owned(),
        None => {
            let template = Template::parse(&config.dead_letters.entry).map_err(|error| error.to_string())?;
            template.to_string().replace("{topic}", "*").replace("{partition}", "*")
        }
    };
    let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).map_err(|error| error.to_string())
}
