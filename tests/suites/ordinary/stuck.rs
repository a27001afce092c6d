//! Tests that all other partitions continue while one can't, or many can't.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Produced, Sink, SinkConfig, bed, figures, payload, unique};

use super::{CATCH_UP, MEMORY};

/// What the proxy does with requests that write to one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Fate {
    Passed,
    /// It answers 503.
    Refused,
    /// It doesn't answer.
    Swallowed,
}

/// A proxy before the store that can block the writes to some entries. It ends with the process.
struct Gate {
    url: String,
    fate: Arc<AtomicU8>,
}

impl Gate {
    /// Starts a proxy for `target`; `marked` are texts of which the paths of the blocked requests contain one.
    fn start(target: &str, marked: Vec<String>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let fate = Arc::new(AtomicU8::new(Fate::Passed as u8));
        let (target, marked, current) = (target.trim_start_matches("http://").to_owned(), marked, fate.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, marked, fate) = (target.clone(), marked.clone(), current.clone());
                std::thread::spawn(move || carry(client, &target, &marked, &fate));
            }
        });
        Ok(Self { url, fate })
    }

    fn set(&self, fate: Fate) {
        self.fate.store(fate as u8, Ordering::SeqCst);
    }
}

fn carry(mut client: TcpStream, target: &str, marked: &[String], fate: &AtomicU8) -> Option<()> {
    let mut server = TcpStream::connect(target).ok()?;
    // The bytes that a client sends after an answer begin a new request.
    let begins = Arc::new(AtomicBool::new(true));
    let (mut from, mut to, answered) = (server.try_clone().ok()?, client.try_clone().ok()?, begins.clone());
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            answered.store(true, Ordering::SeqCst);
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        if begins.swap(false, Ordering::SeqCst) && fate.load(Ordering::SeqCst) != Fate::Passed as u8 {
            let text = String::from_utf8_lossy(&buffer[..read.min(1024)]).into_owned();
            let line = text.lines().next().unwrap_or_default();
            if line.starts_with("POST") && marked.iter().any(|marked| line.contains(marked)) {
                if fate.load(Ordering::SeqCst) == Fate::Refused as u8 {
                    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = client.write_all(answer.as_bytes());
                } else {
                    while let Ok(1..) = client.read(&mut buffer) {}
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
                return None;
            }
        }
        server.write_all(&buffer[..read]).ok()?;
    }
    let _ = server.shutdown(std::net::Shutdown::Write);
    Some(())
}

const PARTITIONS: i32 = 51;

/// The blocked partition has more records than the host may have in flight.
#[tokio::test(flavor = "multi_thread")]
async fn one_partition_that_cannot_move_holds_up_no_other() -> Result<()> {
    goes_on_beside(&[7]).await
}

/// Their records are more than the host may have in flight, and one of them fails at every moment.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_partitions_that_cannot_move_hold_up_no_other() -> Result<()> {
    goes_on_beside(&(0..20).collect::<Vec<i32>>()).await
}

async fn goes_on_beside(stuck: &[i32]) -> Result<()> {
    let moving: Vec<i32> = (0..PARTITIONS).filter(|partition| !stuck.contains(partition)).collect();
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("stuck");
    kafka.create_topic(&topic, PARTITIONS)?;
    let marked = stuck.iter().map(|partition| format!("{topic}/{partition}/")).collect();
    let gate = Gate::start(&bed.store.url(), marked)?;
    gate.set(Fate::Refused);
    let config = SinkConfig::new(kafka.brokers(), &gate.url, &topic).topics(&[&topic]);
    let config = config.set("limits.in_flight_bytes", "8MB").set("store.timeout", "3s");
    let group = kafka.group(config.group())?;

    let large = |n: u64| Message::new(payload(n, 100_000)).partition(stuck[n as usize % stuck.len()]);
    let mut produced = kafka.produce(&topic, (0..300).map(large))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("can't write to ReductStore", Duration::from_secs(60))?;
    // In this time the host reads as much of the blocked partition as it may.
    std::thread::sleep(Duration::from_secs(2));
    for (round, fate) in [Fate::Refused, Fate::Swallowed].into_iter().enumerate() {
        gate.set(fate);
        let others = |n: u64| Message::new(payload(n, 1_000)).partition(moving[n as usize % moving.len()]);
        let from = 1_000 * (round as u64 + 1);
        produced.extend(kafka.produce(&topic, (from..from + 1_000).map(others))?);
        wait_for(&format!("the others while writes are {fate:?}"), Duration::from_secs(60), || {
            sink.process().expect_running()?;
            let committed = group.committed(&topic).unwrap_or_default();
            Ok(has_all_of(&moving, &produced, &committed).then_some(()))
        })?;
        let committed = group.committed(&topic)?;
        let moved = committed.iter().find(|(partition, offset)| stuck.contains(&(*partition as i32)) && *offset > 0);
        ensure!(moved.is_none(), "it moved: {moved:?}");
    }
    gate.set(Fate::Passed);
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    let peak = sink.process().peak_memory()?;
    sink.stop_cleanly()?;
    figures::record("stuck_partition_mb", peak as f64 / 1e6)?;
    ensure!(peak < MEMORY, "{} MB were resident", peak / 1_000_000);
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()
}

/// Whether the group has committed everything that was produced to these partitions.
fn has_all_of(partitions: &[i32], produced: &[Produced], committed: &[(u32, u64)]) -> bool {
    produced.iter().filter(|record| partitions.contains(&(record.partition as i32))).all(|record| {
        committed.iter().any(|(partition, offset)| *partition == record.partition && *offset > record.offset)
    })
}
