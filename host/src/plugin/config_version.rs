//! Which configuration a plugin runs with: what handled a record is the component and its configuration.

use std::fmt;

use super::digest::Digest;

/// The beginning of the sha256 of a plugin's configuration, as JSON text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConfigVersion(Digest);

impl ConfigVersion {
    /// `None`: the plugin isn't configured.
    pub fn of(config: &str) -> Option<Self> {
        (config != "{}").then(|| Self(Digest::of(config.as_bytes())))
    }
}

impl fmt::Display for ConfigVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.8}", self.0)
    }
}

impl fmt::Debug for ConfigVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
