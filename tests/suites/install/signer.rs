//! Signs as `minisign` does, in its older form, which signs the bytes and not their hash.

use anyhow::{Result, anyhow};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub struct Signer {
    pair: Ed25519KeyPair,
    /// The public key, as a configuration has it.
    pub key: String,
}

const ALGORITHM: &[u8] = b"Ed";
const KEY_ID: &[u8] = b"testbed!";

impl Signer {
    pub fn new() -> Result<Self> {
        let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("no key"))?;
        let key = STANDARD.encode([ALGORITHM, KEY_ID, pair.public_key().as_ref()].concat());
        Ok(Self { pair, key })
    }

    /// The text of the file FILE.minisig.
    pub fn sign(&self, bytes: &[u8]) -> String {
        let signature = self.pair.sign(bytes);
        let comment = "made by a test";
        let whole = STANDARD.encode([ALGORITHM, KEY_ID, signature.as_ref()].concat());
        let global = self.pair.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let global = STANDARD.encode(global.as_ref());
        format!("untrusted comment: signature\n{whole}\ntrusted comment: {comment}\n{global}\n")
    }
}
