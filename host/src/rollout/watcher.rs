//! Watches the files of the plugins and of the configuration.
//!
//! Guarantees: every way of replacing a file is noticed: a rename, rewriting in place (also slowly), a link that is
//! pointed elsewhere, a file or folder that disappears and comes back. If the file system reports no events, the file's
//! stamp is compared every few seconds, and the log says so once.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::config::{PluginConfig, PluginSource, read_small};
use crate::plugin::{Digest, read, signature_file};

/// A watched file, and what is known of it.
pub(super) struct WatchedFile {
    pub path: PathBuf,
    /// The stamps of the file and of its signature when they were last compared.
    stamps: [FileStamp; 2],
    /// When a change of the stamps was last noticed.
    since: Instant,
    /// Whether the file has changed and has to be read.
    pub due: bool,
    pub last_seen: LastSeen,
}

/// What the host did with the bytes that it read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastSeen {
    /// Nothing was read yet, or what was read is used.
    Nothing,
    /// The file may have been half written: it is read again.
    Partial,
    /// The bytes with this digest were loaded or refused: they aren't tried again until they change.
    Done(Digest),
}

/// The properties of a file by which a change is noticed without reading the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileStamp {
    Missing,
    There { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

impl WatchedFile {
    /// A file that is due at once, because it may have been replaced since the host read it.
    pub fn new(path: PathBuf) -> Self {
        Self { stamps: stamps(&path), path, since: Instant::now(), due: true, last_seen: LastSeen::Nothing }
    }

    /// Compares the stamps, and marks the file as due if they changed. Returns `true` if the file has disappeared since
    /// the last call.
    pub fn poll(&mut self) -> bool {
        let stamps = stamps(&self.path);
        if stamps == self.stamps {
            return false;
        }
        let [file, _] = stamps;
        self.due = file != FileStamp::Missing;
        if self.stamps.last() != stamps.last() {
            // Another signature may make the same bytes valid or invalid, so they have to be tried again.
            self.last_seen = LastSeen::Nothing;
        }
        self.stamps = stamps;
        self.since = Instant::now();
        file == FileStamp::Missing
    }

    /// Whether the file changed less than `settle` ago, so that another process may still be writing it.
    pub fn is_fresh(&self, settle: Duration) -> bool {
        self.since.elapsed() < settle
    }
}

/// The stamps of the file and of the signature beside it.
fn stamps(path: &Path) -> [FileStamp; 2] {
    [FileStamp::at(path), FileStamp::at(&signature_file(path))]
}

impl FileStamp {
    fn at(path: &Path) -> Self {
        // `metadata` follows links, so the stamp is that of the file that would be read.
        fs::metadata(path).map_or(Self::Missing, |found| Self::There {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// For each plugin, the digest of its file together with its signature; `None`: the file can't be read.
pub(super) fn digests(plugins: &[PluginConfig]) -> Vec<Option<Digest>> {
    let signature = |plugin: &PluginConfig| match &plugin.source {
        PluginSource::File(path) => read_small(&signature_file(path)).ok(),
        PluginSource::Builtin | PluginSource::Remote(_) => None,
    };
    let digest = |plugin: &PluginConfig| {
        let mut bytes = match &plugin.source {
            PluginSource::Remote(remote) => remote.address.to_string().into_bytes(),
            PluginSource::File(_) | PluginSource::Builtin => read(plugin).ok()?,
        };
        bytes.extend(signature(plugin).unwrap_or_default());
        Some(Digest::of(&bytes))
    };
    plugins.iter().map(digest).collect()
}

/// The watched folders: those of the files, and for a file that is a link, also the folder of its target.
pub(super) struct Folders {
    /// `None`: the system gives the host no watcher, and the files are only polled.
    watcher: Option<RecommendedWatcher>,
    /// The watched folders, each with its device and inode: a new folder of the same name needs a new watch.
    watched: HashMap<PathBuf, (u64, u64)>,
    /// The folders that can't be watched and that the log already names.
    unwatchable: HashSet<PathBuf>,
}

impl Folders {
    pub fn new(events: Box<dyn Fn() + Send>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and the host's own reads must not wake it again.
            let is_reading = |event: &notify::Event| {
                event.kind.is_access() && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
            };
            if !event.as_ref().is_ok_and(is_reading) {
                events();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the system doesn't report changed files; the host polls them every few seconds");
        }
        Self { watcher: watcher.ok(), watched: HashMap::new(), unwatchable: HashSet::new() }
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
                // This fails if the folder is gone, because its watch is gone with it.
                let _ = watcher.unwatch(&folder);
            }
            if let Some(present) = present {
                match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        self.unwatchable.remove(&folder);
                        self.watched.insert(folder, present);
                    }
                    Err(error) => {
                        if self.unwatchable.insert(folder.clone()) {
                            tracing::warn!(
                                folder = %folder.display(), %error,
                                "the folder can't be watched; the host polls its files every few seconds",
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The folder of the file, and that of the link's target if the file is a link.
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

/// The watched files of these paths: those of `before` that are still named are kept, and new ones are due, because
/// they may have changed since the configuration was read.
pub(super) fn value_files(paths: &[PathBuf], mut before: Vec<WatchedFile>) -> Vec<WatchedFile> {
    let file = |path: &PathBuf| match before.iter().position(|file| file.path == *path) {
        Some(known) => before.swap_remove(known),
        None => WatchedFile::new(path.clone()),
    };
    paths.iter().map(file).collect()
}
