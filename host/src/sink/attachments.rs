//! The files of `[[attachments]]`: what ReductStore keeps beside the records of an entry, such as the schema that its
//! extensions need.
//!
//! Guarantees: a file that can't be read at the start is an error; one that can't be read later leaves what it held before
//! in force, and is told by [`Attachments::problem`] until it can be read again; finding out that an entry has none costs
//! nothing where none is configured.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;
use thiserror::Error;
use tracing::{info, warn};

use super::problems::{ATTACHMENTS, WriteProblem};
use crate::config::AttachmentRule;
use crate::record::entry_name::EntryName;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The largest file.
const MOST_BYTES: u64 = 8_000_000;

/// Why a file can't be an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AttachmentError {
    /// It isn't there, or may not be read.
    #[error("attachments.file: cannot read {}: {reason}; name a file that can be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// It is larger than [`MOST_BYTES`].
    #[error("attachments.file: {} has {bytes} bytes; an attachment may have {MOST_BYTES}", path.display())]
    Large {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// ReductStore's clients read attachments as JSON.
    #[error("attachments.file: {} isn't JSON: {reason}; ReductStore's attachments are JSON", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where it stops being JSON.
        reason: String,
    },
}

/// The attachments of one entry, by their keys.
pub type OfEntry = HashMap<String, Value>;

/// What all files held when they were read last.
#[derive(Debug)]
struct AttachmentFiles {
    /// Another one each time that a file changed.
    version: u64,
    rules: Vec<(AttachmentRule, Value)>,
    /// A file that can't be read any more.
    problem: Option<WriteProblem>,
}

/// See the module.
#[derive(Debug)]
pub struct Attachments {
    none: bool,
    files: RwLock<AttachmentFiles>,
}

impl Attachments {
    /// Reads every file.
    pub fn load(rules: &[AttachmentRule]) -> Result<Self, AttachmentError> {
        let read = |rule: &AttachmentRule| Ok((rule.clone(), read(&rule.file)?));
        let rules = rules.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let files = AttachmentFiles { version: 0, rules, problem: None };
        Ok(Self { none: files.rules.is_empty(), files: RwLock::new(files) })
    }

    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.none
    }

    /// Which reading of the files counts.
    pub fn version(&self) -> u64 {
        self.files.read().unwrap_or_else(PoisonError::into_inner).version
    }

    /// What an entry is to have, with the version of that.
    pub fn of(&self, entry: &EntryName) -> (u64, OfEntry) {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let fitting = files.rules.iter().filter(|(rule, _)| rule.entry.allows(entry.as_str(), ""));
        (files.version, fitting.map(|(rule, value)| (rule.key.clone(), value.clone())).collect())
    }

    /// A file that can't be read any more.
    pub fn problem(&self) -> Option<WriteProblem> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// Reads the files again from time to time, as long as somebody uses them.
    pub async fn watch(this: Weak<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(this) = this.upgrade() else { return };
            // Of a file system that doesn't answer only this task takes notice.
            if tokio::task::spawn_blocking(move || this.look()).await.is_err() {
                warn!("reading the attachments' files failed");
            }
        }
    }

    /// Reads the files once more.
    fn look(&self) {
        let known: Vec<(AttachmentRule, Value)> =
            self.files.read().unwrap_or_else(PoisonError::into_inner).rules.clone();
        let mut first_error = None;
        let mut now = Vec::new();
        for (rule, held) in &known {
            let value = read(&rule.file).unwrap_or_else(|error| {
                first_error.get_or_insert(error);
                held.clone()
            });
            now.push((rule.clone(), value));
        }
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        for ((rule, old), (_, new)) in known.iter().zip(&now) {
            if old != new {
                info!(file = %rule.file.display(), key = rule.key, entry = %rule.entry, "the attachment changed");
            }
        }
        if known != now {
            files.version += 1;
            files.rules = now;
        }
        files.problem = first_error.map(|error| WriteProblem {
            code: ATTACHMENTS,
            since: files.problem.as_ref().map_or_else(Instant::now, |known| known.since),
            entries: 0,
            message: format!("{error}; entries get what it held before"),
        });
    }
}

fn read(path: &Path) -> Result<Value, AttachmentError> {
    let unreadable =
        |error: std::io::Error| AttachmentError::Unreadable { path: path.into(), reason: error.to_string() };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MOST_BYTES {
        return Err(AttachmentError::Large { path: path.into(), bytes });
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&text)
        .map_err(|error| AttachmentError::NotJson { path: path.into(), reason: error.to_string() })
}

/// None, for those who configure none.
impl Default for Attachments {
    fn default() -> Self {
        let files = AttachmentFiles { version: 0, rules: Vec::new(), problem: None };
        Self { none: true, files: RwLock::new(files) }
    }
}

/// Reads the files, and goes on looking at them on this runtime.
pub fn watched(
    rules: &[AttachmentRule],
    runtime: &tokio::runtime::Handle,
) -> Result<Arc<Attachments>, AttachmentError> {
    let attachments = Arc::new(Attachments::load(rules)?);
    if !attachments.is_empty() {
        runtime.spawn(Attachments::watch(Arc::downgrade(&attachments)));
    }
    Ok(attachments)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::entry_name::EntryPattern;

    fn rule(entry: &str, key: &str, file: &Path) -> AttachmentRule {
        AttachmentRule { entry: EntryPattern::parse(entry).unwrap(), key: key.into(), file: file.into() }
    }

    #[test]
    fn entries_get_what_fits_them_and_a_changed_file_counts() {
        let folder = std::env::temp_dir().join(format!("reduct-sink-attachments-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (one, other) = (folder.join("one.json"), folder.join("other.json"));
        std::fs::write(&one, "{\"n\": 1}").unwrap();
        std::fs::write(&other, "[2]").unwrap();
        let rules = [rule("camera*", "$schema", &one), rule("camera/1", "$schema", &other), rule("x", "$ros", &other)];
        let attachments = Attachments::load(&rules).unwrap();
        let of = |entry: &str| attachments.of(&EntryName::parse(entry).unwrap());
        assert_eq!(of("camera/0"), (0, OfEntry::from([("$schema".into(), json!({"n": 1}))])));
        assert_eq!(of("camera/1"), (0, OfEntry::from([("$schema".into(), json!([2]))])), "the later counts");
        assert_eq!(of("y"), (0, OfEntry::new()));

        attachments.look();
        assert_eq!(attachments.version(), 0, "nothing changed");
        std::fs::write(&one, "{\"n\": 3}").unwrap();
        attachments.look();
        assert_eq!(of("camera/0"), (1, OfEntry::from([("$schema".into(), json!({"n": 3}))])));

        std::fs::write(&one, "{").unwrap();
        attachments.look();
        let problem = attachments.problem().unwrap();
        assert!(problem.message.contains("isn't JSON") && problem.message.contains("one.json"), "{problem:?}");
        assert_eq!(of("camera/0"), (1, OfEntry::from([("$schema".into(), json!({"n": 3}))])), "as it was");
        assert!(matches!(Attachments::load(&rules), Err(AttachmentError::NotJson { .. })));
        std::fs::write(&one, "{\"n\": 3}").unwrap();
        attachments.look();
        assert_eq!(attachments.problem(), None);
        std::fs::remove_dir_all(&folder).unwrap();
        attachments.look();
        assert!(attachments.problem().unwrap().message.contains("cannot read"));
        assert!(matches!(Attachments::load(&rules), Err(AttachmentError::Unreadable { .. })));
        assert!(Attachments::load(&[]).unwrap().is_empty());
    }
}
