//! Who watches a host: Prometheus and a browser that has its page open, each every second. The page itself asks every two seconds.
//!
//! Guarantees: a look that isn't answered with 200 fails the run; the looks end with the run.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const EVERY: Duration = Duration::from_secs(1);

pub struct Scraper {
    ends: Arc<AtomicBool>,
    scrapes: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Scraper {
    /// The host may still be starting.
    pub fn start(address: String) -> Self {
        let (ends, scrapes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (ends, scrapes) = (Arc::clone(&ends), Arc::clone(&scrapes));
            thread::spawn(move || look(&address, &ends, &scrapes))
        };
        Self { ends, scrapes, thread }
    }

    /// How often the metrics were read.
    pub fn stop(self) -> Result<u64> {
        self.ends.store(true, Ordering::SeqCst);
        match self.thread.join() {
            Ok(answer) => answer.map(|()| self.scrapes.load(Ordering::SeqCst)),
            Err(_) => bail!("the scraper panicked"),
        }
    }
}

fn look(address: &str, ends: &AtomicBool, scrapes: &AtomicU64) -> Result<()> {
    while TcpStream::connect(address).is_err() && !ends.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(20));
    }
    for path in ["/", "/history"] {
        get(address, path)?;
    }
    let mut due = Instant::now();
    while !ends.load(Ordering::SeqCst) {
        ensure!(get(address, "/metrics")?.contains("# TYPE"), "/metrics answers without metrics");
        scrapes.fetch_add(1, Ordering::SeqCst);
        // What the page asks for at each look.
        get(address, "/status")?;
        due += EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).with_context(|| format!("{path} isn't text"))?;
    let line = answer.lines().next().unwrap_or_default();
    ensure!(line.contains(" 200"), "{path} is answered with {line}");
    Ok(answer)
}
