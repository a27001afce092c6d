//! The binary `reduct-sink`: everything is in the commands.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before the allocator is told to keep memory: this process has a limit on it.
    if let Some(done) = cli::compile_child() {
        return done;
    }
    keep_large_buffers();
    leave_no_core();
    cli::main()
}

/// Passwords and tokens are in this process's memory, and a core dump would put them on the disk. Who needs one raises the
/// limit of the running process with `prlimit --core`.
///
/// The limit is one byte: the kernel hands a dump to a program that collects them even where the limit is 0, but not where
/// it is 1, and a file of one byte holds nothing.
#[expect(unsafe_code, reason = "the standard library sets no limits")]
fn leave_no_core() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for reading and writing.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(1);
            libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
        }
    }
}

/// Keeps the memory of large payloads for the next ones: given back and asked for again, each page of it costs a fault,
/// which was a third of the host's time at 900 KB. What is kept is bounded by what was in flight at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's allocator, which librdkafka shares, can only be told this way")]
fn keep_large_buffers() {
    const MIB: libc::c_int = 1 << 20;
    // SAFETY: called before any other thread runs; the values are within what mallopt(3) allows, and a refusal is harmless.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * MIB);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1024 * MIB);
        libc::mallopt(libc::M_TOP_PAD, 64 * MIB);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_large_buffers() {}
