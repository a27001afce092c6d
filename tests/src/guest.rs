//! Components for tests: the plugins of this repository, and versions of them made on the spot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::sink::run_to_end;

/// A plugin of `plugins/`, as `plugins/build` made it.
pub fn plugin(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist").join(format!("{name}.wasm"));
    ensure!(path.is_file(), "plugin {name} isn't built: run plugins/build");
    Ok(path.canonicalize()?)
}

/// The passthrough that is embedded in the host.
pub fn passthrough() -> Result<Vec<u8>> {
    let output = run_to_end(&["plugin", "passthrough"], &[], Duration::from_secs(20))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// The same component with another digest: it gets an additional custom section, which nothing reads.
pub fn version(component: &[u8], name: &str) -> Vec<u8> {
    assert!(name.len() < 100, "the lengths below are written as single bytes");
    let mut bytes = component.to_vec();
    bytes.extend([0, name.len() as u8 + 1, name.len() as u8]);
    bytes.extend(name.as_bytes());
    bytes
}

/// Replaces a file as deployments do: written beside it, then renamed over it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)?;
    Ok(())
}
