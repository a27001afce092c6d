//! A producer's keys make more entries than anybody counted on: neither another topic nor the status address stops.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Load, Message, Sink, all, bed, figures, guest, payload, read_back, unique};

use super::{CATCH_UP, has_died};
use crate::operate::{address, get};

/// What a shell gives a process.
const OPEN_FILES: u64 = 1024;
/// How long the flood is watched at most. It needn't be over.
const WATCHED: Duration = Duration::from_secs(240);
/// A bound for a busy machine, and not an expectation.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn many_entries_stop_neither_another_topic_nor_the_status_address() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (entries, beside) = if all() { (100_000, 2_000) } else { (1_200, 100) };
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (flood, bystander) = (unique("flood"), unique("bystander"));
    for topic in [&flood, &bystander] {
        kafka.create_topic(topic, 1)?;
    }
    kafka.produce(&flood, (0..entries).map(|n| Message::new(payload(n, 100)).key(format!("e{n}"))))?;
    let address = address()?;
    let keys = format!("limits.entries = ['by-key/*']\nconfig.default = 'by-key/{{key}}'\nwhen.topics = ['{flood}']");
    let config = bed
        .sink_config(&flood)
        .topics(&[&flood, &bystander])
        .set("status.listen", address.as_str())
        .set("limits.workers", 2)
        .plugin_with("route", &guest::plugin("route")?, &keys)?;
    let mut sink = Sink::start(&config)?;
    let pid = sink.process().pid();
    let limited = Command::new("prlimit").args([format!("--pid={pid}"), format!("--nofile={OPEN_FILES}")]).status();
    ensure!(limited.context("can't start prlimit")?.success(), "prlimit failed");
    sink.wait_log("assigned partitions=[\"", CATCH_UP)?;
    let load = Load::start(&kafka, &bystander, 20, |n| Message::new(payload(n, 100)))?;
    let (view, begun) = (kafka.group(config.group())?, Instant::now());
    let (mut answers, mut open_files) = (0, 0);
    while begun.elapsed() < WATCHED && (view.lag(&flood).ok() != Some(0) || load.sent() < beside) {
        ensure!(!has_died(&mut sink), "the host died: {}", sink.log()?);
        let asked = Instant::now();
        let (code, _) = get(&address, "/livez").context("the status address doesn't answer")?;
        ensure!(code == 200 && asked.elapsed() < ANSWERED_WITHIN, "{code} after {:?}", asked.elapsed());
        answers += 1;
        open_files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count().max(open_files);
        std::thread::sleep(Duration::from_millis(200));
    }
    let left = view.lag(&flood).unwrap_or(entries);
    let produced = load.finish()?;
    // What came last of it is written though the flood may go on.
    sink.wait_caught_up(&kafka, config.group(), &[&bystander], CATCH_UP)?;
    ensure!(view.lag(&flood).is_ok_and(|lag| lag < entries), "nothing of the flood is written");
    let log = sink.log()?;
    ensure!(!log.contains("Too many open files"), "the open files were used up");
    sink.stop_cleanly()?;
    let stored = runtime.block_on(async { read_back(&bed.store.client()?, config.bucket(), &bystander).await })?;
    compare(&produced, &stored)?.exact()?;
    println!("{} of {entries} entries, {answers} answers, {open_files} open files", entries - left);
    figures::record("entries_flooded", (entries - left) as f64)?;
    figures::record("entries_open_files", open_files as f64)
}
