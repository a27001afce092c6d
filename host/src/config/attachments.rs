//! `[[attachments]]`: files that ReductStore keeps beside the records of an entry.

use std::path::{Path, PathBuf};

use super::layers::TableOfList;
use super::problem::ConfigProblem;
use super::reader::{KeyReader, plain_text};
use crate::record::entry_name::EntryPattern;

/// One file, and the entries that it is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentRule {
    /// Which entries get it.
    pub entry: EntryPattern,
    /// What it is called there, such as `$schema`.
    pub key: String,
    /// A file that holds JSON.
    pub file: PathBuf,
}

const ENTRY: &str = "attachments.entry";
const KEY: &str = "attachments.key";
const FILE: &str = "attachments.file";
/// The longest key: it travels in a header.
const LONGEST_KEY: usize = 100;

/// All of them, in the order of the file.
pub(super) fn attachments(
    tables: Vec<TableOfList>,
    folder: &Path,
    problems: &mut Vec<ConfigProblem>,
) -> Vec<AttachmentRule> {
    let mut rules: Vec<AttachmentRule> = Vec::new();
    for TableOfList { values, location } in &tables {
        let mut reader = KeyReader { values, folder, misspelt: &[], pipeline: None, problems };
        for key in [ENTRY, KEY, FILE] {
            if reader.find(key).is_none() {
                let name = key.rsplit('.').next().unwrap_or_default();
                let text = format!("missing: each of [[attachments]] needs `{name}`");
                reader.problems.push(ConfigProblem::at(location, key, text));
            }
        }
        let expected = "an entry's name, in which `*` stands for any characters";
        let entry = reader.parsed(ENTRY, expected, |found| {
            let text = plain_text(found)?;
            if text.contains("{topic}") { None } else { EntryPattern::parse(text) }
        });
        let expected = "a key of up to 100 letters, digits, `$`, `_`, `.` and `-`, such as \"$schema\"";
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '$' | '_' | '.' | '-');
        let key = reader.parsed(KEY, expected, |found| {
            let text = plain_text(found)?;
            (text.len() <= LONGEST_KEY && text.chars().all(legal)).then(|| text.to_owned())
        });
        let file = reader.path(FILE);
        let (Some(entry), Some(key), Some(file)) = (entry, key, file) else { continue };
        if rules.iter().any(|known| known.entry == entry && known.key == key) {
            let text = format!("a second attachment {key:?} for {entry}, expected one file for each key of an entry");
            problems.push(ConfigProblem::at(location, KEY, text));
            continue;
        }
        rules.push(AttachmentRule { entry, key, file });
    }
    rules
}
