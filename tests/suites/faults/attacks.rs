//! Tests, many times over, what a name in the group (`kafka.member`) makes possible: requests of a killed host arrive
//! while its successor already works, at any moment, and hosts with the same name start and stop.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Sink, Store, figures};

use super::{STEP, Trial, kafka, pause, size, sized, wait_progress};

/// A proxy before the store that can keep requests with records, whole, and deliver them later.
struct Keeper {
    url: String,
    /// Whether requests that arrive now are kept.
    keeps: Arc<AtomicBool>,
    /// Whether the kept requests are delivered.
    delivers: Arc<AtomicBool>,
    kept: Arc<AtomicU64>,
}

impl Keeper {
    fn start(store: &Store) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (keeps, delivers, kept) = (Arc::default(), Arc::default(), Arc::default());
        let keeper = Self { url, keeps, delivers, kept };
        let (target, keeps, delivers, kept) = (
            store.url().trim_start_matches("http://").to_owned(),
            keeper.keeps.clone(),
            keeper.delivers.clone(),
            keeper.kept.clone(),
        );
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, keeps, delivers, kept) = (target.clone(), keeps.clone(), delivers.clone(), kept.clone());
                std::thread::spawn(move || carry(client, &target, &keeps, &delivers, &kept));
            }
        });
        Ok(keeper)
    }

    /// Keeps requests until at least one was kept, and for a while longer.
    fn keep_some(&self) -> Result<()> {
        self.delivers.store(false, Ordering::SeqCst);
        let before = self.kept.load(Ordering::SeqCst);
        self.keeps.store(true, Ordering::SeqCst);
        wait_for("requests to be kept", STEP, || Ok((self.kept.load(Ordering::SeqCst) > before + 2).then_some(())))
    }
}

/// Passes requests on one after the other; each is read completely first.
fn carry(
    mut client: TcpStream,
    target: &str,
    keeps: &AtomicBool,
    delivers: &AtomicBool,
    kept: &AtomicU64,
) -> Option<()> {
    let mut server = TcpStream::connect(target).ok()?;
    let (mut from, mut to) = (server.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let mut read = Vec::new();
    loop {
        let request = whole_request(&mut client, &mut read)?;
        if request.starts_with(b"POST") && keeps.load(Ordering::SeqCst) && request.len() > 1_000 {
            kept.fetch_add(1, Ordering::SeqCst);
            while !delivers.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        server.write_all(&request).ok()?;
    }
}

/// The next request of this connection, head and body; what was read beyond it stays in `read`.
fn whole_request(client: &mut TcpStream, read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let head = read.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            let end = head + length.unwrap_or_default();
            if read.len() >= end {
                let rest = read.split_off(end);
                return Some(std::mem::replace(read, rest));
            }
        }
        match client.read(&mut buffer) {
            Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

/// The killed host's requests reach the store while its successor writes the same records.
#[tokio::test(flavor = "multi_thread")]
async fn late_requests_of_a_killed_host_harm_nothing() -> Result<()> {
    let store = Store::start()?;
    let keeper = Keeper::start(&store)?;
    let trial = Trial::new(kafka()?.client(), &store, "late-attacks", 4)?.configure(|config| {
        config.property("session.timeout.ms", "6000").set("kafka.member", "one").set("store.url", keeper.url.as_str())
    });
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(1000)?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..sized(2, 3, 30) {
        wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;
        keeper.keep_some()?;
        sink.kill9()?;
        figures::add("kills_host", 1.0)?;
        keeper.keeps.store(false, Ordering::SeqCst);
        sink.start_again()?;
        pause(&mut dice, 0..4000).await;
        keeper.delivers.store(true, Ordering::SeqCst);
    }
    let produced = trial.finish(load, 0)?;
    // The host re-reads what late requests may have damaged when the killed host's session is over.
    tokio::time::sleep(Duration::from_secs(8)).await;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// The newer of two hosts with one name takes the name over, and the older one continues without a name.
#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_of_one_name_lose_nothing() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "name-attacks", 4)?
        .configure(|config| config.property("session.timeout.ms", "6000").set("kafka.member", "one"));
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(800)?;
    let mut older = Sink::start(&trial.config)?;
    for _ in 0..size(2, 15) {
        wait_progress(&mut older, &trial, &group, trial.committed(&group)?)?;
        let mut newer = Sink::start(&trial.config)?;
        newer.wait_log("assigned partitions=[\"", STEP)?;
        pause(&mut dice, 0..8000).await;
        older.process().expect_running()?;
        wait_progress(&mut newer, &trial, &group, trial.committed(&group)?)?;
        // One of the two hosts, chosen by chance, stays.
        let gone = if dice.one_in(2) { std::mem::replace(&mut older, newer) } else { newer };
        stop_or_kill(gone, &mut dice)?;
    }
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut older], &store, Ledger::of(&produced)).await
}

fn stop_or_kill(mut sink: Sink, dice: &mut Dice) -> Result<()> {
    if dice.one_in(2) {
        figures::add("kills_host", 1.0)?;
        return sink.kill9();
    }
    sink.stop_cleanly()
}
