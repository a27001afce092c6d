//! Files that are watched: those of the plugins, and the configuration.
//!
//! Guarantees: every way of replacing a file is noticed: renames, rewriting in place (slowly, too), links that point
//! elsewhere, a file or folder that goes and comes back; at the latest by a look every few seconds, where the file system
//! tells nothing.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::plugin::Digest;

/// A file, and what is known of it.
pub(super) struct File {
    pub path: PathBuf,
    /// What the file looked like at the last look, and since when it has.
    look: Look,
    since: Instant,
    /// Whether this look still has to be read.
    pub due: bool,
    /// The last bytes that were of no use: they aren't tried again.
    pub refused: Option<Digest>,
}

/// By what a file's change is noticed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Missing,
    There { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

impl File {
    /// Due at once: the file may have been replaced since the host read it.
    pub fn new(path: PathBuf) -> Self {
        Self { look: Look::at(&path), path, since: Instant::now(), due: true, refused: None }
    }

    /// `true`: it is gone since the last look.
    pub fn look_again(&mut self) -> bool {
        let look = Look::at(&self.path);
        if look == self.look {
            return false;
        }
        self.due = look != Look::Missing;
        self.look = look;
        self.since = Instant::now();
        look == Look::Missing
    }

    /// Whether it may still be in the writing: it changed a moment ago.
    pub fn is_fresh(&self, settle: Duration) -> bool {
        self.since.elapsed() < settle
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
pub(super) struct Folders {
    /// `None`: this system offers no more watches; the regular look has to do.
    watcher: Option<RecommendedWatcher>,
    /// With the folder's device and inode: another folder of the same name has to be watched anew.
    watched: HashMap<PathBuf, (u64, u64)>,
}

impl Folders {
    pub fn new(events: Box<dyn Fn() + Send>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and the host's own reads must not wake it again.
            let read_only = |event: &notify::Event| {
                event.kind.is_access() && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
            };
            if !event.as_ref().is_ok_and(read_only) {
                events();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the system doesn't tell of changed files; files are looked at every few seconds");
        }
        Self { watcher: watcher.ok(), watched: HashMap::new() }
    }

    /// Makes sure that the folders of these files are watched, as they are now.
    pub fn follow<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
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
