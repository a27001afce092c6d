//! Who made a plugin: detached signatures, as `minisign` makes them.
//!
//! Guarantees: where keys are configured, a file without a signature by one of them isn't loaded, at the start or in a swap.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The signature of a plugin's file: `FILE.minisig`, as minisign names it.
pub fn signature_file(component: &Path) -> PathBuf {
    let mut name = OsString::from(component);
    name.push(".minisig");
    name.into()
}
