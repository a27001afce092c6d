//! librdkafka's properties that come from files: passwords, certificates, keys.
//!
//! Guarantees: each client is made of what the files hold at that moment, so that a secret can be replaced while the host
//! runs; a file that can't be read leaves the value that was read last at the start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Kafka;
use super::regular_file::read_small_text;
use super::substitute::without_last_break;
use super::validate::FILE_PROPERTIES;
use super::value::{ConfigValue, Origin};

/// The files that values come from, by the properties' names.
pub fn of(properties: &BTreeMap<String, ConfigValue>) -> BTreeMap<String, PathBuf> {
    let file = |found: &ConfigValue| match &found.origin {
        Origin::File(path) => Some(path.clone()),
        Origin::Literal | Origin::Variable => None,
    };
    properties.iter().filter_map(|(name, found)| Some((name.clone(), file(found)?))).collect()
}

impl Kafka {
    /// The properties of a client that is made now.
    pub fn present_properties(&self) -> BTreeMap<String, String> {
        let read = |path: &PathBuf| read_small_text(path).ok().filter(|text| !text.contains('\0'));
        let mut properties = self.properties.clone();
        let files = self.property_files.iter().filter_map(|(name, path)| Some((name, read(path)?)));
        properties.extend(files.map(|(name, text)| (name.clone(), without_last_break(&text).to_owned())));
        properties
    }

    /// The properties that stay as they are while the host runs.
    pub(super) fn lasting_properties(&self) -> BTreeMap<&str, Result<&str, &Path>> {
        let value = |name: &String, text| self.property_files.get(name).map_or(Ok(text), |path| Err(path.as_path()));
        self.properties.iter().map(|(name, text)| (name.as_str(), value(name, text.as_str()))).collect()
    }

    /// All files that a client is made of.
    pub fn client_files(&self) -> Vec<PathBuf> {
        let named = FILE_PROPERTIES.iter().filter_map(|name| self.properties.get(*name)).map(PathBuf::from);
        self.property_files.values().cloned().chain(named).collect()
    }
}
