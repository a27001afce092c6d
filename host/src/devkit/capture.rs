//! `plugin capture`: makes fixtures of the records of a live topic.
//!
//! Guarantees: the topic and its consumer groups are not changed (see [`crate::kafka::peek`]); a fixture holds the
//! record byte for byte; an existing fixture is never overwritten.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::fixtures::Case;
use crate::config::{Kafka, in_full};
use crate::kafka::peek::{From, PeekedRecord, Until, peek};
use crate::record::InputRecord;

/// Writes up to `count` records, each into its own folder below `folder`, and calls `wrote` with each of these folders.
/// Returns how many records it wrote.
///
/// From [`From::Latest`] on it waits for new records; from any other position it ends at the present end of the topic.
pub fn capture(
    kafka: &Kafka,
    from: From,
    count: u64,
    folder: &Path,
    wrote: &mut dyn FnMut(&Path),
) -> anyhow::Result<u64> {
    let until = if from == From::Latest { Until::Stopped } else { Until::End };
    let (mut captured, mut problem) = (0, None);
    let mut see = |seen: PeekedRecord| {
        match write(folder, &seen) {
            Ok(path) => wrote(&path),
            Err(error) => {
                problem = Some(error);
                return ControlFlow::Break(());
            }
        }
        captured += 1;
        if captured < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    if count > 0 {
        peek(kafka, from, until, &mut see)?;
    }
    problem.map_or(Ok(captured), Err)
}

fn write(folder: &Path, PeekedRecord { record, problem, .. }: &PeekedRecord) -> anyhow::Result<PathBuf> {
    if let Some(problem) = problem {
        bail!("record {}@{} can't be captured: {problem}", record.source, record.offset);
    }
    let path = folder.join(name(record));
    if path.exists() {
        bail!("{} exists already; remove it, or name another folder with --output", in_full(&path));
    }
    Case::write(&path, record).with_context(|| format!("record {}@{}", record.source, record.offset))?;
    Ok(path)
}

fn name(record: &InputRecord) -> String {
    format!("{}-{}-{}", record.source.topic, record.source.partition, record.offset)
}
