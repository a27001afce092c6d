//! Starts the servers of the test bed by hand: `testbed kafka store`. Prints their addresses as `KEY=VALUE` lines, and
//! stops them at the end of its standard input, at SIGTERM or at SIGINT.

use std::io::Write;

use anyhow::{Result, bail};
use reduct_sink_testbed::{Kafka, Store, process};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() || wanted.iter().any(|name| name != "kafka" && name != "store") {
        bail!("usage: testbed [kafka] [store]");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let mut out = std::io::stdout();
    let mut kafka = None;
    let mut store = None;
    for name in &wanted {
        if name == "kafka" {
            let server = kafka.insert(Kafka::start()?);
            writeln!(out, "KAFKA_BROKERS={}\nKAFKA_PID={}", server.brokers(), server.process().pid())?;
        } else {
            let server = store.insert(Store::start()?);
            writeln!(out, "STORE_URL={}\nSTORE_PID={}", server.url(), server.process().pid())?;
        }
    }
    writeln!(out, "LOGS={}\nREADY=1", process::log_folder().display())?;
    out.flush()?;

    // A thread of its own reads: the runtime would wait for the read of the standard input that may still be open.
    let (closed, mut input) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = closed.send(());
    });
    tokio::select! {
        _ = &mut input => (),
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    drop((kafka, store));
    Ok(())
}
