//! The cache of compiled components, as loading uses it.

use std::fs;
use std::path::{Path, PathBuf};

use reduct_sink::chain::{Chain, SharedChain};
use reduct_sink::plugin::{Cache, LoadedPlugin, Runtime};

use crate::bed::{Bed, input, keep_log, logged, output};
use crate::guest::guest;

/// Loads the bed's plugin with this cache, as a new process would.
fn start(bed: &Bed, cache: &Path) -> LoadedPlugin {
    let runtime = Runtime::with_cache(Some(Cache::open(cache, 1 << 30).unwrap())).unwrap();
    let loaded = runtime.load(&bed.plugins[0]).unwrap();
    let mut chain = Chain::new(SharedChain::load(runtime, &bed.plugins).unwrap()).unwrap();
    assert_eq!(output(chain.transform(&input(1))).timestamp_us, Some(5), "it works");
    loaded
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
}

#[test]
fn the_second_start_compiles_nothing_and_a_damaged_entry_is_replaced() {
    keep_log();
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let bed = Bed::of(&[&guest("(call $time (i64.const 5)) (call $change)")]);
    assert!(!start(&bed, &cache).from_cache);
    assert!(start(&bed, &cache).from_cache);
    let [entry] = entries(&cache).try_into().unwrap();
    assert!(entry.to_string_lossy().contains(&start(&bed, &cache).digest.to_string()));

    let mut changed = fs::read(&entry).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&entry, &changed).unwrap();
    assert!(!start(&bed, &cache).from_cache, "compiled again");
    let told = logged(&["WARN", "damaged", &entry.display().to_string()]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(start(&bed, &cache).from_cache, "and replaced");
}

#[test]
fn what_does_not_load_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let runtime = Runtime::with_cache(Some(Cache::open(&cache, 1 << 30).unwrap())).unwrap();
    let wrong = crate::guest::component_of(
        r#"(module (func (export "other:thing/api#run")))"#,
        "package other:thing; interface api { run: func(); } world other { export api; }",
        "other",
    );
    assert!(runtime.compile_ahead(&wrong).is_err());
    assert!(entries(&cache).is_empty());
    assert!(!runtime.compile_ahead(reduct_sink::plugin::passthrough()).unwrap());
    assert!(runtime.compile_ahead(reduct_sink::plugin::passthrough()).unwrap(), "it is there");
}
