//! Replays the dead letters of a Kafka topic, where nothing can be removed: a consumer group of its own, the sink's with
//! `.replay` behind it, remembers which are done with.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::beside_live::BesideLive;
use super::{FoundLetter, LetterPlace, Replay, ReplayError};
use crate::config::Config;
use crate::dead_letters::format;
use crate::dead_letters::topic::reader::{Letters, Read};
use crate::flow::PartitionState;

/// Dead letters that are read, handled and committed together.
const PAGE_RECORDS: usize = 500;
const PAGE_BYTES: usize = 16 << 20;

pub fn replay(replay: &mut Replay<'_>, topic: &str) -> Result<(), ReplayError> {
    let mut letters = Letters::open(&replay.config.kafka, topic)?;
    while !replay.stopped() {
        let page = letters.page(PAGE_RECORDS, PAGE_BYTES)?;
        let Some(Read { partition, records }) = page else { return Ok(()) };
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for record in records {
            let place = LetterPlace::Topic { partition: record.source.clone(), offset: record.offset };
            match format::read_from_topic(record) {
                Some(letter) => found.push(FoundLetter { place, letter }),
                None => others.extend(offset_of(&place)),
            }
        }
        replay.summary.others += others.len() as u64;
        replay
            .page(found, |done| Ok(letters.done(partition, done.into_iter().filter_map(offset_of).chain(others))?))?;
    }
    Ok(())
}

/// How many letters the topic has at most that aren't done with.
pub fn count(config: &Config, topic: &str) -> Result<u64, ReplayError> {
    Ok(Letters::open(&config.kafka, topic)?.left())
}

/// Letters that are written together beside live records.
const SMALL_PAGE: usize = 64;
const SMALL_PAGE_BYTES: usize = 4 << 20;

/// The same beside the live records of a host that is alone in its group: two would overwrite each other's notes of what is done
/// with.
pub fn replay_beside_live(replay: &mut BesideLive<'_>, topic: &str) -> Result<(), ReplayError> {
    replay.require_alone(topic)?;
    let mut letters = Letters::open(&replay.config.kafka, topic)?;
    while !replay.stopped() {
        let page = letters.page(SMALL_PAGE, SMALL_PAGE_BYTES)?;
        let is_last = page.is_none();
        if let Some(Read { records, .. }) = page {
            let mut found = Vec::new();
            for record in records {
                let place = LetterPlace::Topic { partition: record.source.clone(), offset: record.offset };
                match format::read_from_topic(record) {
                    Some(letter) => found.push(FoundLetter { place, letter }),
                    None => replay.summary.others += 1,
                }
            }
            replay.page(found)?;
        }
        if is_last || replay.is_full() {
            replay.settle(&mut |replay: &BesideLive<'_>, _: &Arc<PartitionState>, places: &[&LetterPlace]| {
                replay.require_alone(topic).map_err(|error| error.to_string())?;
                replay.require_same_start()?;
                mark(&mut letters, places).map_err(|error| error.to_string())
            })?;
        }
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Notes that these are done with.
fn mark(letters: &mut Letters, places: &[&LetterPlace]) -> Result<(), ReplayError> {
    let mut by_partition: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for place in places {
        if let LetterPlace::Topic { partition, offset } = place {
            by_partition.entry(partition.partition).or_default().push(*offset);
        }
    }
    for (partition, offsets) in by_partition {
        letters.done(partition, offsets.into_iter())?;
    }
    Ok(())
}

fn offset_of(place: &LetterPlace) -> Option<u64> {
    match place {
        LetterPlace::Topic { offset, .. } => Some(*offset),
        LetterPlace::Entry { .. } => None,
    }
}
