//! Tests that plugins are swapped while records flow, with real files and the real watcher.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reduct_sink::chain::{Chain, SharedChain, StageSpec, Version};
use reduct_sink::config::PluginSource;
use reduct_sink::plugin::Digest;
use reduct_sink::rollout::{self, Pace, RolloutHandle};

use crate::bed::{Bed, input, keep_log, logged, output, plugin, runtime, wait_for};
use crate::guest::{Guest, guest};

/// A version that marks each record with its number.
fn version(number: u64) -> Vec<u8> {
    guest(&format!("(call $time (i64.const {number})) (call $change)"))
}

fn quick() -> Pace {
    Pace { debounce: Duration::from_millis(20), poll: Duration::from_millis(300), settle: Duration::from_millis(400) }
}

/// A watched chain of one plugin at version 1.
struct Fixture {
    folder: tempfile::TempDir,
    path: PathBuf,
    shared: Arc<SharedChain>,
    chain: Chain,
    rollout: RolloutHandle,
}

impl Fixture {
    fn new(name: &str) -> Self {
        Self::paced(name, quick())
    }

    fn paced(name: &str, pace: Pace) -> Self {
        Self::with(
            tempfile::tempdir().unwrap(),
            name,
            |folder| {
                let path = folder.join("plugin.wasm");
                fs::write(&path, version(1)).unwrap();
                path
            },
            pace,
        )
    }

    fn at(folder: tempfile::TempDir, name: &str, lay: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self::with(folder, name, lay, quick())
    }

    fn with(folder: tempfile::TempDir, name: &str, lay: impl FnOnce(&Path) -> PathBuf, pace: Pace) -> Self {
        let path = lay(folder.path());
        let shared = SharedChain::load(runtime(), &[plugin(name, PluginSource::File(path.clone()))]).unwrap();
        let chain = Chain::new(shared.clone()).unwrap();
        let rollout = rollout::start(shared.clone(), None, pace);
        let mut fixture = Self { folder, path, shared, chain, rollout };
        assert_eq!(fixture.present(), 1);
        fixture
    }

    /// The number of the version that handles a record now.
    fn present(&mut self) -> u64 {
        self.chain.refresh();
        output(self.chain.transform(&input(1))).timestamp_us.unwrap()
    }

    fn expect(&mut self, number: u64) {
        wait_for(&format!("version {number}"), || (self.present() == number).then_some(()));
        assert_eq!(self.shared.versions()[0].digest, Digest::of(&version(number)));
    }

    /// Replaces the plugin's file by a rename.
    fn rename_in(&self, bytes: &[u8]) {
        let new = self.folder.path().join("plugin.wasm.new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, &self.path).unwrap();
    }
}

#[test]
fn a_file_renamed_over_the_old_one_is_put_to_work_between_two_records() {
    keep_log();
    let mut fixture = Fixture::new("renamed");
    let before = output(fixture.chain.transform(&input(1)));
    fixture.rename_in(&version(2));
    wait_for("the swap", || (fixture.shared.versions()[0].digest == Digest::of(&version(2))).then_some(()));
    let unaware = output(fixture.chain.transform(&input(2)));
    assert_eq!((unaware.timestamp_us, &unaware.handled_by), (Some(1), &before.handled_by), "not without a refresh");
    fixture.chain.refresh();
    let after = output(fixture.chain.transform(&input(3)));
    assert_eq!(after.timestamp_us, Some(2));
    assert_eq!(*after.handled_by.unwrap(), format!("renamed@{}", Digest::of(&version(2)).short()));
    let [old, new] = [1, 2].map(|number| Digest::of(&version(number)).short());
    wait_for("the log's word", || logged(&["INFO", "swapped", "renamed", &old, &new]).pop());
    let retired = fixture.shared.retired();
    assert_eq!((retired.len(), retired[0].counts.changed), (1, 3));
    assert_eq!(fixture.shared.versions()[0].counts.changed, 1);
    fixture.rollout.stop();
}

#[test]
fn a_file_rewritten_in_place_even_slowly_is_taken_when_it_is_whole() {
    keep_log();
    // A piece of the file may be late on a busy machine.
    let mut fixture = Fixture::paced("slow", Pace { settle: Duration::from_secs(300), ..quick() });
    fs::write(&fixture.path, version(2)).unwrap();
    fixture.expect(2);
    let bytes = version(3);
    let mut file = fs::File::create(&fixture.path).unwrap();
    for piece in bytes.chunks(bytes.len() / 8) {
        // Once the last piece is there, the file may be taken at any moment.
        assert_eq!(fixture.present(), 2);
        file.write_all(piece).unwrap();
        file.sync_all().unwrap();
        thread::sleep(Duration::from_millis(80));
    }
    drop(file);
    fixture.expect(3);
    let complaints = logged(&["ERROR", fixture.path.to_str().unwrap(), "doesn't load"]);
    assert!(complaints.is_empty(), "a file in the writing is no error: {complaints:?}");
}

#[test]
fn a_file_that_does_not_load_leaves_the_present_version_and_says_why() {
    keep_log();
    let refusing = Guest::new("(call $keep)").configure(r#"(call $refuse $"line 3: no such field")"#).build();
    let cut = version(9);
    for (name, bytes, reason) in [
        ("bad-text", b"not wasm at all".as_slice(), "is text"),
        ("bad-cut", &cut[..cut.len() - 40], "ends too early"),
        ("bad-config", &refusing, "line 3: no such field"),
    ] {
        let mut fixture = Fixture::new(name);
        fixture.rename_in(bytes);
        let line = wait_for("the complaint", || logged(&["ERROR", &format!("plugin=\"{name}\"")]).pop());
        for part in [reason, "remedy=", fixture.path.to_str().unwrap(), "stays"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(fixture.present(), 1);
        thread::sleep(quick().poll * 3);
        assert_eq!(logged(&["ERROR", &format!("plugin=\"{name}\"")]).len(), 1, "said once");
        fixture.rename_in(&version(2));
        fixture.expect(2);
    }
}

#[test]
fn a_file_that_goes_and_comes_back_is_taken_up_again() {
    keep_log();
    let mut fixture = Fixture::new("coming-back");
    fs::remove_file(&fixture.path).unwrap();
    wait_for("the warning", || logged(&["WARN", fixture.path.to_str().unwrap(), "is gone"]).pop());
    assert_eq!(fixture.present(), 1);
    fs::write(&fixture.path, version(2)).unwrap();
    fixture.expect(2);
}

#[test]
fn a_folder_that_goes_and_comes_back_is_watched_again() {
    let mut fixture = Fixture::at(tempfile::tempdir().unwrap(), "moving", |folder| {
        fs::create_dir(folder.join("plugins")).unwrap();
        fs::write(folder.join("plugins/plugin.wasm"), version(1)).unwrap();
        folder.join("plugins/plugin.wasm")
    });
    for number in [2, 3] {
        fs::rename(fixture.folder.path().join("plugins"), fixture.folder.path().join(format!("old-{number}"))).unwrap();
        thread::sleep(quick().poll);
        fs::create_dir(fixture.folder.path().join("plugins")).unwrap();
        fs::write(&fixture.path, version(number)).unwrap();
        fixture.expect(number);
    }
}

#[test]
fn links_that_point_elsewhere_are_followed() {
    // Kubernetes mounts a ConfigMap like this: plugin.wasm -> present/plugin.wasm, present -> 1. An update lets
    // `present` point to 2.
    let mut fixture = Fixture::at(tempfile::tempdir().unwrap(), "linked", |folder| {
        fs::create_dir(folder.join("1")).unwrap();
        fs::write(folder.join("1/plugin.wasm"), version(1)).unwrap();
        symlink("1", folder.join("present")).unwrap();
        fs::create_dir(folder.join("seen")).unwrap();
        symlink("../present/plugin.wasm", folder.join("seen/plugin.wasm")).unwrap();
        folder.join("seen/plugin.wasm")
    });
    let folder = fixture.folder.path().to_owned();
    fs::create_dir(folder.join("2")).unwrap();
    fs::write(folder.join("2/plugin.wasm"), version(2)).unwrap();
    symlink("2", folder.join("next")).unwrap();
    // No event comes from the link's folder or from the target's; only polling notices the change.
    fs::rename(folder.join("next"), folder.join("present")).unwrap();
    fixture.expect(2);
    fs::write(folder.join("2/plugin.wasm"), version(3)).unwrap();
    fixture.expect(3);
}

#[test]
fn the_same_bytes_are_not_loaded_again() {
    let mut fixture = Fixture::new("same");
    let since = fixture.shared.versions()[0].since;
    fixture.rename_in(&version(1));
    fs::File::open(&fixture.path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    thread::sleep(quick().poll * 3);
    assert!(fixture.shared.retired().is_empty() && fixture.shared.versions()[0].since == since);
    // The new target is watched, too.
    fixture.rename_in(&version(2));
    fixture.expect(2);
}

#[test]
fn a_file_replaced_between_its_load_and_the_watch_is_found() {
    let bed = Bed::of(&[&version(1)]);
    let shared = bed.shared();
    fs::write(bed.path(0), version(2)).unwrap();
    let rollout = rollout::start(shared.clone(), None, quick());
    wait_for("version 2", || (shared.versions()[0].digest == Digest::of(&version(2))).then_some(()));
    rollout.stop();
}

#[test]
fn only_a_plugin_of_the_chain_can_be_replaced() {
    let bed = Bed::of(&[&version(1), &version(2)]);
    let (shared, alone) = (bed.shared(), SharedChain::load(runtime(), &bed.plugins[1..]).unwrap());
    let link = |index: usize| {
        let version = Version::new(runtime().load(&bed.plugins[index]).unwrap());
        StageSpec::new(Arc::new(bed.plugins[index].clone()), version)
    };
    assert!(alone.replace(link(0)).is_err_and(|error| error.to_string().contains("no plugin `a`")));
    assert_eq!(shared.replace(link(0)).unwrap().version.plugin.digest, Digest::of(&version(1)));
}

#[test]
fn under_load_each_record_is_handled_by_exactly_one_version() {
    const SWAPS: u64 = 30;
    let bed = Bed::of(&[]).with("loaded", &version(0), |_| {});
    let shared = bed.shared();
    let rollout = rollout::start(shared.clone(), None, quick());
    let done = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (mut chain, done) = (Chain::new(shared.clone()).unwrap(), done.clone());
            thread::spawn(move || {
                let (mut records, mut seen) = (0_u64, vec![0]);
                let marks: Vec<_> =
                    (0..=SWAPS).map(|n| format!("loaded@{}", Digest::of(&version(n)).short())).collect();
                while !done.load(Ordering::Relaxed) {
                    chain.refresh();
                    let output = output(chain.transform(&input(records)));
                    let number = output.timestamp_us.unwrap();
                    assert_eq!(*output.handled_by.unwrap(), marks[number as usize], "marked with what handled it");
                    if seen.last() != Some(&number) {
                        seen.push(number);
                    }
                    records += 1;
                    // Compiling has less priority, and would wait for a processor that is never idle.
                    if records % 16 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                (records, seen)
            })
        })
        .collect();
    for number in 1..=SWAPS {
        let new = bed.folder.path().join("new");
        fs::write(&new, version(number)).unwrap();
        fs::rename(&new, bed.path(0)).unwrap();
        wait_for(&format!("version {number}"), || {
            (shared.versions()[0].digest == Digest::of(&version(number))).then_some(())
        });
    }
    thread::sleep(Duration::from_millis(50));
    done.store(true, Ordering::Relaxed);
    let mut records = 0;
    for worker in workers {
        let (handled, seen) = worker.join().unwrap();
        assert!(seen.is_sorted() && seen.last() == Some(&SWAPS), "never back, and the last at the end: {seen:?}");
        records += handled;
    }
    let counted: u64 = shared.retired().iter().chain(&shared.versions()).map(|version| version.counts.changed).sum();
    assert_eq!(counted, records, "each record is counted for one version");
    rollout.stop();
}
