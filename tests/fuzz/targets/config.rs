//! The configuration: any file, variables and flags end in a configuration or in problems that name their place.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reduct_sink::config::{ConfigLocation, Flag, Sources, load};

fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| tempfile::NamedTempFile::new().unwrap().into_temp_path().to_path_buf())
}

fuzz_target!(|bytes: &[u8]| {
    // The file, and behind a NUL what a variable and a flag say.
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (toml, variable, flag) = (text(), text(), text());
    std::fs::write(file(), &toml).unwrap();
    let names =
        ["REDUCT_SINK_TOPICS", "REDUCT_SINK_URL", "REDUCT_SINK_ENTRY", "REDUCT_SINK_PROPERTY_A", "REDUCT_SINK_X"];
    let environment = names.map(|name| (name.into(), variable.clone().into())).to_vec();
    let keys = ["kafka.brokers", "kafka.properties", "plugins"];
    let flags = keys.map(|key| Flag::new(key, vec![flag.clone()])).to_vec();
    for (environment, flags) in [(Vec::new(), Vec::new()), (environment, flags)] {
        let place = ConfigLocation::Flag("--config");
        let loaded = load(Sources { file: Some((file().clone(), place)), environment, flags, pipeline: None });
        match loaded.config {
            Ok(config) => drop(format!("{config:?}")),
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
    }
});
