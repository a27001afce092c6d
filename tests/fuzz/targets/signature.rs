//! Signature files beside a plugin: any bytes are refused or are the signer's own.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use reduct_sink::plugin::{claimed_signer, is_public_key, signature_file, verify};
use reduct_sink_fuzz::Input;
use tempfile::TempDir;

/// From minisign's own documentation, as the first input is.
const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const SIGNED: &[u8] = b"test";

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let (component, key) = (input.bytes(), input.text());
    let file: PathBuf = FOLDER.path().join("plugin.wasm");
    std::fs::write(signature_file(&file), input.0).expect("writing");
    // Whether the text is a key or not, looking at it is harmless.
    let _ = (is_public_key(&key), claimed_signer(&file), verify(component, &file, &[key]));
    if let Ok(signed) = verify(component, &file, &[KEY.to_owned()]) {
        assert!(component == SIGNED && signed.key == KEY, "{component:?} passes for signed");
        assert!(!signed.comment.contains(['\n', '\u{1b}']), "{:?}", signed.comment);
    }
});
