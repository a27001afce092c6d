//! Replays the dead letters of a Kafka topic, where nothing can be removed: a consumer group of its own, the sink's with
//! `.replay` behind it, remembers which are done with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::asking::ask;
use super::beside_live::BesideLive;
use super::{FoundLetter, LeftReason, LetterPlace, Replay, ReplayError};
use crate::config::Config;
use crate::dead_letters::format;
use crate::dead_letters::topic::reader::{Letters, Read};
use crate::flow::PartitionState;

/// Dead letters that are read, handled and committed together.
const PAGE_RECORDS: usize = 500;
const PAGE_BYTES: usize = 16 << 20;

pub fn replay(replay: &mut Replay<'_>, topic: &str) -> Result<(), ReplayError> {
    let mut letters = open(replay.config, &replay.stop, topic)?;
    while !replay.stopped() {
        let (asked, page) = ask(&replay.stop, move || letters.paged(PAGE_RECORDS, PAGE_BYTES))?;
        letters = asked;
        let Some(Read { partition, records }) = page? else { return Ok(()) };
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

fn open(config: &Config, stop: &AtomicBool, topic: &str) -> Result<Letters, ReplayError> {
    let (kafka, topic) = (config.kafka.clone(), topic.to_owned());
    Ok(ask(stop, move || Letters::open(&kafka, &topic))??)
}

/// How many letters the topic has at most that aren't done with.
pub fn count(config: &Config, stop: &AtomicBool, topic: &str) -> Result<u64, ReplayError> {
    Ok(open(config, stop, topic)?.left())
}

/// Letters that are written together beside live records.
const SMALL_PAGE: usize = 64;
const SMALL_PAGE_BYTES: usize = 4 << 20;

/// The same beside the live records of a host that is alone in its group: two would overwrite each other's notes of what is done
/// with.
pub fn replay_beside_live(replay: &mut BesideLive<'_>, topic: &str) -> Result<(), ReplayError> {
    replay.require_alone(topic)?;
    let mut letters = open(replay.config, &replay.stop, topic)?;
    while !replay.stopped() {
        let (asked, page) = match ask(&replay.stop, move || letters.paged(SMALL_PAGE, SMALL_PAGE_BYTES)) {
            // What is written waits to be settled, and is told to be left.
            Err(ReplayError::Stopped) => {
                return replay.settle(&mut |_: &BesideLive<'_>, _: &Arc<PartitionState>, _: &[&LetterPlace]| {
                    Err(LeftReason::Stopped.to_string())
                });
            }
            answer => answer?,
        };
        letters = asked;
        let page = page?;
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
