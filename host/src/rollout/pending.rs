//! A valid configuration whose plugins don't load yet, and when it is tried again.
//!
//! Guarantees: what a registry gives wrongly is not fetched again and again; one that is away is asked more and more seldom.

use std::time::{Duration, Instant};

use super::reload::Plan;
use super::watcher::WatchedFile;
use crate::config::{PluginConfig, PluginSource};
use crate::plugin::{Digest, LoadProblem};

/// After how long a configuration is tried again whose plugins couldn't be fetched; then after twice as long each time.
const FETCH_AGAIN: Duration = Duration::from_secs(20);
const FETCH_AGAIN_MOST: Duration = Duration::from_secs(300);

/// A valid configuration whose plugins don't load yet.
pub(super) struct PendingConfig {
    pub plugins: Vec<PluginConfig>,
    /// The digests of the plugins' files when they were tried.
    pub tried: Vec<Option<Digest>>,
    pub files: Vec<WatchedFile>,
    /// When it is tried again though no file has changed: a registry may be back.
    pub fetch_at: Option<Instant>,
    wait: Option<Duration>,
}

impl PendingConfig {
    /// `before`: the same configuration, if it was tried already.
    pub fn new(plan: Plan, problem: &LoadProblem, before: Option<&Self>) -> Self {
        let files = plan.plugins.iter().filter_map(|plugin| match &plugin.source {
            PluginSource::File(path) => Some(WatchedFile::new(path.clone())),
            PluginSource::Builtin | PluginSource::Remote(_) => None,
        });
        let wait = wait(problem, before.and_then(|before| before.wait));
        let fetch_at = wait.map(|wait| Instant::now() + wait);
        Self { fetch_at, wait, files: files.collect(), tried: plan.digests, plugins: plan.plugins }
    }
}

/// How long to wait before it is fetched again. `None`: only something else can mend this problem.
fn wait(problem: &LoadProblem, before: Option<Duration>) -> Option<Duration> {
    let may_come = matches!(problem, LoadProblem::Fetch(error) if error.may_be_there_later());
    may_come.then(|| before.map_or(FETCH_AGAIN, |before| (before * 2).min(FETCH_AGAIN_MOST)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::FetchError;

    #[test]
    fn only_what_may_be_there_later_is_fetched_again() {
        let after = |error: FetchError, before| wait(&LoadProblem::Fetch(Box::new(error)), before);
        let away = || FetchError::Unreachable { host: "h".into(), why: "away".into() };
        assert_eq!(after(away(), None), Some(FETCH_AGAIN));
        assert_eq!(after(away(), Some(FETCH_AGAIN)), Some(FETCH_AGAIN * 2));
        assert_eq!(after(away(), Some(FETCH_AGAIN_MOST)), Some(FETCH_AGAIN_MOST));
        assert_eq!(after(FetchError::Missing { host: "h".into(), status: 404 }, None), Some(FETCH_AGAIN));
        let found = Digest::of(b"x");
        for wrong in [
            FetchError::OtherBytes { what: "the file", found, expected: "y".into() },
            FetchError::TooLong { what: "the component", most: 1 },
            FetchError::NotAnArtifact("an image".into()),
            FetchError::Setup("no runtime".into()),
        ] {
            assert_eq!(after(wrong, Some(FETCH_AGAIN)), None);
        }
        assert_eq!(wait(&LoadProblem::NotFound, Some(FETCH_AGAIN)), None);
    }
}
