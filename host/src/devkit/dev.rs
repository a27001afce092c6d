//! Two parts of `plugin dev`: noticing what changed in a plugin's folder, and replacing the component that a host runs.
//!
//! Guarantees: files that a build writes don't count as changes; the finished component is synced to the disk and then
//! renamed into place, because a running host may be watching the file; only a regular file that holds a component is
//! replaced, and no link is followed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::project::Project;
use crate::config::in_full;
use crate::plugin::Digest;

/// The folders that builds write to.
const BUILT: [&str; 4] = ["build", "target", "node_modules", "__pycache__"];

/// The files of a plugin's folder by their paths in it, each with its size and its time of modification (seconds and
/// nanoseconds).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderStamp(BTreeMap<PathBuf, (u64, i64, i64)>);

impl FolderStamp {
    /// The stamp of the folder as it is now. A file that appears or disappears meanwhile is noticed by the next stamp.
    pub fn of(project: &Project) -> Self {
        let mut stamp = Self::default();
        stamp.add(&project.folder, &project.folder);
        stamp
    }

    fn add(&mut self, root: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            // Editors keep such files beside the one that is edited.
            if name.starts_with('.') || name.ends_with('~') {
                continue;
            }
            let Ok(found) = fs::metadata(&path) else { continue };
            if found.is_dir() {
                // Links to folders are not followed, because one may lead back to a folder above it.
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                if !BUILT.contains(&&*name) && !is_link {
                    self.add(root, &path);
                }
            } else if let Ok(place) = path.strip_prefix(root) {
                self.0.insert(place.to_owned(), (found.size(), found.mtime(), found.mtime_nsec()));
            }
        }
    }

    /// The files that differ between this stamp and an earlier one, sorted.
    pub fn changed(&self, before: &Self) -> Vec<PathBuf> {
        let differs = |path: &&PathBuf| self.0.get(*path) != before.0.get(*path);
        let mut changed: Vec<PathBuf> = self.0.keys().chain(before.0.keys()).filter(differs).cloned().collect();
        changed.sort();
        changed.dedup();
        changed
    }
}

/// Replaces `file` by a copy of `component`. The copy is first written under a random name, so that no other user can
/// have put a link there, and has the permissions of the file that it replaces.
pub fn put_in_place(component: &Path, file: &Path) -> anyhow::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // The name is hidden and doesn't end in `.wasm`, so that no program takes the unfinished file for a plugin.
    let fresh = file.with_file_name(format!(".{name}.{:016x}.new", RandomState::new().build_hasher().finish()));
    let bytes = fs::read(component).with_context(|| format!("can't read {}", in_full(component)))?;
    let found = fs::metadata(file).with_context(|| format!("can't read the permissions of {}", in_full(file)))?;
    let rights = found.permissions();
    let mut made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&fresh)
        .with_context(|| format!("can't make {}", in_full(&fresh)))?;
    let written = made.write_all(&bytes).and_then(|()| made.set_permissions(rights)).and_then(|()| made.sync_all());
    let replaced = written.and_then(|()| fs::rename(&fresh, file));
    if replaced.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    replaced.with_context(|| format!("can't replace {}", in_full(file)))
}

/// The digest of the component in `file`, which `plugin dev --into` is going to replace. Fails if the file is a link or
/// a device, or holds something else than a component.
pub fn component_digest(file: &Path) -> anyhow::Result<String> {
    let is_file = fs::symlink_metadata(file).with_context(|| format!("can't look at {}", in_full(file)))?.is_file();
    ensure!(is_file, "{} isn't a regular file; `--into` doesn't replace links and devices", in_full(file));
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file);
    let mut opened = opened.with_context(|| format!("can't read {}", in_full(file)))?;
    let is_component = is_component(&mut opened).with_context(|| format!("can't read {}", in_full(file)))?;
    ensure!(is_component, "{} isn't a component: it doesn't begin with \\0asm", in_full(file));
    let mut bytes = MAGIC.to_vec();
    opened.read_to_end(&mut bytes).with_context(|| format!("can't read {}", in_full(file)))?;
    Ok(Digest::of(&bytes).to_string())
}

/// The first bytes of each component.
const MAGIC: &[u8; 4] = b"\0asm";

fn is_component(file: &mut File) -> std::io::Result<bool> {
    let mut head = Vec::new();
    Read::by_ref(file).take(MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head == MAGIC && file.metadata()?.is_file())
}

/// The sha256 of a file, written as a host shows it.
pub fn digest_of(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file).with_context(|| format!("can't read {}", in_full(file)))?;
    Ok(Digest::of(&bytes).to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::project::Language;
    use super::super::scaffold::create;
    use super::*;

    #[test]
    fn sources_and_fixtures_count_and_what_builds_write_does_not() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), "frames", Language::C).unwrap();
        let project = Project::open(folder.path()).unwrap();
        let change = |file: &str, text: &str| {
            let before = FolderStamp::of(&project);
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            FolderStamp::of(&project).changed(&before)
        };
        assert_eq!(change("plugin.c", "changed"), [Path::new("plugin.c")]);
        assert_eq!(change("fixtures/new/record.toml", ""), [Path::new("fixtures/new/record.toml")]);
        for built in ["build/frames.wasm", "target/x", "node_modules/a/b.js", "__pycache__/a.pyc", ".plugin.c.swp"] {
            assert!(change(built, "x").is_empty(), "{built}");
        }
        let before = FolderStamp::of(&project);
        fs::remove_file(folder.path().join("json.h")).unwrap();
        assert_eq!(FolderStamp::of(&project).changed(&before), [Path::new("json.h")]);
    }

    #[test]
    fn a_component_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (component, file) = (folder.path().join("new.wasm"), folder.path().join("at-work.wasm"));
        let victim = folder.path().join("victim");
        for (path, text) in [(&component, "new"), (&file, "old"), (&victim, "mine")] {
            fs::write(path, text).unwrap();
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&victim, folder.path().join(".at-work.wasm.new")).unwrap();
        put_in_place(&component, &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640, "the host may be another user");
        assert_eq!(digest_of(&file).unwrap(), digest_of(&component).unwrap());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine", "no link that somebody planted is followed");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing is left beside it");
    }

    #[test]
    fn only_components_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("good.wasm"), b"\0asm and more").unwrap();
        assert_eq!(component_digest(&path("good.wasm")).unwrap(), digest_of(&path("good.wasm")).unwrap());
        fs::write(path("id_ed25519"), "a key").unwrap();
        fs::write(path("short"), "\0as").unwrap();
        symlink(path("good.wasm"), path("link.wasm")).unwrap();
        let endless = Path::new("/dev/zero").to_owned();
        for other in [path("id_ed25519"), path("short"), path("link.wasm"), path("none"), path("."), endless] {
            assert!(component_digest(&other).is_err(), "{}", other.display());
        }
    }
}
