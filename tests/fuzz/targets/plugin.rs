//! Plugin files: any bytes become a plugin that starts, or a problem with a remedy.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use reduct_sink::config::{PluginConfig, PluginSource};
use reduct_sink::plugin::{Runtime, componentize};

struct Bed {
    runtime: Arc<Runtime>,
    file: PathBuf,
}

fn bed() -> &'static Bed {
    static BED: OnceLock<Bed> = OnceLock::new();
    BED.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path().to_path_buf();
        Bed { runtime: Runtime::new().unwrap(), file }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let bed = bed();
    std::fs::write(&bed.file, bytes).unwrap();
    let plugin = PluginConfig {
        memory_bytes: 8 << 20,
        timeout: Duration::from_millis(50),
        ..PluginConfig::new("fuzzed", PluginSource::File(bed.file.clone()))
    };
    if let Err(error) = bed.runtime.load(&plugin) {
        assert!(!error.to_string().contains("panicked"), "{error}");
    }
    let _ = componentize::componentize(bytes);
});
