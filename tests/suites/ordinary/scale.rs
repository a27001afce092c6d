//! Thousands of entries.

use anyhow::Result;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, bed, figures, guest, long, payload, unique};

use super::CATCH_UP;

/// Connections don't grow with the entries.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_entries_need_few_open_files() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (entries, records) = if long() { (10_000, 40_000) } else { (2_000, 6_000) };
    let topic = unique("entries");
    kafka.create_topic(&topic, 1)?;
    let message = |n: u64| Message::new(payload(n, 200)).key(format!("e{}", n % entries));
    let produced = kafka.produce(&topic, (0..records).map(message))?;
    let config = bed.sink_config(&topic).plugin("route", &guest::plugin("route")?, "default = \"by-key/{key}\"")?;
    let mut sink = Sink::start(&config)?;
    let files = format!("/proc/{}/fd", sink.process().pid());
    let (group, mut most) = (kafka.group(config.group())?, 0);
    reduct_sink_testbed::process::wait_for("the end", CATCH_UP, || {
        sink.process().expect_running()?;
        most = std::fs::read_dir(&files)?.count().max(most);
        Ok((group.lag(&topic).ok() == Some(0)).then_some(()))
    })?;
    sink.stop_cleanly()?;
    figures::record("open_files", most as f64)?;
    assert!(most <= 200, "{most} files were open");
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()
}
