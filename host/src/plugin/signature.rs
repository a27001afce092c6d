//! Who signed a plugin: detached signatures beside the file, as `minisign` makes them.
//!
//! Guarantees: where keys are configured, a file without a valid signature by one of them isn't loaded, neither at the start
//! nor in a swap.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};

use crate::config::{in_full, read_small_text};
use crate::record::text::one_line;

/// The signer's comment is shown in at most this many bytes.
const COMMENT_BYTES: usize = 200;

/// A valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The public key, as it was configured.
    pub key: String,
    /// What the signer wrote beside it; it is signed, too.
    pub comment: String,
}

/// Why a signature doesn't count.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("has no signature: {0}")]
    Missing(String),
    /// The signature file isn't a minisign signature.
    #[error("has a signature that can't be read: {0}")]
    Unreadable(String),
    /// No configured key signed these bytes.
    #[error("has a signature that none of the configured keys made for these bytes")]
    Wrong,
}

/// The signature of a plugin's file: `FILE.minisig`, as minisign names it.
pub fn signature_file(component: &Path) -> PathBuf {
    let mut name = OsString::from(component);
    name.push(".minisig");
    name.into()
}

/// Whether the text is a public key of minisign.
pub fn is_public_key(text: &str) -> bool {
    PublicKey::from_base64(text).is_ok()
}

/// Checks the signature beside the file against these keys. `component`: the bytes that were read from the file.
pub fn verify(component: &[u8], file: &Path, keys: &[String]) -> Result<SignedBy, SignatureError> {
    let path = signature_file(file);
    let text = read_small_text(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SignatureError::Missing(format!("{} isn't there", in_full(&path))),
        _ => SignatureError::Unreadable(error.to_string()),
    })?;
    verify_text(component, &text, keys)
}

/// Checks the text of a signature file against these keys.
pub fn verify_text(component: &[u8], text: &str, keys: &[String]) -> Result<SignedBy, SignatureError> {
    let signature = Signature::decode(text).map_err(|error| SignatureError::Unreadable(error.to_string()))?;
    let signer = keys
        .iter()
        .find(|key| PublicKey::from_base64(key).is_ok_and(|key| key.verify(component, &signature, true).is_ok()));
    let key = signer.ok_or(SignatureError::Wrong)?.clone();
    Ok(SignedBy { key, comment: one_line(signature.trusted_comment(), COMMENT_BYTES) })
}

/// Who the file beside the component says has signed it, and what the signer wrote; `None`: there is no signature. Nothing is
/// checked.
pub fn claimed_signer(component: &Path) -> Option<String> {
    claimed_by(&read_small_text(&signature_file(component)).ok()?)
}

/// The same of a signature's text.
pub fn claimed_by(text: &str) -> Option<String> {
    let signature = Signature::decode(text).ok()?;
    let bytes = STANDARD.decode(text.lines().nth(1)?).ok()?;
    // After two bytes for the algorithm; minisign shows it as a little-endian number.
    let key: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    let comment = one_line(signature.trusted_comment(), COMMENT_BYTES);
    Some(format!("key {:016X} ({comment})", u64::from_le_bytes(key)))
}

impl fmt::Display for SignedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signed by {} ({})", self.key, self.comment)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// From minisign's own documentation: the file is `test`.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==";
    const OTHER_KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO4";

    #[test]
    fn only_the_right_key_and_the_right_bytes_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("test");
        let check = |bytes: &[u8], key: &str| verify(bytes, &file, &[key.to_owned()]);
        assert!(matches!(check(b"test", KEY), Err(SignatureError::Missing(_))));
        fs::write(signature_file(&file), SIGNATURE).unwrap();
        let signed = check(b"test", KEY).unwrap();
        assert_eq!(signed.comment, "timestamp:1556193335\tfile:test");
        let claimed = claimed_signer(&file).unwrap();
        assert!(claimed.starts_with("key E7620F1842B4E81F (timestamp:1556193335"), "{claimed}");
        assert!(matches!(check(b"test.", KEY), Err(SignatureError::Wrong)));
        assert!(matches!(check(b"test", OTHER_KEY), Err(SignatureError::Wrong)));
        assert!(matches!(verify(b"test", &file, &[]), Err(SignatureError::Wrong)));
        for cut in 0..SIGNATURE.len() {
            fs::write(signature_file(&file), &SIGNATURE[..cut]).unwrap();
            assert!(check(b"test", KEY).is_err(), "cut after {cut} bytes");
        }
    }
}
