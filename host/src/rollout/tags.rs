//! Tags that are followed: each is looked up at the registry every so often, on a thread of its own.
//!
//! Guarantees: a registry that is slow or away delays nothing else; one lookup of a tag runs at a time; the log says once
//! that a tag can't be looked up, and once that it can again. An answer about an address that isn't followed any more is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::task::Signal;
use super::watcher::LastSeen;
use crate::chain::SharedChain;
use crate::config::{PluginConfig, PluginSource, threads};
use crate::plugin::{Digest, LoadProblem};

/// The followed tags, by the names of their plugins.
#[derive(Default)]
pub(super) struct Tags(BTreeMap<String, Tag>);

struct Tag {
    plugin: Arc<PluginConfig>,
    every: Duration,
    /// `None`: it is being looked up.
    look_at: Option<Instant>,
    last_seen: LastSeen,
    /// It couldn't be looked up, and the log says so.
    is_lost: bool,
}

impl Tags {
    /// Follows those of these plugins. What is known of tags that stay is kept. Returns the plugins whose tags aren't followed any
    /// more.
    pub fn follow(&mut self, plugins: &[Arc<PluginConfig>]) -> Vec<String> {
        let mut before = std::mem::take(&mut self.0);
        for plugin in plugins {
            let PluginSource::Remote(remote) = &plugin.source else { continue };
            let Some(every) = remote.follow else { continue };
            let known = before.remove(&plugin.name).filter(|tag| tag.plugin.source == plugin.source);
            let tag = known.unwrap_or_else(|| Tag {
                plugin: Arc::clone(plugin),
                every,
                look_at: Some(Instant::now() + every),
                last_seen: LastSeen::Nothing,
                is_lost: false,
            });
            self.0.insert(plugin.name.clone(), Tag { plugin: Arc::clone(plugin), ..tag });
        }
        before.into_keys().collect()
    }

    /// When the next one is to be looked up.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|tag| tag.look_at).min()
    }

    pub fn last_seen(&mut self, plugin: &str) -> Option<&mut LastSeen> {
        self.0.get_mut(plugin).map(|tag| &mut tag.last_seen)
    }

    /// Looks up those that are due; the answers come as signals.
    pub fn look(&mut self, shared: &Arc<SharedChain>, signals: &Sender<Signal>) {
        let now = Instant::now();
        for tag in self.0.values_mut() {
            if tag.look_at.is_none_or(|at| at > now) {
                continue;
            }
            let (shared, signals, plugin) = (Arc::clone(shared), signals.clone(), Arc::clone(&tag.plugin));
            let look = move || {
                let found = shared.runtime().look(&plugin);
                // Fails only when the task has ended.
                let _ = signals.send(Signal::TagRead(plugin, found));
            };
            match threads::spawn("plugin-tag", look) {
                Ok(_) => tag.look_at = None,
                Err(error) => {
                    tracing::error!(%error, "no thread to look up a plugin's tag on");
                    tag.look_at = Some(now + tag.every);
                }
            }
        }
    }

    /// What a lookup found. Returns the digest that the tag means, unless it was dealt with already.
    pub fn read(&mut self, asked: &PluginConfig, found: Result<Digest, LoadProblem>) -> Option<Digest> {
        let plugin = asked.name.as_str();
        let tag = self.0.get_mut(plugin).filter(|tag| tag.plugin.source == asked.source)?;
        tag.look_at = Some(Instant::now() + tag.every);
        match found {
            Ok(digest) => {
                if std::mem::take(&mut tag.is_lost) {
                    tracing::info!(plugin, "the plugin's tag can be looked up again");
                }
                Some(digest).filter(|digest| tag.last_seen != LastSeen::Done(*digest))
            }
            Err(problem) => {
                if !std::mem::replace(&mut tag.is_lost, true) {
                    let every = humantime::format_duration(tag.every);
                    tracing::warn!(
                        plugin, reason = %problem, remedy = problem.remedy(), %every,
                        "the plugin's tag can't be looked up; its active version stays, and the registry is asked again",
                    );
                }
                None
            }
        }
    }

    /// Looks this one up again soon: what was found couldn't be dealt with yet.
    pub fn again(&mut self, plugin: &str, after: Duration) {
        if let Some(tag) = self.0.get_mut(plugin) {
            tag.look_at = Some(Instant::now() + after);
        }
    }
}
