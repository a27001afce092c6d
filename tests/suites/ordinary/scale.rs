//! Tests thousands of entries, and many partitions.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::{Process, wait_for};
use reduct_sink_testbed::stored::read_back;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, bed, figures, guest, long, payload, sized, unique};

use super::{CATCH_UP, MEMORY};

/// What a run cost the host.
struct Cost {
    /// The processor time for each record in seconds, user and system, without the start.
    cpu: f64,
    open_files: usize,
    peak: u64,
}

/// Neither the connections nor the work for each record grow much with the number of entries. The host has the limit of
/// open files that a shell has.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_entries_need_few_open_files() -> Result<()> {
    // The first record of an entry costs more than those after it, because the entry is looked up: at full size each gets 20.
    let (entries, records) = sized((1_500, 4_500), (2_000, 8_000), (10_000, 200_000));
    let few = spread_over(100, records).await?;
    let many = spread_over(entries, records).await?;
    figures::record("open_files", many.open_files as f64)?;
    figures::record("entries_cpu_ratio", many.cpu / few.cpu)?;
    eprintln!(
        "{entries} entries: {:.0} µs of CPU a record instead of {:.0} with 100; {} open files, {} MB",
        many.cpu * 1e6,
        few.cpu * 1e6,
        many.open_files,
        many.peak / 1_000_000
    );
    ensure!(many.open_files <= 200, "{} files were open", many.open_files);
    ensure!(many.peak < MEMORY, "{} MB were resident", many.peak / 1_000_000);
    Ok(())
}

async fn spread_over(entries: u64, records: u64) -> Result<Cost> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("entries");
    kafka.create_topic(&topic, 1)?;
    let config = bed.sink_config(&topic).plugin_with(
        "route",
        &guest::plugin("route")?,
        "limits.entries = ['by-key/*']
config.default = 'by-key/{key}'",
    )?;
    let mut sink = Sink::start(&config)?;
    let pid = sink.process().pid();
    limit_open_files(pid, 1024)?;
    sink.wait_log("assigned partitions=[\"", Duration::from_secs(60))?;
    let before = cpu_seconds(sink.process())?;
    let message = |n: u64| Message::new(payload(n, 200)).key(format!("e{}", n % entries));
    let produced = kafka.produce(&topic, (0..records).map(message))?;
    let (group, mut open_files) = (kafka.group(config.group())?, 0);
    wait_for("the end", CATCH_UP, || {
        sink.process().expect_running()?;
        open_files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count().max(open_files);
        std::thread::sleep(Duration::from_millis(50));
        Ok((group.lag(&topic).ok() == Some(0)).then_some(()))
    })?;
    let cpu = (cpu_seconds(sink.process())? - before) / records as f64;
    let peak = sink.process().peak_memory()?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()?;
    Ok(Cost { cpu, open_files, peak })
}

/// Records of many entries travel in one request, where the protocol has those of one entry inherit each other's labels
/// (trap 4).
#[tokio::test(flavor = "multi_thread")]
async fn records_of_many_entries_keep_their_own_labels() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("own-labels");
    kafka.create_topic(&topic, 1)?;
    let config = bed.sink_config(&topic).plugin_with(
        "route",
        &guest::plugin("route")?,
        "limits.entries = ['by-key/*']
config.default = 'by-key/{key}'",
    )?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("assigned partitions=[\"", Duration::from_secs(60))?;
    // Some entries get records with the same header keys, others with a key more or less each time, and some one record.
    let headers = |n: u64| -> Vec<(String, String)> {
        let of_all = [("size".to_owned(), n.to_string())];
        let more = (!n.is_multiple_of(3)).then(|| (format!("only-{}", n / 300 % 3), format!("{n}, of some")));
        of_all.into_iter().chain(more).collect()
    };
    let message = |n: u64| {
        let message = Message::new(payload(n, (n % 40) as usize)).key(format!("e{}", n % 300));
        headers(n).into_iter().fold(message, |message, (key, value)| message.header(key, value))
    };
    let produced = kafka.produce(&topic, (0..1_500).map(message))?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let client = bed.store.client()?;
    let stored = read_back(&client, config.bucket(), "*").await?;
    for record in &stored {
        let number = record.identity()?.context("an identity")?.offset;
        let others = record.labels.iter().filter(|(name, _)| !name.starts_with("kafka.") && !name.starts_with("sink."));
        let others: Vec<(String, String)> = others.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut wanted = headers(number);
        wanted.sort();
        ensure!(others == wanted, "record {number} in {} has {others:?} instead of {wanted:?}", record.entry);
        ensure!(record.entry == format!("by-key/e{}", number % 300), "record {number} is in {}", record.entry);
    }
    Ledger::of(&produced).audit(&client, config.bucket()).await?.exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_partitions_are_read() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("partitions");
    kafka.create_topic(&topic, 200)?;
    let records = if long() { 400_000 } else { 6_000 };
    let message = |n: u64| Message::new(payload(n, 1_000)).partition((n % 200) as i32);
    let produced = kafka.produce(&topic, (0..records).map(message))?;
    let config = bed.sink_config(&topic);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    let peak = sink.process().peak_memory()?;
    sink.stop_cleanly()?;
    figures::record("partitions_200_mb", peak as f64 / 1e6)?;
    ensure!(peak < MEMORY, "{} MB were resident", peak / 1_000_000);
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()
}

fn limit_open_files(pid: u32, files: u64) -> Result<()> {
    let status = Command::new("prlimit").args([format!("--pid={pid}"), format!("--nofile={files}")]).status();
    ensure!(status.context("can't start prlimit")?.success(), "prlimit failed");
    Ok(())
}

/// The processor time of all threads in seconds, user and system.
fn cpu_seconds(process: &Process) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
    // The name in parentheses may hold anything; the 14th and 15th fields are the 12th and 13th behind it.
    let (_, fields) = text.rsplit_once(") ").context("/proc/PID/stat has a name in parentheses")?;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    // SAFETY: plain system call.
    Ok(ticks.iter().sum::<f64>() / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
}
