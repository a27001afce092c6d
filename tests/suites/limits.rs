//! Measures what loaded plugins cost while no records come. `host/examples/limits.rs` measures what the limits cost for
//! each record.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reduct_sink_testbed::{Message, Sink, all, bed, figures, guest, long, process, unique};

const PLUGINS: usize = 20;
const CATCH_UP: Duration = Duration::from_secs(240);

/// A host with twenty plugins, in files that are watched, and a topic of two partitions to which nothing comes.
#[test]
fn idle_with_twenty_plugins() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("idle");
    kafka.create_topic(&topic, 2)?;
    kafka.produce(&topic, (0..100).map(|n| Message::new(format!("record {n}"))))?;
    let folder = process::data_folder("plugins")?;
    let component = guest::passthrough()?;
    let mut config = bed
        .sink_config(&topic)
        .set("cache.path", "")
        .set("status.listen", format!("127.0.0.1:{}", process::free_port()?));
    for number in 0..PLUGINS {
        let name = format!("plugin-{number}");
        let path = folder.path().join(format!("{name}.wasm"));
        fs::write(&path, guest::version(&component, &name))?;
        config = config.plugin(&name, &path, "")?;
    }
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    thread::sleep(Duration::from_secs(3));
    let pid = sink.process().pid();
    let (start, before) = (Instant::now(), cpu_seconds(pid)?);
    thread::sleep(Duration::from_secs(match (long(), all()) {
        (true, _) => 120,
        (_, true) => 20,
        _ => 5,
    }));
    let used = cpu_seconds(pid)? - before;
    sink.process().expect_running()?;
    figures::record("idle_percent", used / start.elapsed().as_secs_f64() * 100.0)?;
    sink.stop_cleanly()
}

/// The processor time that all threads of a process have used, in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The process's name is in parentheses and may contain blanks.
    let (_, fields) = stat.rsplit_once(") ").context("a process's name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("a field")?.parse()?) };
    // SAFETY: sysconf takes a number and has no other effect.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok((ticks(11)? + ticks(12)?) / per_second as f64)
}
