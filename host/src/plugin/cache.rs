//! Compiled components, and components that were fetched, kept so that a restart neither compiles nor fetches them again.
//!
//! Guarantees: an entry is used only for the component, engine, host version and name that it was made for, and only if
//! its seal (an HMAC-SHA256 with the folder's own key) is right: machine code that somebody else wrote, or half of a
//! file, is never run. What is damaged is reported, compiled again and replaced. A crash leaves either a whole entry or a
//! temporary file that a later start removes. The folder keeps to its size: what wasn't used longest goes first.
//!
//! Attackers are other users of the machine. The folder and the key must belong to this user and be writable (the key
//! readable, too) by nobody else. The folder is opened once, without following a link, and everything happens through that
//! handle: exchanging a folder above it changes nothing. Only files that the cache itself named are removed. Somebody who
//! can act as this user, or as root, can read the key, but could as well replace the plugin or the host itself.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{hmac, rand};

/// What an entry begins with; then comes the seal, then the compiled component.
const MAGIC: &[u8] = b"reduct-sink compiled component 1\n";
const SEAL: usize = 32;
const SUFFIX: &str = "cwasm";
/// A temporary file this old was left by a crash.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// A folder of compiled components, each sealed with a key that only this user can read.
pub struct Cache {
    folder: PathBuf,
    /// The folder itself, whatever its path means by now.
    handle: File,
    most_bytes: u64,
    key: hmac::Key,
}

/// Why the cache can't be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum CacheError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path} belongs to another user, so it isn't trusted; set `cache.path` to a folder of this user's own")]
    Foreign { path: PathBuf },
    #[error("{path} may be written or read by others (mode {mode:o}), so it isn't trusted; `chmod {right:o}` mends it")]
    Open { path: PathBuf, mode: u32, right: u32 },
    #[error("{path} could be exchanged by others: everybody may write {above}; set `cache.path` to another place")]
    Exchangeable { path: PathBuf, above: PathBuf },
    #[error("{path} isn't a key of {SEAL} bytes; remove it, and the cache starts empty")]
    Key { path: PathBuf },
}

/// Why an entry can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("can't be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("ends too early, or isn't an entry")]
    Shape,
    #[error("has a wrong seal: it was changed, or its key was")]
    Seal,
}

impl Cache {
    /// Opens the folder, and makes it (and its key) if it isn't there.
    pub fn open(folder: &Path, most_bytes: u64) -> Result<Self, CacheError> {
        let io = |error| CacheError::Io { path: folder.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        let mut how = OpenOptions::new();
        let handle = how.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(folder).map_err(io)?;
        check_private(folder, &handle, 0o022, 0o700)?;
        check_ancestors(folder)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key(&within(&handle), folder)?);
        let cache = Self { folder: folder.to_owned(), handle, most_bytes, key };
        cache.remove_left_overs();
        Ok(cache)
    }

    /// Where it is unless configured otherwise: below the user's cache folder. `None`: the environment names none.
    pub fn default_folder() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(base.join("reduct-sink/plugins"))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The compiled component of that name. `None`: there is none.
    pub(super) fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Damage> {
        let mut file = match open_no_link(&self.entry(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut entry = Vec::new();
        file.read_to_end(&mut entry)?;
        let rest = entry.strip_prefix(MAGIC).ok_or(Damage::Shape)?;
        let (seal, code) = rest.split_at_checked(SEAL).ok_or(Damage::Shape)?;
        if self.seal(name, code).as_ref() != seal {
            return Err(Damage::Seal);
        }
        // Only for the order in which entries go.
        let _ = file.set_modified(SystemTime::now());
        let start = MAGIC.len() + SEAL;
        entry.drain(..start);
        Ok(Some(entry))
    }

    /// Whether there is an entry of that name, right or damaged.
    pub(super) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.entry(name)).is_ok_and(|found| found.is_file())
    }

    /// Keeps a compiled component, in place of one of the same name.
    pub(super) fn put(&self, name: &str, code: &[u8]) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let size = (MAGIC.len() + SEAL) as u64 + code.len() as u64;
        if size > self.most_bytes {
            return Err(io::Error::other(format!("its {size} bytes are more than the whole cache may have")));
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let beside = within(&self.handle).join(format!(".{name}.{}.{count}.tmp", std::process::id()));
        let seal = self.seal(name, code);
        let written = create_private(&beside)
            .and_then(|mut file| {
                file.write_all(MAGIC)?;
                file.write_all(seal.as_ref())?;
                file.write_all(code)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&beside, self.entry(name)));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written?;
        self.handle.sync_all()?;
        self.make_room(name);
        Ok(())
    }

    /// Its path for people. Work is done by [`Self::entry`].
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{SUFFIX}"))
    }

    fn entry(&self, name: &str) -> PathBuf {
        within(&self.handle).join(format!("{name}.{SUFFIX}"))
    }

    fn seal(&self, name: &str, code: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // The length keeps name and code apart.
        context.update(&(name.len() as u64).to_le_bytes());
        context.update(name.as_bytes());
        context.update(code);
        context.sign()
    }

    /// Removes entries, but not this one, until the others fit in beside it.
    fn make_room(&self, kept: &str) {
        let kept = self.entry(kept);
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = self
            .files()
            .filter(|(path, _)| is_own(path, SUFFIX))
            .filter_map(|(path, found)| Some((found.modified().ok()?, found.len(), path)))
            .collect();
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in entries.into_iter().filter(|(_, _, path)| *path != kept) {
            if bytes <= self.most_bytes {
                return;
            }
            if fs::remove_file(&path).is_ok() {
                bytes = bytes.saturating_sub(size);
            }
        }
    }

    fn remove_left_overs(&self) {
        let is_old =
            |found: &fs::Metadata| found.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > LEFT_OVER));
        for (path, found) in self.files() {
            if is_own(&path, "tmp") && is_old(&found) {
                // Another host may have been faster.
                let _ = fs::remove_file(path);
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
        let entries = fs::read_dir(within(&self.handle)).into_iter().flatten().flatten();
        // Not of what a link points to.
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
    }
}

/// The folder's key, made by the first host that uses the folder.
fn key(folder: &Path, shown: &Path) -> Result<[u8; SEAL], CacheError> {
    let (path, shown) = (folder.join("key"), shown.join("key"));
    let io = |error| CacheError::Io { path: shown.clone(), error };
    if !fs::exists(&path).map_err(io)? {
        let mut key = [0; SEAL];
        rand::fill(&mut key).map_err(|_| io(io::Error::other("the system gives no random numbers")))?;
        let beside = folder.join(format!(".key.{}.tmp", std::process::id()));
        let written = create_private(&beside).and_then(|mut file| {
            file.write_all(&key)?;
            file.sync_all()
        });
        // A link is refused where there is one already: then another host's key counts.
        let linked = written.and_then(|()| match fs::hard_link(&beside, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
        let _ = fs::remove_file(&beside);
        linked.map_err(io)?;
    }
    let mut file = open_no_link(&path).map_err(io)?;
    check_private(&shown, &file, 0o077, 0o600)?;
    let mut key = Vec::new();
    Read::by_ref(&mut file).take(SEAL as u64 + 1).read_to_end(&mut key).map_err(io)?;
    key.try_into().map_err(|_| CacheError::Key { path: shown })
}

/// The path of an open folder, which stays right when its name comes to mean another one.
fn within(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn open_no_link(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Whether the cache gave the file its name: `{digest}-….cwasm`, `.{digest}-….tmp` or `.key.….tmp`.
fn is_own(path: &Path, suffix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(name) = name.strip_suffix(suffix).and_then(|name| name.strip_suffix('.')) else { return false };
    let name = if suffix == "tmp" { name.strip_prefix('.') } else { Some(name) };
    let Some(name) = name else { return false };
    let digest = name.split('-').next().unwrap_or_default();
    (digest.len() == 64 && digest.bytes().all(|digit| digit.is_ascii_hexdigit())) || name.starts_with("key.")
}

/// Refuses a folder that others could exchange, because they may write a folder above it.
fn check_ancestors(folder: &Path) -> Result<(), CacheError> {
    const STICKY: u32 = 0o1000;
    let io = |error| CacheError::Io { path: folder.to_owned(), error };
    for above in fs::canonicalize(folder).map_err(io)?.ancestors().skip(1) {
        let mode = fs::metadata(above).map_err(io)?.mode();
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return Err(CacheError::Exchangeable { path: folder.to_owned(), above: above.to_owned() });
        }
    }
    Ok(())
}

/// Refuses what belongs to others, or grants them one of the permissions in `forbidden`.
fn check_private(path: &Path, file: &File, forbidden: u32, right: u32) -> Result<(), CacheError> {
    let found = file.metadata();
    let found = found.map_err(|error| CacheError::Io { path: path.to_owned(), error })?;
    // SAFETY: it takes nothing, touches no memory and can't fail.
    if found.uid() != unsafe { libc::geteuid() } {
        return Err(CacheError::Foreign { path: path.to_owned() });
    }
    let mode = found.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(CacheError::Open { path: path.to_owned(), mode, right });
    }
    Ok(())
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(folder: &tempfile::TempDir, bytes: u64) -> Cache {
        Cache::open(&folder.path().join("cache"), bytes).unwrap()
    }

    #[test]
    fn what_was_put_is_got_by_its_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(&folder, 1 << 20);
        assert!(cache.get("a").unwrap().is_none());
        cache.put("a", b"code").unwrap();
        cache.put("a", b"newer").unwrap();
        assert_eq!(open(&folder, 1 << 20).get("a").unwrap().as_deref(), Some(&b"newer"[..]), "in another process too");
        fs::copy(cache.path("a"), cache.path("b")).unwrap();
        assert!(matches!(cache.get("b"), Err(Damage::Seal)), "an entry under another's name");
    }

    #[test]
    fn no_changed_byte_goes_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(&folder, 1 << 20);
        cache.put("a", b"machine code").unwrap();
        let whole = fs::read(cache.path("a")).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(cache.path("a"), changed).unwrap();
            assert!(cache.get("a").is_err(), "byte {at}");
            fs::write(cache.path("a"), &whole[..at]).unwrap();
            assert!(cache.get("a").is_err(), "cut after {at} bytes");
        }
        fs::write(cache.path("a"), whole).unwrap();
        assert!(cache.get("a").unwrap().is_some());
    }

    #[test]
    fn a_folder_or_key_that_is_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(&folder, 1 << 20));
        let path = folder.path().join("cache");
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(&path.join("key"), 0o644);
        assert!(matches!(Cache::open(&path, 1), Err(CacheError::Open { mode: 0o644, .. })));
        chmod(&path.join("key"), 0o600);
        chmod(&path, 0o777);
        assert!(matches!(Cache::open(&path, 1), Err(CacheError::Open { mode: 0o777, .. })));
        chmod(&path, 0o700);
        fs::write(path.join("key"), b"short").unwrap();
        assert!(matches!(Cache::open(&path, 1), Err(CacheError::Key { .. })));
    }

    #[test]
    fn with_another_key_nothing_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, 1 << 20).put("a", b"code").unwrap();
        fs::remove_file(folder.path().join("cache/key")).unwrap();
        assert!(matches!(open(&folder, 1 << 20).get("a"), Err(Damage::Seal)));
    }

    #[test]
    fn what_was_not_used_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(&folder, 3500);
        let name = |letter: &str| format!("{}-plain", letter.repeat(64));
        for letter in ["a", "b", "c"] {
            cache.put(&name(letter), &[0; 1000]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(cache.get(&name("a")).unwrap().is_some(), "used again");
        cache.put(&name("d"), &[0; 1000]).unwrap();
        let there = ["a", "b", "c", "d"].map(|letter| cache.get(&name(letter)).unwrap().is_some());
        assert_eq!(there, [true, false, true, true]);
        assert!(cache.put(&name("e"), &[0; 4000]).is_err(), "larger than all");
    }

    #[test]
    fn what_a_crash_left_is_removed_later() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(&folder, 1 << 20);
        let own = |letter: &str| cache.folder.join(format!(".{}-plain.1.2.tmp", letter.repeat(64)));
        let foreign = cache.folder.join("somebody's.tmp");
        let (old, new) = (own("a"), own("b"));
        fs::write(&old, b"half").unwrap();
        fs::write(&new, b"half").unwrap();
        fs::write(&foreign, b"of another program").unwrap();
        for file in [&old, &foreign] {
            File::options().write(true).open(file).unwrap().set_modified(SystemTime::now() - 2 * LEFT_OVER).unwrap();
        }
        drop(open(&folder, 1 << 20));
        assert_eq!((old.exists(), new.exists()), (false, true), "a host may be writing it");
        assert!(foreign.exists(), "not the cache's own");
    }

    #[test]
    fn links_and_folders_that_others_may_exchange_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(&folder, 1 << 20));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("cache"), &link).unwrap();
        assert!(matches!(Cache::open(&link, 1), Err(CacheError::Io { .. })));
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Cache::open(&shared.join("cache"), 1), Err(CacheError::Exchangeable { .. })));
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        Cache::open(&shared.join("cache"), 1).unwrap();
    }
}
