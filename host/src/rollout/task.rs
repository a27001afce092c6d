//! The rollout task: it handles one signal after the other, reads files that have changed, has new ones
//! loaded, and advances the rollouts of the plugins.
//!
//! Guarantees: a configuration and the files that it names may be replaced in any order. A configuration whose plugins
//! don't load is kept and tried again when one of their files changes; a refused file is tried again when its
//! configuration or its signature changes.

mod changed_config;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::actions::PossibleActions;
use super::next_start::{CONFIGURATION, NextStart};
use super::pending::PendingConfig;
use super::reload::{Plan, loads_alike};
use super::report::{Cause, RolloutOutcome, Swaps};
use super::rollout::Rollout;
use super::tags::Tags;
use super::watcher::{Folders, LastSeen, WatchedFile, value_files};
use super::{ChainSource, Control, Pace};
use crate::chain::{SharedChain, StageSpec, Version};
use crate::config::{PluginConfig, PluginSource, threads};
use crate::plugin::{Digest, LoadError, LoadProblem, LoadedPlugin, read};

/// How often running trials and bake windows are judged: a bad version is rolled back within this time after it passed
/// a bound.
const STEP: Duration = Duration::from_millis(50);

pub(super) enum Signal {
    /// Something changed in a watched folder.
    Event,
    Reload,
    Promote(String, Sender<Result<String, String>>),
    Rollback(String, Sender<Result<String, String>>),
    /// What a followed tag means, with the configuration by which it was looked up.
    TagRead(Arc<PluginConfig>, Result<Digest, LoadProblem>),
    /// The thread that loads plugins has finished.
    Loaded(Job, Result<Vec<LoadedPlugin>, LoadError>),
    Stop,
}

/// What the thread that loads plugins has to load.
pub(super) enum Job {
    /// The changed file of this plugin, or what its tag means now, which has this digest.
    File(Arc<PluginConfig>, Digest),
    /// The plugins that a changed configuration needs.
    Reload(Plan),
}

pub(super) struct RolloutTask {
    shared: Arc<SharedChain>,
    pace: Pace,
    signals: Sender<Signal>,
    swaps: Swaps,
    actions: PossibleActions,
    next_start: NextStart,
    /// The files of the plugins, by the plugins' names; the builtin plugin has none.
    files: BTreeMap<String, WatchedFile>,
    tags: Tags,
    folders: Folders,
    source: Option<ChainSource>,
    source_file: Option<WatchedFile>,
    /// The other files from which the configuration takes values, such as secrets.
    value_files: Vec<WatchedFile>,
    /// Whether one of `value_files` changed since the configuration was read.
    values_changed: bool,
    /// The newest configuration, while its plugins don't load.
    pending: Option<PendingConfig>,
    /// Whether the configuration was last read to ask for something that only a restart gives.
    restart_needed: bool,
    /// Whether a person asked to read the configuration again, even if its file is unchanged.
    asked_to_reload: bool,
    /// The plugins for which the configuration asks for a version that was given up.
    bad_configurations: BTreeSet<String>,
    rollouts: BTreeMap<String, Rollout>,
    /// Whether the thread that loads plugins is at work.
    loading: bool,
    /// When the files are polled next.
    next_poll: Instant,
    /// When the first event came since the files were last polled.
    first_event: Option<Instant>,
}

impl RolloutTask {
    pub fn new(shared: Arc<SharedChain>, source: Option<ChainSource>, pace: Pace, control: &Control) -> Self {
        let signals = control.signals.clone();
        let events = signals.clone();
        let folders = Folders::new(Box::new(move || {
            // This fails only if the task has ended.
            let _ = events.send(Signal::Event);
        }));
        let value_files =
            source.as_ref().map_or_else(Vec::new, |source| value_files(&source.present.files, Vec::new()));
        let source_file = source.as_ref().and_then(|source| source.file.clone()).map(WatchedFile::new);
        let mut task = Self {
            shared,
            pace,
            signals,
            swaps: control.swaps.clone(),
            actions: control.actions.clone(),
            next_start: control.next_start.clone(),
            files: BTreeMap::new(),
            tags: Tags::default(),
            folders,
            source,
            source_file,
            value_files,
            values_changed: false,
            pending: None,
            restart_needed: false,
            asked_to_reload: false,
            bad_configurations: BTreeSet::new(),
            rollouts: BTreeMap::new(),
            loading: false,
            next_poll: Instant::now(),
            first_event: None,
        };
        task.follow_chain();
        task
    }

    pub fn run(mut self, inbox: &Receiver<Signal>) {
        loop {
            if Instant::now() >= self.next_poll {
                self.poll_files();
            }
            self.step();
            self.tell_actions();
            self.report_counted_failures();
            self.tags.look(&self.shared, &self.signals);
            let mut wake = self.tags.next().map_or(self.next_poll, |at| at.min(self.next_poll));
            if self.rollouts.values().any(Rollout::is_under_way) {
                wake = wake.min(Instant::now() + STEP);
            }
            match inbox.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::Event) => {
                    // The delay is bounded, because other files of a watched folder may change all the time.
                    let now = Instant::now();
                    let latest = *self.first_event.get_or_insert(now) + self.pace.settle;
                    self.next_poll = (now + self.pace.debounce).min(latest);
                }
                Ok(Signal::Reload) => {
                    self.asked_to_reload = true;
                    self.next_poll = Instant::now();
                }
                // Sending the answer fails if the caller no longer waits for it.
                Ok(Signal::Promote(name, answer)) => {
                    let done = self.promote(&name);
                    self.tell_actions();
                    drop(answer.send(done));
                }
                Ok(Signal::Rollback(name, answer)) => {
                    let done = self.rollback(&name);
                    self.tell_actions();
                    drop(answer.send(done));
                }
                Ok(Signal::TagRead(plugin, found)) => self.tag_read(&plugin, found),
                Ok(Signal::Loaded(job, result)) => {
                    self.loading = false;
                    self.next_poll = Instant::now();
                    match job {
                        Job::File(plugin, digest) => self.file_loaded(plugin, digest, result),
                        Job::Reload(plan) => self.reload_loaded(plan, result),
                    }
                }
            }
        }
    }

    /// Watches the files of the chain's present plugins, and forgets those of plugins that have left the chain.
    fn follow_chain(&mut self) {
        let mut before = std::mem::take(&mut self.files);
        let names: Vec<String> = before.keys().cloned().collect();
        for stage in self.shared.stages() {
            let PluginSource::File(path) = &stage.config.source else { continue };
            let known = before.remove(&stage.config.name).filter(|file| file.path == *path);
            let file = known.unwrap_or_else(|| WatchedFile::new(path.clone()));
            self.files.insert(stage.config.name.clone(), file);
        }
        // The host starts without the file of a plugin that has left the chain.
        names
            .iter()
            .filter(|name| !self.files.contains_key(*name))
            .for_each(|name| self.next_start.right(&plugin_file(name)));
        // While a version is on trial, what its configuration names is looked up, and not what the active one came from.
        let candidate = |name: &str| Some(Arc::clone(&self.rollouts.get(name)?.candidate()?.config));
        let configured = |stage: StageSpec| candidate(&stage.config.name).unwrap_or(stage.config);
        let configured: Vec<Arc<PluginConfig>> = self.shared.stages().into_iter().map(configured).collect();
        for name in self.tags.follow(&configured) {
            self.next_start.right(&plugin_file(&name));
        }
        self.follow_folders();
    }

    fn followed(&self) -> impl Iterator<Item = &WatchedFile> {
        self.files.values().chain(&self.source_file).chain(&self.value_files)
    }

    fn follow_folders(&mut self) {
        let pending = self.pending.iter().flat_map(|pending| &pending.files);
        let paths: Vec<PathBuf> = self.followed().chain(pending).map(|file| file.path.clone()).collect();
        self.folders.follow(paths.iter().map(PathBuf::as_path));
    }

    /// Polls all files and reads those that have changed.
    fn poll_files(&mut self) {
        self.first_event = None;
        self.follow_folders();
        for (name, file) in &mut self.files {
            if file.poll() {
                self.next_start.wrong(&plugin_file(name), format!("there is no file {}", file.path.display()));
                tracing::warn!(file = %file.path.display(), "the plugin's file is gone; its active version stays");
            }
        }
        if let Some(file) = &mut self.source_file
            && file.poll()
        {
            self.next_start.wrong(CONFIGURATION, format!("there is no file {}", file.path.display()));
            // When the file is back, it is read even if its bytes are the same.
            file.last_seen = LastSeen::Nothing;
            tracing::warn!(
                file = %file.path.display(),
                "the configuration file is gone; the present configuration stays"
            );
        }
        if let Some(pending) = &mut self.pending {
            // A missing file needs no report here: it doesn't load, like a wrong one.
            for file in &mut pending.files {
                let _ = file.poll();
            }
        }
        for file in &mut self.value_files {
            let _ = file.poll();
            if file.due && !file.is_fresh(self.pace.settle) {
                file.due = false;
                self.values_changed = true;
            }
        }
        if !self.loading {
            self.read_source();
        }
        if !self.loading {
            self.retry_pending();
        }
        let due: Vec<String> = self.files.iter().filter(|(_, file)| file.due).map(|(name, _)| name.clone()).collect();
        for name in due {
            if !self.loading {
                self.read_plugin(&name);
            }
        }
        let due = self.followed().any(|file| file.due);
        let wait = if due { self.pace.debounce.max(self.pace.settle / 4) } else { self.pace.poll };
        self.next_poll = Instant::now() + wait;
    }

    /// Loads a plugin's file if its bytes are new.
    fn read_plugin(&mut self, name: &str) {
        let (Some(file), Some(stage)) = (self.files.get_mut(name), self.shared.stage(name)) else { return };
        file.due = false;
        let plugin = self.rollouts.get(name).and_then(Rollout::candidate).map_or(&stage.config, |stage| &stage.config);
        let digest = match read(plugin) {
            Ok(bytes) => Digest::of(&bytes),
            // The file needs no other poll: when its permissions change, so does its stamp.
            Err(problem) => {
                self.next_start.wrong(&plugin_file(name), &problem);
                return log_refused(name, &file.path.display(), stage.version.plugin.digest, &problem);
            }
        };
        let candidate = self.rollouts.get(name).and_then(Rollout::candidate).map(|stage| stage.version.plugin.digest);
        if digest == candidate.unwrap_or(stage.version.plugin.digest) {
            self.next_start.right(&plugin_file(name));
            return;
        }
        if file.last_seen == LastSeen::Done(digest) {
            return;
        }
        let plugin = Arc::clone(plugin);
        self.load(Job::File(plugin, digest));
    }

    /// Loads what a followed tag means if it is new.
    fn tag_read(&mut self, asked: &PluginConfig, found: Result<Digest, LoadProblem>) {
        let name = asked.name.as_str();
        let (Some(digest), Some(stage)) = (self.tags.read(asked, found), self.shared.stage(name)) else { return };
        let candidate = self.rollouts.get(name).and_then(Rollout::candidate);
        let plugin = candidate.map_or(&stage.config, |candidate| &candidate.config);
        if digest == candidate.unwrap_or(&stage).version.plugin.digest {
            self.next_start.right(&plugin_file(name));
        } else if self.loading {
            self.tags.again(name, self.pace.settle);
        } else {
            self.load(Job::File(Arc::clone(plugin), digest));
        }
    }

    /// Notes what became of the bytes that were read last, of a plugin's file or tag.
    fn saw(&mut self, name: &str, what: LastSeen) {
        let last_seen = match self.files.get_mut(name) {
            Some(file) => Some(&mut file.last_seen),
            None => self.tags.last_seen(name),
        };
        if let Some(last_seen) = last_seen {
            *last_seen = what;
        }
    }

    /// Loads plugins on a thread of its own, because that may take seconds and a bad version may have to be rolled back
    /// meanwhile.
    fn load(&mut self, job: Job) {
        let (shared, signals) = (Arc::clone(&self.shared), self.signals.clone());
        let work = move || {
            let result = match &job {
                Job::File(plugin, _) => shared.runtime().load(plugin).map(|loaded| vec![loaded]),
                Job::Reload(plan) => plan.to_load.iter().map(|plugin| shared.runtime().load(plugin)).collect(),
            };
            // This fails only if the task has ended.
            let _ = signals.send(Signal::Loaded(job, result));
        };
        match threads::spawn("plugin-loader", work) {
            Ok(_) => self.loading = true,
            Err(error) => tracing::error!(
                %error, "the thread that loads plugins can't be started; the active versions stay"
            ),
        }
    }

    fn file_loaded(&mut self, plugin: Arc<PluginConfig>, digest: Digest, result: Result<Vec<LoadedPlugin>, LoadError>) {
        let name = &plugin.name;
        let Some(stage) = self.shared.stage(name) else { return };
        let present = stage.version.plugin.digest;
        match result {
            Ok(loaded) => {
                self.saw(name, LastSeen::Nothing);
                self.next_start.right(&plugin_file(name));
                for loaded in loaded {
                    let candidate = StageSpec::new(Arc::clone(&plugin), Version::new(loaded));
                    self.introduce(candidate, Cause::File);
                }
                // A candidate from another address may be gone.
                self.follow_chain();
            }
            Err(error) => {
                let file = self.files.get_mut(name).filter(|file| file.is_fresh(self.pace.settle));
                if let Some(file) = file.filter(|_| error.problem.may_be_half_written()) {
                    file.due = true;
                    return;
                }
                if matches!(&error.problem, LoadProblem::Fetch(problem) if problem.is_no_answer()) {
                    // It says nothing about this version, which is tried again when its tag is looked up next.
                    self.next_start.wrong(&plugin_file(name), &error.problem);
                    tracing::warn!(
                        plugin = name, kept = present.short(), reason = %error.problem, remedy = error.problem.remedy(),
                        "what the plugin's tag means can't be fetched; its active version stays, and the registry is asked again",
                    );
                    return;
                }
                self.saw(name, LastSeen::Done(digest));
                let (old, new) = (present.to_string(), digest.to_string());
                let number = self.swaps.begin(name, Cause::File, old, new, RolloutOutcome::Refused);
                let reason = format!("{}; {}", error.problem, error.problem.remedy());
                self.next_start.wrong(&plugin_file(name), &reason);
                self.swaps.update(number, |report| report.reason = Some(reason));
                log_refused(name, &error.file, present, &error.problem);
            }
        }
    }

    /// Starts the rollout of a candidate, with its trial or its activation.
    fn introduce(&mut self, candidate: StageSpec, cause: Cause) {
        let rollout = self.rollouts.entry(candidate.config.name.clone()).or_default();
        rollout.introduce(candidate, cause, &self.shared, &self.swaps);
    }

    fn step(&mut self) {
        let step =
            |(name, rollout): (&String, &mut Rollout)| Some((name.clone(), rollout.step(&self.shared, &self.swaps)?));
        let candidates = |task: &Self| task.rollouts.values().filter(|rollout| rollout.candidate().is_some()).count();
        let before = candidates(self);
        let given_up: Vec<(String, StageSpec)> = self.rollouts.iter_mut().filter_map(step).collect();
        let has_changed = !given_up.is_empty() || candidates(self) != before;
        for (name, bad) in given_up {
            self.remember_bad_version(&name, &bad);
        }
        // The version that is active now may come from another address than the one before.
        if has_changed {
            self.follow_chain();
        }
    }

    /// What can be asked for from now on.
    fn tell_actions(&self) {
        self.actions.set(self.rollouts.iter().map(|(name, rollout)| (name.clone(), rollout.actions())).collect());
    }

    /// Says how often plugins failed lately, also those whose failures have ended: no call comes by to say it.
    fn report_counted_failures(&self) {
        let (stages, others) = (self.shared.stages(), self.rollouts.values().flat_map(Rollout::others));
        stages.iter().chain(others).for_each(|stage| stage.version.plugin.report_counted_failures());
    }

    /// This version isn't loaded again while the host runs. A restart would load it if the configuration asks for it, or if the
    /// plugin's file holds it.
    fn remember_bad_version(&mut self, name: &str, bad: &StageSpec) {
        let digest = bad.version.plugin.digest;
        self.saw(name, LastSeen::Done(digest));
        let Some(stage) = self.shared.stage(name) else { return };
        let version = bad.version.plugin.version();
        let configured = self.source.iter().flat_map(|source| &source.present.plugins);
        if configured.filter(|row| row.name == name).any(|row| !loads_alike(row, &stage.config)) {
            let text = format!(
                "it asks for version {version}, which was rolled back or failed its trial, and a restart would begin with it; the \
                 host goes on with {}; correct the plugin's row of the configuration",
                stage.version.plugin.version()
            );
            self.bad_configurations.insert(name.to_owned());
            return self.next_start.wrong(&plugin_configuration(name), text);
        }
        if stage.version.plugin.digest == digest || !read(&stage.config).is_ok_and(|bytes| Digest::of(&bytes) == digest)
        {
            return;
        }
        let text =
            format!("it holds version {version}, which was rolled back, and a restart would load it; replace the file");
        self.next_start.wrong(&plugin_file(name), text);
    }

    /// Forgets the rolled-back configurations of those plugins that are configured otherwise now, or that have left the chain.
    fn forget_bad_configurations(&mut self, is_changed: impl Fn(&str) -> bool) {
        let Some(source) = &self.source else { return };
        let stages = self.shared.stages();
        let asks_for_another = |name: &str| {
            let row = source.present.plugins.iter().find(|row| row.name == name);
            let stage = stages.iter().find(|stage| stage.config.name == name);
            row.zip(stage).is_some_and(|(row, stage)| !loads_alike(row, &stage.config))
        };
        self.bad_configurations.retain(|name| {
            let stays = asks_for_another(name) && !is_changed(name);
            if !stays {
                self.next_start.right(&plugin_configuration(name));
            }
            stays
        });
    }

    fn promote(&mut self, name: &str) -> Result<String, String> {
        let Some(rollout) = self.rollouts.get_mut(name) else { return Err(self.missing(name, "no candidate")) };
        let answer = rollout.promote(&self.shared, &self.swaps)?;
        self.follow_chain();
        Ok(answer)
    }

    fn rollback(&mut self, name: &str) -> Result<String, String> {
        let Some(rollout) = self.rollouts.get_mut(name) else {
            return Err(self.missing(name, "no previous version"));
        };
        let (answer, bad) = rollout.rollback(&self.shared, &self.swaps)?;
        if let Some(bad) = bad {
            self.remember_bad_version(name, &bad);
        }
        self.follow_chain();
        Ok(answer)
    }

    /// The answer to a person who asked about a plugin that has no `what`, or that the chain doesn't have.
    fn missing(&self, name: &str, what: &str) -> String {
        let known = self.shared.stage(name).is_some();
        if known {
            return format!("plugin {name} has {what}");
        }
        let names: Vec<String> = self.shared.stages().iter().map(|stage| stage.config.name.clone()).collect();
        format!("the chain has no plugin {name}; it has: {}", names.join(", "))
    }
}

/// How [`NextStart`] names a plugin's file.
fn plugin_file(name: &str) -> String {
    format!("the file of plugin {name}")
}

/// How [`NextStart`] names a plugin's configuration.
fn plugin_configuration(name: &str) -> String {
    format!("the configuration of plugin {name}")
}

fn log_refused(plugin: &str, file: &dyn fmt::Display, kept: Digest, problem: &LoadProblem) {
    tracing::error!(
        plugin, %file, kept = kept.short(), reason = %problem, remedy = problem.remedy(),
        "the plugin's file doesn't load; its active version stays",
    );
}
