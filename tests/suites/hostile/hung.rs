//! Tests a worker whose thread hangs in a call to a plugin. The test stops the thread as a debugger does.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::wait_until;
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{
    Message, Produced, Sink, SinkConfig, Stored, bed, figures, payload, process, read_back, unique,
};

use tempfile::TempDir;

use super::CATCH_UP;
use crate::guest::guest;
use crate::operate::get;

/// The id of the process's thread with this name; `None`: there is none.
fn thread(pid: u32, name: &str) -> Result<Option<i32>> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
            return Ok(Some(entry.file_name().to_str().context("a number")?.parse()?));
        }
    }
    Ok(None)
}

/// Stops one thread of another process. It continues when the calling thread ends.
fn stop(thread: i32) -> Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    let error = std::io::Error::last_os_error;
    // SAFETY: plain system calls; nothing of ours is passed.
    unsafe {
        ensure!(libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) == 0, "seize: {}", error());
        ensure!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) == 0, "interrupt: {}", error());
        ensure!(libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) == thread, "wait: {}", error());
    }
    Ok(())
}

/// Waits for a stopped thread, because the kernel keeps its process until then.
fn bury(thread: i32) {
    // SAFETY: a plain system call.
    unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
}

/// A host whose only worker was stopped in a call to a plugin.
struct Stopped {
    topic: String,
    produced: Vec<Produced>,
    config: SinkConfig,
    sink: Sink,
    worker: i32,
    _folder: TempDir,
}

fn stopped() -> Result<Stopped> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("hung");
    kafka.create_topic(&topic, 1)?;
    let produced: Vec<Produced> = kafka.produce(&topic, (0..200).map(|n| Message::new(payload(n, 100))))?;
    // The plugin counts for a while, so that the thread is in a call at almost any time.
    let busy = guest(
        "(loop $more (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 40000000)))) (call $keep)",
    );
    let folder = process::data_folder("hung")?;
    let path = folder.path().join("busy.wasm");
    fs::write(&path, busy)?;
    let address = format!("127.0.0.1:{}", process::free_port()?);
    let config = bed.sink_config(&topic).set("status.listen", address.as_str()).set("limits.workers", 1).plugin_with(
        "busy",
        &path,
        "timeout = '5s'",
    )?;
    let mut sink = Sink::start(&config)?;
    let pid = sink.process().pid();
    let worker = process::wait_for("the worker to be busy", CATCH_UP, || {
        let Some(worker) = thread(pid, "worker-0")? else { return Ok(None) };
        let used = fs::read_to_string(format!("/proc/{pid}/task/{worker}/stat"))?;
        let ticks: u64 =
            used.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(11)).context("utime")?.parse()?;
        Ok((ticks > 20).then_some(worker))
    })?;
    stop(worker)?;
    Ok(Stopped { topic, produced, config, sink, worker, _folder: folder })
}

/// Ends the host, and returns how many seconds that took.
fn end(stopped: &mut Stopped) -> Result<f64> {
    stopped.sink.process().signal(libc::SIGTERM)?;
    let started = Instant::now();
    let ended = process::wait_for("the end", Duration::from_secs(60), || {
        bury(stopped.worker);
        stopped.sink.process().exited()
    })?;
    let took = started.elapsed().as_secs_f64();
    ensure!(took <= 25.0 && ended.success(), "{ended} after {took} s");
    Ok(took)
}

#[test]
fn a_stop_does_not_wait_for_a_worker_that_hangs() -> Result<()> {
    let took = end(&mut stopped()?)?;
    figures::record("stop_with_a_hung_worker_s", took)
}

#[test]
fn a_worker_that_hangs_is_replaced_while_the_host_runs() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (bed, mut stopped) = (bed()?, stopped()?);
    let kafka = bed.kafka.client();
    let Stopped { topic, config, sink, .. } = &mut stopped;
    sink.wait_log("a worker is lost: plugin busy hangs on", CATCH_UP)?;
    sink.wait_caught_up(&kafka, config.group(), &[topic.as_str()], CATCH_UP)?;
    sink.wait_log("plugin.hung", CATCH_UP)?;
    let address = config.get("status.listen").context("an address")?;
    // The log says it a moment before.
    for path in ["/health", "/status", "/metrics"] {
        wait_until("the plugin to be shown", CATCH_UP, || {
            let (_, body) = get(address, path)?;
            ensure!(body.contains("plugin.hung"), "{path} doesn't show it: {body}");
            Ok(())
        })?;
    }
    figures::record("stop_beside_a_hung_worker_s", end(&mut stopped)?)?;
    let Stopped { produced, config, .. } = stopped;
    let stored = runtime.block_on(async { read_back(&bed.store.client()?, config.bucket(), "*").await })?;
    let (letters, stored): (Vec<Stored>, Vec<Stored>) =
        stored.into_iter().partition(|record| record.entry.starts_with("dead-letters/"));
    ensure!(letters.len() == 1, "{} dead letters", letters.len());
    let letter = letters.first().context("one")?;
    ensure!(letter.label("sink.reason").is_some_and(|reason| reason.contains("did not come back")), "{letter:?}");
    let offset = letter.identity()?.context("an identity")?.offset;
    let others: Vec<Produced> = produced.into_iter().filter(|record| record.offset != offset).collect();
    compare(&others, &stored)?.exact()
}
