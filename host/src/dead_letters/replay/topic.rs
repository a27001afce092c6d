//! Replays the dead letters of a Kafka topic, where nothing can be removed: a consumer group of its own, the sink's with
//! `.replay` behind it, remembers which are done with.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::asking::ReplayQuestions;
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
    let mut letters = AskedLetters::open(replay.config, &replay.questions, topic)?;
    while !replay.stopped() {
        let Some(Read { partition, records }) = letters.page(PAGE_RECORDS, PAGE_BYTES)? else { return Ok(()) };
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for record in records {
            let place = LetterPlace::Topic { partition: record.source.clone(), offset: record.offset };
            match format::read_from_topic(record) {
                Some(letter) => found.push(FoundLetter { place, letter }),
                None => others.extend(offset_of(&place)),
            }
        }
        replay.summary.others += others.len() as u64;
        replay.page(found, |done| {
            letters.done(partition, done.into_iter().filter_map(offset_of).chain(others).collect())
        })?;
    }
    Ok(())
}

/// How many letters the topic has at most that aren't done with.
pub fn count(config: &Config, questions: &ReplayQuestions, topic: &str) -> Result<u64, ReplayError> {
    let letters = AskedLetters::open(config, questions, topic)?;
    Ok(letters.letters.as_ref().map_or(0, Letters::left))
}

/// The letters of a topic. While Kafka is asked they are on the thread that asks.
struct AskedLetters {
    questions: ReplayQuestions,
    /// `None`: they stayed there, because a stop came before the answer.
    letters: Option<Letters>,
}

impl AskedLetters {
    fn open(config: &Config, questions: &ReplayQuestions, topic: &str) -> Result<Self, ReplayError> {
        let (kafka, topic) = (config.kafka.clone(), topic.to_owned());
        let letters = questions.ask(move || Letters::open(&kafka, &topic))??;
        Ok(Self { questions: questions.clone(), letters: Some(letters) })
    }

    /// The next ones; `None`: there are no more.
    fn page(&mut self, most: usize, most_bytes: usize) -> Result<Option<Read>, ReplayError> {
        let mut letters = self.letters.take().ok_or(ReplayError::Stopped)?;
        let (letters, page) = self.questions.ask(move || {
            let page = letters.page(most, most_bytes);
            (letters, page)
        })?;
        self.letters = Some(letters);
        Ok(page?)
    }

    /// Notes that these of a partition are done with.
    fn done(&mut self, partition: u32, offsets: Vec<u64>) -> Result<(), ReplayError> {
        let mut letters = self.letters.take().ok_or(ReplayError::Stopped)?;
        let (letters, noted) = self.questions.commit(move || {
            let noted = letters.done(partition, offsets.into_iter());
            (letters, noted)
        })?;
        self.letters = Some(letters);
        Ok(noted?)
    }
}

impl Drop for AskedLetters {
    /// Closing their client asks Kafka, too.
    fn drop(&mut self) {
        if let Some(letters) = self.letters.take() {
            let _ = self.questions.ask(move || drop(letters));
        }
    }
}

/// Letters that are written together beside live records.
const SMALL_PAGE: usize = 64;
const SMALL_PAGE_BYTES: usize = 4 << 20;

/// The same beside the live records of a host that is alone in its group: two would overwrite each other's notes of what is done
/// with.
pub fn replay_beside_live(replay: &mut BesideLive<'_>, topic: &str) -> Result<(), ReplayError> {
    replay.require_alone(topic)?;
    let mut letters = AskedLetters::open(replay.config, &replay.questions, topic)?;
    while !replay.stopped() {
        let page = match letters.page(SMALL_PAGE, SMALL_PAGE_BYTES) {
            // What is written waits to be settled, and is told to be left.
            Err(ReplayError::Stopped) => {
                return replay.settle(&mut |_: &BesideLive<'_>, _: &Arc<PartitionState>, _: &[&LetterPlace]| {
                    Err(LeftReason::Stopped.to_string())
                });
            }
            page => page?,
        };
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
fn mark(letters: &mut AskedLetters, places: &[&LetterPlace]) -> Result<(), ReplayError> {
    let mut by_partition: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for place in places {
        if let LetterPlace::Topic { partition, offset } = place {
            by_partition.entry(partition.partition).or_default().push(*offset);
        }
    }
    for (partition, offsets) in by_partition {
        letters.done(partition, offsets)?;
    }
    Ok(())
}

fn offset_of(place: &LetterPlace) -> Option<u64> {
    match place {
        LetterPlace::Topic { offset, .. } => Some(*offset),
        LetterPlace::Entry { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::config;
    use crate::kafka::testing::MockCluster;

    /// The brokers answered until now, and answer no more.
    #[test]
    fn a_stop_does_not_wait_for_a_commit_that_is_not_answered() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("letters", 1, 1).unwrap();
        let variables = [("BROKERS", &*cluster.bootstrap_servers()), ("TOPICS", "t"), ("BUCKET", "b")];
        let environment =
            variables.map(|(name, value)| (format!("REDUCT_SINK_{name}").into(), value.into())).into_iter().collect();
        let sources = config::Sources { environment, ..config::Sources::default() };
        let config = config::load(sources).config.unwrap().only().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut letters =
            AskedLetters::open(&config, &ReplayQuestions::start(Arc::clone(&stop)).unwrap(), "letters").unwrap();
        letters.done(0, vec![0]).unwrap();
        cluster.broker_round_trip_time(1, Duration::from_secs(3_600)).unwrap();
        stop.store(true, Ordering::SeqCst);
        let noted = letters.done(0, vec![1]);
        assert!(matches!(noted, Err(ReplayError::Stopped)), "{noted:?}");
        let again = letters.page(1, 1);
        assert!(matches!(again, Err(ReplayError::Stopped)), "their client is still asking");
    }
}
