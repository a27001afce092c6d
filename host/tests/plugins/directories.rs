//! Plugins that attack the host through a granted directory, and files beside a plugin that attack who loads it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use reduct_sink::chain::{Chain, SharedChain};
use reduct_sink::config::{GrantedDirectory, PluginConfig};
use reduct_sink::plugin::Runtime;

use crate::bed::{Bed, PATIENCE, dead_letter, input, keep_log, logged, output, resident, runs_alone, runtime};
use crate::grants::{asking, chain};
use crate::guest::guest;

pub const FILES: &str = "package wasi:filesystem@0.2.0 {
  interface types {
    enum error-code {
      access, would-block, already, bad-descriptor, busy, deadlock, quota, exist, file-too-large, illegal-byte-sequence,
      in-progress, interrupted, invalid, io, is-directory, loop, too-many-links, message-size, name-too-long, no-device,
      no-entry, no-lock, insufficient-memory, insufficient-space, not-directory, not-empty, not-recoverable, unsupported,
      no-tty, no-such-device, overflow, not-permitted, pipe, read-only, invalid-seek, text-file-busy, cross-device
    }
    flags path-flags { symlink-follow }
    flags open-flags { create, directory, exclusive, truncate }
    flags descriptor-flags { read, write, file-integrity-sync, data-integrity-sync, requested-write-sync,
                             mutate-directory }
    resource directory-entry-stream;
    resource descriptor {
      open-at: func(path-flags: path-flags, path: string, open-flags: open-flags, %flags: descriptor-flags)
        -> result<descriptor, error-code>;
      read-directory: func() -> result<directory-entry-stream, error-code>;
    }
  }
  interface preopens { use types.{descriptor}; get-directories: func() -> list<tuple<descriptor, string>>; }
}";
pub const IMPORTS: &str = r#"
  (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $directories (param i32)))
  (import "wasi:filesystem/types@0.2.0" "[resource-drop]descriptor" (func $close (param i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.open-at" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.0" "[method]descriptor.read-directory" (func $list (param i32 i32)))"#;
pub const INTERFACES: [&str; 2] = ["wasi:filesystem/types@0.2.0", "wasi:filesystem/preopens@0.2.0"];
/// What a plugin is told that may not open more.
const QUOTA: u64 = 6;

fn in_folder(body: &str) -> Vec<u8> {
    let directory = "(call $directories (i32.const 1024)) (local.set $i (i32.load (i32.load (i32.const 1024))))";
    asking(&format!("{directory} {body}"), IMPORTS, &INTERFACES, FILES)
}

pub fn granted(folder: &Path) -> impl Fn(&mut PluginConfig) + use<> {
    let directory = GrantedDirectory { path: folder.to_owned(), guest: "/".into(), writable: false };
    move |plugin| plugin.grants.directories = vec![directory.clone()]
}

/// The time of the answer is the error's number.
fn error_after(call: &str) -> String {
    format!(
        "{call} (if (i32.load8_u (i32.const 2048))
           (then (call $time (i64.load8_u (i32.const 2052))) (return (call $change))))"
    )
}

#[test]
fn lists_of_large_directories_are_not_hoarded() {
    if !runs_alone("directories::lists_of_large_directories_are_not_hoarded") {
        return;
    }
    keep_log();
    let folder = tempfile::tempdir().unwrap();
    // A little more than a list may have. Links to one file are made sooner than files.
    let name = |number: usize| folder.path().join(format!("{number:0200}"));
    fs::write(name(0), "").unwrap();
    (1..10_100).for_each(|number| fs::hard_link(name(0), name(number)).unwrap());
    let list = in_folder(&format!("{} (call $keep)", error_after("(call $list (local.get $i) (i32.const 2048))")));
    let mut chain = chain("lister", list, granted(folder.path()));
    let before = resident();
    let answers: Vec<_> = (0..30).map(|offset| output(chain.transform(&input(offset))).timestamp_us).collect();
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown <= 32, "{grown} MB more");
    assert!(answers.iter().all(|answer| *answer == Some(QUOTA)), "{answers:?}");
    assert_eq!(logged(&["WARN", "plugin=lister", "more than", "entries"]).len(), 1);

    // One of a usual size is listed as often as the plugin likes to, if it lets go of what it has.
    let small = tempfile::tempdir().unwrap();
    fs::write(small.path().join("one"), "").unwrap();
    let hoard = in_folder(&format!("{} (call $keep)", error_after("(call $list (local.get $i) (i32.const 2048))")));
    let mut chain = crate::grants::chain("hoarder", hoard, granted(small.path()));
    let answers: Vec<_> = (0..4).map(|offset| output(chain.transform(&input(offset))).timestamp_us).collect();
    assert_eq!(answers, [None, None, Some(QUOTA), Some(QUOTA)]);
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn the_instances_of_a_plugin_do_not_use_up_the_hosts_open_files() {
    if !runs_alone("directories::the_instances_of_a_plugin_do_not_use_up_the_hosts_open_files") {
        return;
    }
    keep_log();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one"), "").unwrap();
    let open = r#"(call $open (local.get $i) (i32.const 0) $"one" (i32.const 0) (i32.const 1) (i32.const 2048))"#;
    let hoard = in_folder(&format!(
        "(loop $more {} (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 200)))) (call $keep)",
        error_after(open)
    ));
    let bed = Bed::of(&[]).with("opener", &hoard, granted(folder.path()));
    let shared = bed.shared();
    let before = open_files();
    let mut chains: Vec<_> =
        (0..4).map(|_| reduct_sink::chain::Chain::new(std::sync::Arc::clone(&shared)).unwrap()).collect();
    for chain in &mut chains {
        assert_eq!(output(chain.transform(&input(1))).timestamp_us, Some(QUOTA));
    }
    let more = open_files().saturating_sub(before);
    assert!(more <= 150, "{more} more files are open");
    assert_eq!(logged(&["WARN", "plugin=opener", "files open"]).len(), 1);

    // One that closes what it opened opens as often as it likes to.
    let close = in_folder(&format!(
        "(loop $more {} (call $close (i32.load (i32.const 2052)))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 500)))) (call $keep)",
        error_after(open)
    ));
    assert_eq!(output(chain("closer", close, granted(folder.path())).transform(&input(1))).timestamp_us, None);
}

#[test]
fn a_signature_that_never_ends_holds_no_load_up() {
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    for (what, told) in [("pipe", "not a regular file"), ("zeros", "not a regular file"), ("large", "bytes")] {
        let bed = Bed::of(&[]).with("signed", &guest("(call $keep)"), |plugin| plugin.signed_by = vec![key.into()]);
        let signature = bed.path(0).with_extension("wasm.minisig");
        match what {
            "pipe" => assert!(Command::new("mkfifo").arg(&signature).status().unwrap().success()),
            "zeros" => symlink("/dev/zero", &signature).unwrap(),
            _ => fs::write(&signature, vec![b'x'; 10 << 20]).unwrap(),
        }
        let (done, answered) = mpsc::channel();
        thread::spawn(move || done.send(runtime().load(&bed.plugins[0]).unwrap_err().to_string()));
        let error = answered.recv_timeout(PATIENCE).expect("the load ends");
        assert!(error.contains("signature") && error.contains(told), "{what}: {error}");
    }
}

/// A pipe without a writer, or a dead network file system, holds a thread for each file that is opened.
#[test]
fn files_that_hang_take_no_others_threads() {
    const MORE_THAN_THREADS: u64 = 70;
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pipe = folder.path().join("one");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::write(other.path().join("one"), "").unwrap();
    let open = r#"(call $open (local.get $i) (i32.const 0) $"one" (i32.const 0) (i32.const 1) (i32.const 2048))"#;
    let opens = in_folder(&format!("{} (call $keep)", error_after(open)));
    // A runtime of its own: the other tests' files are opened by the shared one.
    let runtime = Runtime::new().unwrap();
    let chain = |name: &str, folder: &Path, timeout| {
        let granted = granted(folder);
        let bed = Bed::of(&[]).with(name, &opens, |plugin| {
            granted(plugin);
            plugin.timeout = timeout;
        });
        Chain::new(SharedChain::load(runtime.clone(), &bed.plugins).unwrap()).unwrap()
    };
    let mut hangs = chain("hangs", folder.path(), Duration::from_millis(50));
    for offset in 0..MORE_THAN_THREADS {
        dead_letter(hangs.transform(&input(offset)));
    }
    let mut neighbour = chain("neighbour", other.path(), Duration::from_secs(20));
    assert_eq!(output(neighbour.transform(&input(1))).timestamp_us, None);
    // What hangs there ends.
    drop(fs::File::options().read(true).write(true).open(&pipe).unwrap());
}

#[test]
fn the_processes_of_the_machine_are_no_files_to_grant() {
    for path in ["/proc", "/proc/self", "/proc/1/fd", "/dev", "/dev/fd"] {
        for writable in [false, true] {
            let bed = Bed::of(&[]).with("granted", &guest("(call $keep)"), |plugin| {
                plugin.grants.directories = vec![GrantedDirectory { path: path.into(), guest: "/g".into(), writable }];
            });
            let error = runtime().load(&bed.plugins[0]).expect_err(path).to_string();
            assert!(error.contains("it could"), "{path}: {error}");
        }
    }
}
