//! Verdicts: whatever a plugin leaves in its memory as its answer, the record becomes outputs that are legal, or fails.
#![no_main]

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reduct_sink::chain::{Chain, Outcome, SharedChain};
use reduct_sink::config::{PluginConfig, PluginSource};
use reduct_sink::plugin::Runtime;
use reduct_sink::record::entry_name::EntryName;
use reduct_sink::record::labels::LabelRules;
use reduct_sink::record::{InputRecord, TopicPartition};
use reduct_sink_fuzz::{guest, is_safe_label};

/// The payload is the answer: it is copied to where the answer stands, pointers and all.
const ANSWER: &str = "(call $host-payload)
    (memory.copy (i32.const 0) (global.get $got) (i32.and (global.get $got-length) (i32.const 0xffff)))
    (i32.const 0)";

fn chain() -> Chain {
    let file: PathBuf = tempfile::NamedTempFile::new().unwrap().into_temp_path().to_path_buf();
    std::fs::write(&file, guest::guest(ANSWER)).unwrap();
    let plugin = PluginConfig { memory_bytes: 8 << 20, ..PluginConfig::new("fuzzed", PluginSource::File(file)) };
    Chain::new(SharedChain::load(Runtime::new().unwrap(), &[plugin]).unwrap()).unwrap()
}

thread_local! {
    static CHAIN: RefCell<Chain> = RefCell::new(chain());
}

fuzz_target!(|bytes: &[u8]| {
    let input = Arc::new(InputRecord {
        source: TopicPartition { topic: "line.7".into(), partition: 2 },
        topic_id: None,
        offset: 7,
        timestamp_ms: Some(1_700_000_000_000),
        key: None,
        headers: Vec::new(),
        payload: Some(bytes.to_vec().into()),
    });
    match CHAIN.with_borrow_mut(|chain| chain.transform(&input)) {
        Outcome::Outputs(outputs) => {
            assert!((1..=1024).contains(&outputs.len()));
            for output in outputs {
                if let Some(entry) = &output.entry {
                    EntryName::parse(entry).unwrap();
                }
                for (name, value) in LabelRules::default().all_labels(&output) {
                    assert!(is_safe_label(&name, &value), "{name:?}: {value:?}");
                }
            }
        }
        Outcome::DeadLetter(failure) | Outcome::Retry(failure) => {
            // 4096 bytes, and how much was cut off.
            assert!(failure.reason.len() <= 4096 + 40, "{}", failure.reason.len());
            assert!(!failure.reason.contains('\n'));
        }
        Outcome::Dropped => {}
        other => panic!("{other:?}"),
    }
});
