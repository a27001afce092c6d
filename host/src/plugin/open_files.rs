//! The files that plugins have open, and the lists of directories that they hold.
//!
//! Guarantees: all instances of one version of a plugin together have at most [`MOST_OPEN`] files open, so that they leave the
//! host enough of its own; a list, which lives in the host's memory, has at most [`MOST_LISTED`] entries, and an instance
//! holds at most [`MOST_LISTS`] of them.

use std::any::Any;
use std::fs::{File, read_dir};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::types::DirectoryEntryStream;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

/// Of a version, over all its instances: a shell gives a process 1,024.
pub(super) const MOST_OPEN: usize = 128;
/// A name has 255 bytes at most.
pub(super) const MOST_LISTED: usize = 10_000;
pub(super) const MOST_LISTS: usize = 2;

/// How many files the instances of a version have open.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(AtomicUsize);

/// One instance's part of them.
#[derive(Debug)]
pub(super) struct OwnFiles {
    all: Arc<OpenFiles>,
    own: usize,
}

impl OwnFiles {
    pub fn new(all: &Arc<OpenFiles>) -> Self {
        Self { all: Arc::clone(all), own: 0 }
    }

    /// Whether the instance may open one more. `table`: all that it holds.
    pub fn may_open(&mut self, table: &mut ResourceTable) -> bool {
        self.count(table);
        // Two instances at once may each take the last place: a few more are no harm.
        self.all.0.load(Ordering::Relaxed) < MOST_OPEN
    }

    /// Counts again what the instance has open.
    pub fn recount(&mut self, table: &mut ResourceTable) {
        if self.own > 0 {
            self.count(table);
        }
    }

    fn count(&mut self, table: &mut ResourceTable) {
        let is_open = |one: &&mut (dyn Any + Send)| match one.downcast_ref::<Descriptor>() {
            // The granted directories themselves are open once for all handles.
            Some(Descriptor::Dir(directory)) => Arc::strong_count(&directory.dir) == 1,
            Some(Descriptor::File(_)) => true,
            // A stream keeps its file open.
            None => one.is::<DynInputStream>() || one.is::<DynOutputStream>(),
        };
        let (now, before) = (table.iter_mut().filter(is_open).count(), self.own);
        self.own = now;
        self.all.0.fetch_add(now, Ordering::Relaxed);
        self.all.0.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for OwnFiles {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// Whether the instance holds as many lists of directories as it may.
pub(super) fn holds_all_lists(table: &mut ResourceTable) -> bool {
    table.iter_mut().filter(|one| one.is::<DirectoryEntryStream>()).count() >= MOST_LISTS
}

/// Whether the directory has more entries than a list may have. Blocks.
pub(super) fn is_too_long(directory: &File) -> io::Result<bool> {
    // Another descriptor, because the position in the directory belongs to the descriptor.
    let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    Ok(read_dir(own)?.nth(MOST_LISTED).is_some())
}
