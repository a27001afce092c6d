//! A plugin's folder, which `plugin new` makes, and in which `plugin build` and `plugin test` work.
//!
//! ```text
//! plugin.toml       name and language
//! wit/              the contract
//! fixtures/         records, and the answers that are expected
//! build/NAME.wasm   the component
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::config::in_full;

/// The file that marks a plugin's folder.
pub const MANIFEST: &str = "plugin.toml";

/// A language that `plugin new` and `plugin build` know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Rust, by cargo.
    Rust,
    /// Python, by componentize-py.
    Python,
    /// JavaScript, by componentize-js.
    JavaScript,
    /// TypeScript, by tsc and componentize-js.
    TypeScript,
    /// Go, by its own compiler.
    Go,
    /// C, by clang or zig.
    C,
    /// C++, by clang or zig.
    Cpp,
    /// Zig, by zig.
    Zig,
}

impl Language {
    /// All languages, in the order in which they are listed.
    pub const ALL: [Self; 8] =
        [Self::Rust, Self::Python, Self::JavaScript, Self::TypeScript, Self::Go, Self::C, Self::Cpp, Self::Zig];

    /// The name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
            Self::Go => "go",
            Self::C => "c",
            Self::Cpp => "cpp",
            Self::Zig => "zig",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    language: Language,
}

/// A plugin's folder.
#[derive(Debug)]
pub struct Project {
    /// The absolute path of the folder.
    pub folder: PathBuf,
    /// The plugin's name.
    pub name: String,
    /// The language it is written in.
    pub language: Language,
}

impl Project {
    /// Reads the manifest of this folder.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(MANIFEST);
        if !path.exists() {
            bail!(
                "{} isn't a plugin's folder: it has no {MANIFEST}, which names the plugin and its language; \
                 `reduct-sink plugin new --lang LANGUAGE NAME` makes such a folder",
                in_full(folder)
            );
        }
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", in_full(&path)))?;
        let Manifest { name, language } =
            toml::from_str(&text).map_err(anyhow::Error::from).with_context(|| in_full(&path))?;
        check_name(&name).with_context(|| in_full(&path))?;
        let folder = fs::canonicalize(folder).with_context(|| format!("can't find {}", in_full(folder)))?;
        Ok(Self { folder, name, language })
    }

    /// The path of the built component.
    pub fn component(&self) -> PathBuf {
        self.folder.join("build").join(format!("{}.wasm", self.name))
    }

    /// The folder of the fixtures.
    pub fn fixtures(&self) -> PathBuf {
        self.folder.join("fixtures")
    }
}

/// Checks that every language and the host's configuration accept the name.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let legal = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    ensure!(
        legal && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-') && !name.contains("--"),
        "{name:?} is no name for a plugin; take lower-case letters, digits and single `-`, a letter first"
    );
    ensure!(name.len() <= 64, "{name:?} is too long for a plugin's name; 64 characters are the most");
    // A crate or package of such a name would clash with one that the plugin needs.
    let taken = ["test", "core", "std", "alloc", "proc-macro", "main", "app", "build", "reduct-sink-plugin"];
    ensure!(!taken.contains(&name), "{name:?} means something else to the toolchains; take another name");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "frames", "drop-heartbeats", "v2"] {
            check_name(good).unwrap();
        }
        for bad in ["", "Frames", "2frames", "-a", "a-", "a--b", "a_b", "ä", "core", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_folder_without_a_manifest_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = |text: Option<&str>| {
            if let Some(text) = text {
                fs::write(folder.path().join(MANIFEST), text).unwrap();
            }
            format!("{:#}", Project::open(folder.path()).unwrap_err())
        };
        assert!(error(None).contains("plugin new --lang"));
        let unknown = error(Some("name = 'a'\nlanguage = 'cobol'"));
        assert!(unknown.contains("plugin.toml") && unknown.contains("`typescript`"), "{unknown}");
        assert!(error(Some("name = 'A'\nlanguage = 'c'")).contains("lower-case"));
    }
}
