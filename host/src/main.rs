//! The binary `reduct-sink`: everything is in the commands.

mod cli;

use std::io::Write;

/// Where records of thousands of entries pass through at the same time, glibc's allocator took a third of the host's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    refuse_huge_pages();
    // Before the allocator is told to keep memory: this process has a limit on it.
    if let Some(code) = cli::compile_child() {
        end(code);
    }
    keep_large_buffers();
    leave_no_core();
    end(cli::main())
}

/// Ends the process without the exit handlers of the C libraries. Threads may have been left behind, such as a Kafka client whose
/// brokers don't answer, and a handler that frees what such a thread uses can end the process with SIGSEGV after all was done.
#[expect(unsafe_code, reason = "the standard library ends a process with its exit handlers alone")]
fn end(code: u8) -> ! {
    let _ = std::io::stdout().flush();
    // SAFETY: it only makes the system call.
    unsafe { libc::_exit(code.into()) }
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

/// Has the kernel give this process, and the compilers that it starts, no huge pages. The allocator asks for them, and then a few
/// bytes that are in use keep 2 MB resident: behind a proxy that failed 10,000 times the host had 337 MB in memory with them, and
/// 280 MB without.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library doesn't know this setting of the kernel")]
fn refuse_huge_pages() {
    const ON: libc::c_ulong = 1;
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: it only makes the system call; where the kernel refuses it, huge pages stay as they are.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, ON, UNUSED, UNUSED, UNUSED);
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_huge_pages() {}

/// Keeps the memory of large payloads, which librdkafka takes from the C library, for the next ones: given back and asked for
/// again, each page of it costs a fault, which was a third of the host's time at 900 KB. What is kept is bounded by what was in
/// flight at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's allocator can only be told this way")]
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
