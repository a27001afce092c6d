//! Swapping: watches the plugins' files, loads what appears there, and puts it to work.
//!
//! Guarantees: one thread does all of it, off the data path; a file is loaded when its bytes are others than those at
//! work, and only then; one that doesn't load leaves the present version working, and the log says why, once. Every way
//! of replacing a file is noticed: renames, rewriting in place (slowly, too), links that point elsewhere, a file or
//! folder that goes and comes back; at the latest by a look every few seconds, where the file system tells nothing.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::digest::Digest;
use super::error::Problem;
use super::runtime::read;
use crate::chain::SharedChain;
use crate::config::PluginSource;

/// How patiently files are watched.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Nothing must have happened for this long before a file is looked at: one copy is many events.
    pub debounce: Duration,
    /// Files are looked at this often without an event.
    pub poll: Duration,
    /// A file that doesn't load is taken to be still in the writing until it hasn't changed for this long.
    pub settle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { debounce: Duration::from_millis(100), poll: Duration::from_secs(2), settle: Duration::from_secs(1) }
    }
}

/// Ends the watching when it is dropped. A load that is under way is finished.
pub struct WatchHandle {
    stop: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

/// Watches the files of `shared`'s plugins at the usual pace.
pub fn watch(shared: Arc<SharedChain>) -> WatchHandle {
    watch_at(shared, Pace::default())
}

pub fn watch_at(shared: Arc<SharedChain>, pace: Pace) -> WatchHandle {
    let (send, signals) = channel();
    // Here, not on the thread: what happens from now on is seen.
    let watch = Watch::new(shared, pace, &send);
    let thread = thread::Builder::new().name("plugin-watch".into()).spawn(move || watch.run(&signals));
    if let Err(error) = &thread {
        tracing::error!(%error, "no thread to watch the plugins' files; they aren't swapped until a restart");
    }
    WatchHandle { stop: send, thread: thread.ok() }
}

impl WatchHandle {
    /// Ends the watching and waits until it has ended.
    pub fn stop(mut self) {
        let thread = self.thread.take();
        drop(self);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watched the plugins' files panicked");
        }
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        // Refused only by a thread that has ended already.
        let _ = self.stop.send(Signal::Stop);
    }
}

enum Signal {
    /// Something happened in a watched folder.
    Event,
    Stop,
}

struct Watch {
    shared: Arc<SharedChain>,
    pace: Pace,
    files: Vec<File>,
    folders: Folders,
}

/// One plugin's file, and what is known of it.
struct File {
    /// The plugin's place in the chain.
    index: usize,
    path: PathBuf,
    /// What the file looked like at the last look, and since when it has.
    look: Look,
    since: Instant,
    /// Whether this look still has to be loaded.
    due: bool,
    /// The last bytes that didn't load: they aren't tried again.
    refused: Option<Digest>,
}

/// By what a file's change is noticed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Missing,
    There { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

impl Watch {
    fn new(shared: Arc<SharedChain>, pace: Pace, events: &Sender<Signal>) -> Self {
        let now = Instant::now();
        let file = |(index, plugin): (usize, &crate::config::Plugin)| match &plugin.source {
            PluginSource::Builtin => None,
            // Due at once: the file may have been replaced since the host read it.
            PluginSource::File(path) => {
                Some(File { index, path: path.clone(), look: Look::at(path), since: now, due: true, refused: None })
            }
        };
        let files: Vec<File> = shared.plugins().iter().enumerate().filter_map(file).collect();
        let mut folders = Folders::new(events.clone());
        folders.follow(files.iter().map(|file| file.path.as_path()));
        Self { shared, pace, files, folders }
    }

    fn run(mut self, signals: &Receiver<Signal>) {
        if self.files.is_empty() {
            return;
        }
        loop {
            self.folders.follow(self.files.iter().map(|file| file.path.as_path()));
            for file in &mut self.files {
                file.look_again();
                if file.due {
                    file.load(&self.shared, self.pace.settle);
                }
            }
            let unsettled = self.files.iter().any(|file| file.due);
            let wait = if unsettled { self.pace.debounce.max(self.pace.settle / 4) } else { self.pace.poll };
            match signals.recv_timeout(wait) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::Event) => {
                    if !quiet(signals, self.pace) {
                        return;
                    }
                }
            }
        }
    }
}

/// Waits until no more events come, but not for ever: a folder may never rest. `false`: the watching is to stop.
fn quiet(signals: &Receiver<Signal>, pace: Pace) -> bool {
    let latest = Instant::now() + pace.settle;
    loop {
        match signals.recv_timeout(pace.debounce) {
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
            Ok(Signal::Event) if Instant::now() >= latest => return true,
            Ok(Signal::Event) => {}
        }
    }
}

impl File {
    fn look_again(&mut self) {
        let look = Look::at(&self.path);
        if look == self.look {
            return;
        }
        if look == Look::Missing {
            tracing::warn!(file = %self.path.display(), "the plugin's file is gone; its present version goes on");
        }
        self.due = look != Look::Missing;
        self.look = look;
        self.since = Instant::now();
    }

    /// Loads the file if its bytes are new, and puts it to work. It stays due while it may still be in the writing.
    fn load(&mut self, shared: &SharedChain, settle: Duration) {
        self.due = false;
        let Some(plugin) = shared.plugins().get(self.index) else { return };
        let Some(present) = shared.versions().get(self.index).map(|version| version.digest) else { return };
        let digest = match read(plugin) {
            Ok(bytes) => Digest::of(&bytes),
            // It will look different when it can be read: permissions count as a look.
            Err(problem) => return self.tell_refused(&plugin.name, present, &problem),
        };
        if digest == present || Some(digest) == self.refused {
            return;
        }
        let started = Instant::now();
        match shared.runtime().load(plugin) {
            Ok(loaded) => {
                self.refused = None;
                let (new, bytes) = (loaded.digest, loaded.bytes);
                match shared.replace(self.index, loaded) {
                    Ok(old) => tracing::info!(
                        plugin = plugin.name, old = old.short(), new = new.short(), bytes,
                        loaded_in = ?started.elapsed(), file = %self.path.display(),
                        "swapped: the plugin's new version is at work from the next record on",
                    ),
                    Err(error) => tracing::error!(plugin = plugin.name, %error, "the plugin wasn't swapped"),
                }
            }
            Err(error) if error.problem.may_be_half_written() && self.since.elapsed() < settle => self.due = true,
            Err(error) => {
                self.refused = Some(digest);
                self.tell_refused(&plugin.name, present, &error.problem);
            }
        }
    }

    fn tell_refused(&self, plugin: &str, present: Digest, problem: &Problem) {
        tracing::error!(
            plugin, file = %self.path.display(), kept = present.short(), reason = %problem, remedy = problem.remedy(),
            "the plugin's file doesn't load; its present version goes on",
        );
    }
}

impl Look {
    fn at(path: &Path) -> Self {
        // Links are followed: what counts is the file that would be read.
        fs::metadata(path).map_or(Self::Missing, |found| Self::There {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// The folders that are watched: those of the files, and where a file is a link, also that of its target.
struct Folders {
    /// `None`: this system offers no more watches; the regular look has to do.
    watcher: Option<RecommendedWatcher>,
    /// With the folder's device and inode: another folder of the same name has to be watched anew.
    watched: HashMap<PathBuf, (u64, u64)>,
}

impl Folders {
    fn new(events: Sender<Signal>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and the host's own reads must not wake it again.
            let read_only = |event: &notify::Event| {
                event.kind.is_access() && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
            };
            if !event.as_ref().is_ok_and(read_only) {
                // Refused only when the watching has ended.
                let _ = events.send(Signal::Event);
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the system doesn't tell of changed files; plugins are looked at every few seconds");
        }
        Self { watcher: watcher.ok(), watched: HashMap::new() }
    }

    /// Makes sure that the folders of these files are watched, as they are now.
    fn follow<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in files.flat_map(folders_of) {
            let present = fs::metadata(&folder).ok().map(|found| (found.dev(), found.ino()));
            if self.watched.get(&folder) == present.as_ref() {
                continue;
            }
            if self.watched.remove(&folder).is_some() {
                // It may be gone, and the watch with it.
                let _ = watcher.unwatch(&folder);
            }
            if let Some(present) = present {
                match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    Ok(()) => drop(self.watched.insert(folder, present)),
                    Err(error) => tracing::debug!(folder = %folder.display(), %error, "can't watch the folder"),
                }
            }
        }
    }
}

fn folders_of(file: &Path) -> Vec<PathBuf> {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => path.to_owned(),
    };
    let mut folders = vec![folder(file)];
    if let Ok(target) = fs::canonicalize(file) {
        folders.push(folder(&target));
    }
    folders
}
