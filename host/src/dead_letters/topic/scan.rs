//! Looks a partition of the dead-letter topic through for the letters of a source partition.
//!
//! Guarantees: every committed letter that the partition held when the look-up began is seen, or it is said which
//! transaction hides some, or the look-up fails; it joins no group and commits nothing. It begins where a mark says, or
//! else at the partition's beginning.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use crate::config;
use crate::dead_letters::format::identity_of_headers;
use crate::kafka::scan::{ScanError, ScanReader, Scanned};
use crate::record::{Identity, TopicPartition};

/// How long another source's open transaction may hide what stands behind it before the look-up gives up. It is
/// repeated when the other sources, whose turn ends such a transaction, had theirs.
const HIDDEN_PATIENCE: Duration = Duration::from_secs(1);

/// The letters of a source partition from an offset on.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub source: &'a TopicPartition,
    pub from: u64,
}

/// What a look-up found.
#[derive(Debug)]
pub enum LookedUp {
    /// The wanted letters, with where each stands first, and where the partition ends.
    All { letters: HashMap<Identity, u64>, end: u64 },
    /// A transaction is open, so that letters could be hidden.
    Open(OpenTransaction),
}

/// A transaction that hides what stands behind its begin from readers of committed records.
#[derive(Debug, Clone, Copy)]
pub struct OpenTransaction {
    /// Where it begins in the partition.
    pub begin: u64,
    /// Whether it begins with a letter of the wanted source.
    pub is_of_source: bool,
}

/// Looks for the wanted letters in a partition of the topic. Blocks while it reads.
pub fn look_up(
    config: &config::Kafka,
    topic: &str,
    partition: u32,
    from: Option<u64>,
    wanted: &Wanted<'_>,
) -> Result<LookedUp, String> {
    let place = TopicPartition { topic: topic.into(), partition };
    let mut reader = ScanReader::of_group(config, &config.group).map_err(|error| error.to_string())?;
    let readable = reader.wait_for_transactions(&place, HIDDEN_PATIENCE).map_err(|error| error.to_string())?;
    let (begin, end) = (readable.committed.start, readable.committed.end);
    if !readable.hidden.is_empty() {
        let mut is_of_source = false;
        let mut reader = ScanReader::of_uncommitted(config).map_err(|error| error.to_string())?;
        for_each_letter(&mut reader, &place, end..end.saturating_add(1), |identity, _| {
            is_of_source = wanted.source == &identity.source;
        })?;
        return Ok(LookedUp::Open(OpenTransaction { begin: end, is_of_source }));
    }
    // A mark behind the end is of a topic that was deleted and created again since.
    let begin = from.filter(|from| *from <= end).map_or(begin, |from| from.max(begin));
    let mut letters = HashMap::new();
    for_each_letter(&mut reader, &place, begin..end, |identity, at| {
        if wanted.source == &identity.source && wanted.from <= identity.offset {
            letters.entry(identity).or_insert(at);
        }
    })?;
    Ok(LookedUp::All { letters, end })
}

/// Reads a range, and shows each letter with its offset.
fn for_each_letter(
    reader: &mut ScanReader,
    place: &TopicPartition,
    range: Range<u64>,
    mut show: impl FnMut(Identity, u64),
) -> Result<(), String> {
    let failed = |error: ScanError| error.to_string();
    reader.assign([(place.clone(), range)]).map_err(failed)?;
    while let Some(Scanned { record, problem }) = reader.read_next().map_err(failed)? {
        if let Some(problem) = problem {
            return Err(format!("offset {} can't be read: {problem}", record.offset));
        }
        let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        if let Some(identity) = identity_of_headers(headers) {
            show(identity, record.offset);
        }
    }
    Ok(())
}
