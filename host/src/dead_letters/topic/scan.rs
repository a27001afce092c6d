//! Looks a partition of the dead-letter topic through for the letters of a source partition.
//!
//! Guarantees: every committed letter that the partition held when the look-up began is seen, or the look-up fails; it
//! joins no group and commits nothing. It begins where a mark says, or else at the partition's beginning.

use std::collections::HashMap;
use std::time::Duration;

use crate::config;
use crate::dead_letters::format::identity_of_headers;
use crate::kafka::error::KafkaCheckError;
use crate::kafka::scan::{ScanError, ScanReader, Scanned};
use crate::record::{Identity, TopicPartition};

/// How long another source's open transaction may hide what stands behind it before the look-up fails. It is tried again
/// when the other sources, whose turn ends such a transaction, had theirs.
const HIDDEN_PATIENCE: Duration = Duration::from_secs(1);

/// The letters of a source partition from an offset on.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub source: &'a TopicPartition,
    pub from: u64,
}

/// The wanted letters that are in the partition, with where each stands first, and the partition's end. Blocks while it
/// reads.
pub fn look_up(
    config: &config::Kafka,
    topic: &str,
    partition: u32,
    from: Option<u64>,
    wanted: &Wanted<'_>,
) -> Result<(HashMap<Identity, u64>, u64), String> {
    let mut reader = ScanReader::of_group(config, &config.group).map_err(|error: KafkaCheckError| error.to_string())?;
    let failed = |error: ScanError| error.to_string();
    let place = TopicPartition { topic: topic.into(), partition };
    let mut found = HashMap::new();
    let bounds = reader.bounds_without_open_transactions(&place, HIDDEN_PATIENCE).map_err(failed)?;
    // A mark behind the end is of a topic that was deleted and created again since.
    let begin = from.filter(|from| *from <= bounds.end).map_or(bounds.start, |from| from.max(bounds.start));
    reader.assign([(place, begin..bounds.end)]).map_err(failed)?;
    while let Some(Scanned { record, problem }) = reader.read_next().map_err(failed)? {
        if let Some(problem) = problem {
            return Err(format!("offset {} can't be read: {problem}", record.offset));
        }
        let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        if let Some(identity) = identity_of_headers(headers)
            && wanted.source == &identity.source
            && wanted.from <= identity.offset
        {
            found.entry(identity).or_insert(record.offset);
        }
    }
    Ok((found, bounds.end))
}
