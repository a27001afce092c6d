//! The host's own files: what no grant may hand to a plugin.
//!
//! Guarantees: a plugin can't write the configuration, a plugin's file or the cache, by which it would give itself rights or
//! code of its own; and it can't read the cache's key or a secret, through any directory that it is granted.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Grants;

/// Why a directory can't be granted; `None`: nothing speaks against it. Links are resolved.
///
/// `cache`: the folder in use, which may be the default one.
pub(super) fn exposed(grants: &Grants, cache: Option<&Path>) -> Option<String> {
    grants.directories.iter().find_map(|directory| {
        let granted = fs::canonicalize(&directory.path).ok()?;
        let own = if directory.writable { &grants.own_files } else { &grants.own_secrets };
        let exposed = own.iter().map(PathBuf::as_path).chain(cache).find(|own| {
            let own = resolved(own);
            own.starts_with(&granted) || granted.starts_with(&own)
        })?;
        let verb = if directory.writable { "write" } else { "read" };
        Some(format!("through the directory {} it could {verb} {}", directory.path.display(), exposed.display()))
    })
}

/// The path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let mut missing = PathBuf::new();
    for existing in path.ancestors() {
        if let Ok(resolved) = fs::canonicalize(existing) {
            return resolved.join(missing);
        }
        missing = existing.file_name().map(PathBuf::from).unwrap_or_default().join(missing);
    }
    path.to_owned()
}
