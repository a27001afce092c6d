//! The host's own files: what no grant may hand to a plugin.
//!
//! Guarantees: a plugin can't write the configuration, a plugin's file or the cache, by which it would give itself rights or
//! code of its own; it can't read the cache's key, a secret, or the memory and the environment of processes, through any
//! directory that it is granted; and no plugin can
//! write a place on the way to a granted directory, where it could put a link to another one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Grants;

/// Where Linux shows the memory, the environment and the open files of processes, and the devices.
const SYSTEMS: [&str; 2] = ["/proc", "/dev"];
/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Why a directory can't be granted; `None`: nothing speaks against it. Links are resolved.
///
/// `cache`: the folder in use, which may be the default one.
pub(super) fn exposed(grants: &Grants, cache: Option<&Path>) -> Option<String> {
    grants.directories.iter().find_map(|directory| {
        let granted = fs::canonicalize(&directory.path).ok()?;
        let shown = directory.path.display();
        if let Some(writable) = writable_around(grants, &directory.path) {
            return Some(format!(
                "the directory {shown} is reached through {}, which a plugin may write: it could put a link to another \
                 place there; grant a directory that is outside of it",
                writable.display()
            ));
        }
        let own = if directory.writable { &grants.own_files } else { &grants.own_secrets };
        let systems = SYSTEMS.map(Path::new);
        let exposed = own.iter().map(PathBuf::as_path).chain(cache).chain(systems).find(|own| {
            let (places, own) = way(own);
            let may_be_replaced = directory.writable && places.iter().any(|place| lies_in(place, &granted));
            may_be_replaced || own.starts_with(&granted) || granted.starts_with(&own)
        })?;
        let verb = if directory.writable { "write" } else { "read" };
        Some(format!("through the directory {shown} it could {verb} {}", exposed.display()))
    })
}

/// A directory that a plugin may write and in which a place on the way to `path` lies.
fn writable_around<'a>(grants: &'a Grants, path: &Path) -> Option<&'a Path> {
    let (places, _) = way(path);
    let own = grants.directories.iter().filter(|directory| directory.writable).map(|directory| &directory.path);
    own.chain(&grants.written_by_plugins).map(PathBuf::as_path).find(|writable| {
        let (_, writable) = way(writable);
        places.iter().any(|place| lies_in(place, &writable))
    })
}

/// Whether the place is inside of the folder: nobody who may write in it can replace the folder itself.
fn lies_in(place: &Path, folder: &Path) -> bool {
    place != folder && place.starts_with(folder)
}

/// Each place that is looked at on the way to the path, those of links included, and where it leads, as far as it exists.
fn way(path: &Path) -> (Vec<PathBuf>, PathBuf) {
    let parts =
        |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<OsString>>();
    let mut ahead = parts(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let (mut places, mut at, mut links) = (Vec::new(), PathBuf::new(), 0);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let place = at.join(&part);
        match fs::read_link(&place) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                ahead.extend(parts(&target));
            }
            _ => at.clone_from(&place),
        }
        places.push(place);
    }
    (places, at)
}
