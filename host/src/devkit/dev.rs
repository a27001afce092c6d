//! What `plugin dev` goes by: what changed in a plugin's folder, and how a component gets into the place of another one.
//!
//! Guarantees: what a build writes by itself counts as no change; a component is renamed into place when it is whole, because
//! a running host may be watching the file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::project::Project;
use crate::plugin::Digest;

/// Folders that builds write to.
const BUILT: [&str; 4] = ["build", "target", "node_modules", "__pycache__"];

/// The files of a plugin's folder, by their paths in it, and what tells that one of them changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderStamp(BTreeMap<PathBuf, (u64, i64, i64)>);

impl FolderStamp {
    /// Files that come or go meanwhile are seen the next time.
    pub fn of(project: &Project) -> Self {
        let mut stamp = Self::default();
        stamp.add(&project.folder, &project.folder);
        stamp
    }

    fn add(&mut self, root: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            // Editors keep hidden files beside the one that is edited.
            if name.starts_with('.') || name.ends_with('~') {
                continue;
            }
            let Ok(found) = fs::metadata(&path) else { continue };
            if found.is_dir() {
                // Not through links, which may lead back.
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                if !BUILT.contains(&&*name) && !is_link {
                    self.add(root, &path);
                }
            } else if let Ok(place) = path.strip_prefix(root) {
                self.0.insert(place.to_owned(), (found.size(), found.mtime(), found.mtime_nsec()));
            }
        }
    }

    /// The files that differ between the two, sorted.
    pub fn changed(&self, before: &Self) -> Vec<PathBuf> {
        let differs = |path: &&PathBuf| self.0.get(*path) != before.0.get(*path);
        let mut changed: Vec<PathBuf> = self.0.keys().chain(before.0.keys()).filter(differs).cloned().collect();
        changed.sort();
        changed.dedup();
        changed
    }
}

/// Puts a copy of `component` in the place of `file`.
pub fn put_in_place(component: &Path, file: &Path) -> anyhow::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // Hidden, and without the extension by which a plugin is known.
    let fresh = file.with_file_name(format!(".{name}.new"));
    fs::copy(component, &fresh)
        .with_context(|| format!("can't copy {} to {}", component.display(), fresh.display()))?;
    fs::rename(&fresh, file).with_context(|| format!("can't replace {}", file.display()))
}

/// The sha256 of a file, as a host shows it.
pub fn digest_of(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    Ok(Digest::of(&bytes).to_string())
}

#[cfg(test)]
mod tests {
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
        fs::write(&component, "new").unwrap();
        fs::write(&file, "old").unwrap();
        put_in_place(&component, &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(digest_of(&file).unwrap(), digest_of(&component).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside it");
    }
}
