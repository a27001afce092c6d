//! How a fixture writes bytes: as text, as base64, as the name of a file beside the fixture, or as a text that is
//! repeated.
//!
//! Guarantees: [`FixtureContent::bytes`] returns byte for byte what [`FixtureContent::of`] was given.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::in_full;
use crate::plugin::Digest;

/// Payloads of more bytes than this are shown by their size and digest.
const SHOWN_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, or one of { base64 = … }, { file = … }, { repeat = …, times = … } and { sha256 = …, size = … }"
)]
/// Bytes as a fixture writes them.
pub enum FixtureContent {
    /// The bytes as text.
    Text(String),
    /// The bytes in base64.
    Base64(Base64),
    /// The content of a file beside the fixture.
    File(File),
    /// A text, repeated.
    Repeat(Repeat),
    /// The digest of the bytes, which is enough to compare them.
    Digest(Sha256),
}

/// Bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base64 {
    base64: String,
}

/// A file, by its path from the folder of the fixture that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    file: String,
}

/// A text, and how many times it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    repeat: String,
    times: usize,
}

/// The digest and the size of bytes that are too many to be shown: they can be compared, but not read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sha256 {
    sha256: String,
    size: usize,
}

impl FixtureContent {
    /// The bytes as text if people can read it, otherwise in base64.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if is_readable(text) => Self::Text(text.into()),
            _ => Self::Base64(Base64 { base64: STANDARD.encode(bytes) }),
        }
    }

    /// The bytes as [`FixtureContent::of`] writes them, or their digest if there are more than 4096.
    pub fn shown(bytes: &[u8]) -> Self {
        if bytes.len() <= SHOWN_BYTES {
            return Self::of(bytes);
        }
        Self::Digest(Sha256 { sha256: Digest::of(bytes).to_string(), size: bytes.len() })
    }

    /// The content of a file beside the fixture.
    pub fn file(name: impl Into<String>) -> Self {
        Self::File(File { file: name.into() })
    }

    /// The bytes themselves. `folder` is where a file that is named lies. Fails for a digest, and for a file that can't
    /// be read.
    pub fn bytes(&self, folder: &Path) -> anyhow::Result<Bytes> {
        Ok(match self {
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Base64(Base64 { base64 }) => {
                STANDARD.decode(base64).with_context(|| format!("{base64:?} isn't valid base64"))?.into()
            }
            Self::File(File { file }) => {
                let path = folder.join(file);
                std::fs::read(&path).with_context(|| format!("can't read {}", in_full(&path)))?.into()
            }
            Self::Repeat(Repeat { repeat, times }) => repeat.repeat(*times).into(),
            Self::Digest(_) => {
                bail!("only an expectation may give bytes by their sha256; give a text, base64 or a file here")
            }
        })
    }

    /// Whether both stand for the same bytes, in whatever way each is written.
    pub fn is(&self, other: &Self, folder: &Path) -> bool {
        self == other || self.digest(folder).is_some_and(|digest| Some(digest) == other.digest(folder))
    }

    fn digest(&self, folder: &Path) -> Option<(String, usize)> {
        if let Self::Digest(Sha256 { sha256, size }) = self {
            return Some((sha256.to_lowercase(), *size));
        }
        let bytes = self.bytes(folder).ok()?;
        Some((Digest::of(&bytes).to_string(), bytes.len()))
    }

    /// The content on one line, for people.
    pub fn summary(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Base64(Base64 { base64 }) => format!("base64 {base64}"),
            Self::File(File { file }) => format!("file {file}"),
            Self::Repeat(Repeat { repeat, times }) => format!("{times} times {repeat:?}"),
            Self::Digest(Sha256 { sha256, size }) => {
                let mut summary = format!("{size} bytes, sha256 ");
                let _ = write!(summary, "{sha256:.12}…");
                summary
            }
        }
    }
}

/// Whether people can read the text and editors keep it as it is: it has no control characters but line feeds and tabs.
fn is_readable(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let here = Path::new(".");
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [b"".as_slice(), b"text\nand more", "ü €".as_bytes(), b"\r\n", b"\0", &all] {
            assert_eq!(FixtureContent::of(bytes).bytes(here).unwrap(), bytes);
        }
        assert!(matches!(FixtureContent::of("ü €\n".as_bytes()), FixtureContent::Text(_)));
        assert!(matches!(FixtureContent::of(b"\r"), FixtureContent::Base64(_)), "an editor might change it");
    }

    #[test]
    fn bytes_are_compared_however_they_are_written() {
        let here = Path::new(".");
        let many = vec![b'x'; SHOWN_BYTES + 1];
        let shown = FixtureContent::shown(&many);
        assert!(matches!(shown, FixtureContent::Digest(_)));
        let repeat = FixtureContent::Repeat(Repeat { repeat: "x".into(), times: many.len() });
        assert!(repeat.is(&shown, here) && shown.is(&repeat, here));
        assert!(!repeat.is(&FixtureContent::shown(&[many.as_slice(), b"x"].concat()), here));
        assert!(FixtureContent::Text("a".into()).is(&FixtureContent::Base64(Base64 { base64: "YQ==".into() }), here));
        assert!(shown.bytes(here).unwrap_err().to_string().contains("expectation"));
    }
}
