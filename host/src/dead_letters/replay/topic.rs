//! Replays the dead letters of a Kafka topic, where nothing can be removed: a consumer group of its own, the sink's with
//! `.replay` behind it, remembers which are done with.

use super::{FoundLetter, LetterPlace, Replay, ReplayError};
use crate::dead_letters::format;
use crate::dead_letters::topic::reader::{Letters, Read};

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

fn offset_of(place: &LetterPlace) -> Option<u64> {
    match place {
        LetterPlace::Topic { offset, .. } => Some(*offset),
        LetterPlace::Entry { .. } => None,
    }
}
