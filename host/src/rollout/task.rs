//! The task itself: takes signals one after the other, looks at files when they have come to rest, hands what is new to
//! the loader, and keeps the courses of the plugins going.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::course::Course;
use super::files::{File, Folders};
use super::reload::Plan;
use super::report::{Cause, Outcome, Swaps};
use super::{Control, Pace, Source};
use crate::chain::{Link, SharedChain, Version};
use crate::config::{self, Plugin, PluginSource};
use crate::plugin::{Digest, LoadError, LoadedPlugin, Problem, read};

/// How often trials and watches are looked at while there are any: a bad version is back out within this, once the bound
/// is passed.
const STEP: Duration = Duration::from_millis(50);

pub(super) enum Signal {
    /// Something happened in a watched folder.
    Event,
    Reload,
    Promote(String, Sender<Result<String, String>>),
    Rollback(String, Sender<Result<String, String>>),
    /// The loader is done.
    Loaded(Job, Result<Vec<LoadedPlugin>, LoadError>),
    Stop,
}

/// What the loader loads.
pub(super) enum Job {
    /// The file of this plugin, which has this digest.
    File(Arc<Plugin>, Digest),
    /// What a changed configuration needs.
    Reload(Plan),
}

pub(super) struct Task {
    shared: Arc<SharedChain>,
    pace: Pace,
    signals: Sender<Signal>,
    swaps: Swaps,
    /// Of the plugins that come from files, by name.
    files: BTreeMap<String, File>,
    folders: Folders,
    source: Option<Source>,
    source_file: Option<File>,
    /// The configuration is to be read again, whether its file changed or not.
    asked_to_reload: bool,
    courses: BTreeMap<String, Course>,
    loading: bool,
    /// When the files are looked at next.
    look_at: Instant,
    /// The first event since the last look.
    stirred: Option<Instant>,
}

impl Task {
    pub fn new(shared: Arc<SharedChain>, source: Option<Source>, pace: Pace, control: &Control) -> Self {
        let signals = control.signals.clone();
        let events = signals.clone();
        let folders = Folders::new(Box::new(move || {
            // Refused only when the task has ended.
            let _ = events.send(Signal::Event);
        }));
        let source_file = source.as_ref().and_then(|source| source.file.clone()).map(File::new);
        let mut task = Self {
            shared,
            pace,
            signals,
            swaps: control.swaps.clone(),
            files: BTreeMap::new(),
            folders,
            source,
            source_file,
            asked_to_reload: false,
            courses: BTreeMap::new(),
            loading: false,
            look_at: Instant::now(),
            stirred: None,
        };
        task.follow_chain();
        task
    }

    pub fn run(mut self, inbox: &Receiver<Signal>) {
        loop {
            if Instant::now() >= self.look_at {
                self.look();
            }
            self.step();
            let mut wake = self.look_at;
            if self.courses.values().any(Course::is_under_way) {
                wake = wake.min(Instant::now() + STEP);
            }
            match inbox.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::Event) => {
                    // Not for ever: a folder may never rest.
                    let now = Instant::now();
                    let latest = *self.stirred.get_or_insert(now) + self.pace.settle;
                    self.look_at = (now + self.pace.debounce).min(latest);
                }
                Ok(Signal::Reload) => {
                    self.asked_to_reload = true;
                    self.look_at = Instant::now();
                }
                // Refused where nobody waits for the answer any more.
                Ok(Signal::Promote(name, answer)) => drop(answer.send(self.promote(&name))),
                Ok(Signal::Rollback(name, answer)) => drop(answer.send(self.rollback(&name))),
                Ok(Signal::Loaded(job, result)) => {
                    self.loading = false;
                    self.look_at = Instant::now();
                    match job {
                        Job::File(plugin, digest) => self.file_loaded(plugin, digest, result),
                        Job::Reload(plan) => self.reload_loaded(plan, result),
                    }
                }
            }
        }
    }

    /// Takes up the chain's files as they are configured now; what is known of those that stay is kept.
    fn follow_chain(&mut self) {
        let mut before = std::mem::take(&mut self.files);
        for link in self.shared.links() {
            let PluginSource::File(path) = &link.config.source else { continue };
            let known = before.remove(&link.config.name).filter(|file| file.path == *path);
            let file = known.unwrap_or_else(|| File::new(path.clone()));
            self.files.insert(link.config.name.clone(), file);
        }
        self.follow_folders();
    }

    fn follow_folders(&mut self) {
        let paths: Vec<PathBuf> = self.files.values().chain(&self.source_file).map(|file| file.path.clone()).collect();
        self.folders.follow(paths.iter().map(PathBuf::as_path));
    }

    fn look(&mut self) {
        self.stirred = None;
        self.follow_folders();
        for file in self.files.values_mut() {
            if file.look_again() {
                tracing::warn!(file = %file.path.display(), "the plugin's file is gone; its present version goes on");
            }
        }
        if let Some(file) = &mut self.source_file
            && file.look_again()
        {
            tracing::warn!(file = %file.path.display(), "the configuration file is gone; what it said goes on");
        }
        if !self.loading {
            self.read_source();
        }
        let due: Vec<String> = self.files.iter().filter(|(_, file)| file.due).map(|(name, _)| name.clone()).collect();
        for name in due {
            if !self.loading {
                self.read_plugin(&name);
            }
        }
        let due = self.files.values().chain(&self.source_file).any(|file| file.due);
        let wait = if due { self.pace.debounce.max(self.pace.settle / 4) } else { self.pace.poll };
        self.look_at = Instant::now() + wait;
    }

    /// Has a plugin's file loaded if its bytes are new.
    fn read_plugin(&mut self, name: &str) {
        let (Some(file), Some(link)) = (self.files.get_mut(name), self.shared.link(name)) else { return };
        file.due = false;
        let plugin = self.courses.get(name).and_then(Course::candidate).map_or(&link.config, |link| &link.config);
        let digest = match read(plugin) {
            Ok(bytes) => Digest::of(&bytes),
            // It will look different when it can be read: permissions count as a look.
            Err(problem) => return tell_refused(name, &file.path, link.version.plugin.digest, &problem),
        };
        let candidate = self.courses.get(name).and_then(Course::candidate).map(|link| link.version.plugin.digest);
        if Some(digest) == file.refused || digest == candidate.unwrap_or(link.version.plugin.digest) {
            return;
        }
        let plugin = Arc::clone(plugin);
        self.load(Job::File(plugin, digest));
    }

    /// Loads on a thread of its own: it may take seconds, and a bad version has to be taken back meanwhile.
    fn load(&mut self, job: Job) {
        let (shared, signals) = (Arc::clone(&self.shared), self.signals.clone());
        let work = move || {
            let result = match &job {
                Job::File(plugin, _) => shared.runtime().load(plugin).map(|loaded| vec![loaded]),
                Job::Reload(plan) => plan.to_load.iter().map(|plugin| shared.runtime().load(plugin)).collect(),
            };
            // Refused only when the task has ended.
            let _ = signals.send(Signal::Loaded(job, result));
        };
        match thread::Builder::new().name("plugin-loader".into()).spawn(work) {
            Ok(_) => self.loading = true,
            Err(error) => tracing::error!(%error, "no thread to load plugins on"),
        }
    }

    fn file_loaded(&mut self, plugin: Arc<Plugin>, digest: Digest, result: Result<Vec<LoadedPlugin>, LoadError>) {
        let name = &plugin.name;
        let (Some(file), Some(link)) = (self.files.get_mut(name), self.shared.link(name)) else { return };
        let present = link.version.plugin.digest;
        match result {
            Ok(loaded) => {
                file.refused = None;
                for loaded in loaded {
                    let candidate = Link::new(Arc::clone(&plugin), Version::new(loaded));
                    self.introduce(candidate, Cause::File);
                }
            }
            Err(error) if error.problem.may_be_half_written() && file.is_fresh(self.pace.settle) => file.due = true,
            Err(error) => {
                file.refused = Some(digest);
                let (old, new) = (present.to_string(), digest.to_string());
                let number = self.swaps.begin(name, Cause::File, old, new, Outcome::Refused);
                let reason = format!("{}; {}", error.problem, error.problem.remedy());
                self.swaps.update(number, |report| report.reason = Some(reason));
                tell_refused(name, &file.path, present, &error.problem);
            }
        }
    }

    /// Begins the course of a candidate: a trial, or the take-over.
    fn introduce(&mut self, candidate: Link, cause: Cause) {
        let course = self.courses.entry(candidate.config.name.clone()).or_default();
        course.introduce(candidate, cause, &self.shared, &self.swaps);
    }

    fn step(&mut self) {
        for (name, course) in &mut self.courses {
            if let Some(digest) = course.step(&self.shared, &self.swaps)
                && let Some(file) = self.files.get_mut(name)
            {
                file.refused = Some(digest);
            }
        }
    }

    fn promote(&mut self, name: &str) -> Result<String, String> {
        let Some(course) = self.courses.get_mut(name) else { return Err(self.nothing_of(name, "no candidate")) };
        course.promote(&self.shared, &self.swaps)
    }

    fn rollback(&mut self, name: &str) -> Result<String, String> {
        let Some(course) = self.courses.get_mut(name) else { return Err(self.nothing_of(name, "no version before")) };
        let (told, digest) = course.rollback(&self.shared, &self.swaps)?;
        if let Some(file) = self.files.get_mut(name) {
            file.refused = Some(digest);
        }
        Ok(told)
    }

    fn nothing_of(&self, name: &str, what: &str) -> String {
        let known = self.shared.link(name).is_some();
        if known { format!("plugin {name} has {what}") } else { format!("the chain has no plugin {name}") }
    }

    /// Reads the configuration again if its file changed, or somebody asked for it.
    fn read_source(&mut self) {
        let Some(source) = &self.source else { return };
        let asked = std::mem::take(&mut self.asked_to_reload);
        if let Some(file) = &mut self.source_file {
            if !asked && !file.due {
                return;
            }
            file.due = false;
            let digest = std::fs::read(&file.path).ok().map(|bytes| Digest::of(&bytes));
            // At the first look it is read in any case: it may have changed since the host was started with it.
            let seen = std::mem::replace(&mut file.refused, digest);
            if !asked && seen.is_some() && seen == digest {
                return;
            }
        } else if !asked {
            return;
        }
        let new = match (source.load)() {
            Ok(new) => new,
            Err(problems) => {
                if let Some(file) = self.source_file.as_mut().filter(|file| file.is_fresh(self.pace.settle)) {
                    (file.due, file.refused) = (true, Some(Digest::of(b"in the writing")));
                    return;
                }
                tracing::error!("the configuration isn't right; what it said before goes on: {problems}");
                return;
            }
        };
        let stays = config::needs_restart(&source.present, &new);
        if !stays.is_empty() {
            tracing::warn!(keys = ?stays, "these keys can't change without a restart; the host runs on with the old");
        }
        let plan = Plan::new(&self.shared.links(), &source.present.plugins, new.plugins);
        match plan {
            None if asked => tracing::info!("the configuration was read again; nothing changed in the chain"),
            None => {}
            Some(plan) => self.load(Job::Reload(plan)),
        }
    }

    fn reload_loaded(&mut self, plan: Plan, result: Result<Vec<LoadedPlugin>, LoadError>) {
        let loaded = match result {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!("the changed configuration isn't taken up, and the old chain goes on: {error}");
                return;
            }
        };
        if let Some(source) = &mut self.source {
            source.present.plugins.clone_from(&plan.plugins);
        }
        let before = self.shared.links();
        let made = plan.apply(&before, loaded);
        self.courses.retain(|name, course| {
            let goes_on = made.chain.iter().any(|link| link.config.name == *name) && !made.changes(name);
            if !goes_on {
                course.abandon(&self.shared, &self.swaps);
            }
            goes_on
        });
        let started = Instant::now();
        self.shared.install(made.chain);
        let took = started.elapsed();
        for (old, new) in made.replaced {
            let course = self.courses.entry(new.config.name.clone()).or_default();
            course.took_over(old, &new, Cause::Configuration, took, &self.swaps);
        }
        for candidate in made.candidates {
            self.introduce(candidate, Cause::Configuration);
        }
        self.follow_chain();
        let chain: Vec<String> = self.shared.links().iter().map(|link| link.config.name.clone()).collect();
        tracing::info!(?chain, "the changed configuration is at work from the next record on");
    }
}

fn tell_refused(plugin: &str, file: &Path, kept: Digest, problem: &Problem) {
    tracing::error!(
        plugin, file = %file.display(), kept = kept.short(), reason = %problem, remedy = problem.remedy(),
        "the plugin's file doesn't load; its present version goes on",
    );
}
