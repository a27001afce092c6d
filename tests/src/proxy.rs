//! A TCP proxy that makes a network worse. It doesn't parse what it carries: it counts bytes, and what a client sends
//! after an answer counts as a new request.
//!
//! Guarantees: without a fault it passes everything on unchanged; a fault is counted when it has happened; the proxy
//! ends with its handle.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::dice::Dice;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// After a part of the request the proxy resets both connections.
    Reset,
    /// The proxy stops in the middle of a request for a while, and then passes everything on.
    Stall,
    /// The proxy delays the request by 100 ms, and its answer by 100 ms.
    Delay,
    /// The request arrives, but the connection is reset before its answer.
    DropAnswer,
}

/// How the proxy behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    /// Passes everything on.
    Fair,
    /// About every third request meets a fault.
    Foul,
    /// Resets every connection.
    Shut,
}

#[derive(Debug, Default)]
struct Counts {
    resets: AtomicU64,
    stalls: AtomicU64,
    delays: AtomicU64,
    dropped: AtomicU64,
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    // The proxy's tasks end with their runtime.
    runtime: Option<Runtime>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    weather: AtomicU8,
    dice: Mutex<Dice>,
    stall: Duration,
    counts: Counts,
    open: AtomicU64,
    most_open: AtomicU64,
    connections: AtomicU64,
    /// The proxy holds back what clients send on connections with a lower number than this.
    held_below: watch::Sender<u64>,
    held_bytes: AtomicU64,
}

impl Proxy {
    /// Listens on a free loopback port for `target`. A stall takes up to `stall`.
    pub fn start(target: SocketAddr, dice: Dice, stall: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = SocketAddr::from(([127, 0, 0, 1], crate::process::free_port()?));
        let listener = std::net::TcpListener::bind(address).context("the proxy can't listen")?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            weather: AtomicU8::new(Weather::Fair as u8),
            dice: Mutex::new(dice),
            stall,
            counts: Counts::default(),
            open: AtomicU64::new(0),
            most_open: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            held_below: watch::Sender::new(0),
            held_bytes: AtomicU64::new(0),
        });
        runtime.spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, weather: Weather) {
        self.shared.weather.store(weather as u8, Ordering::SeqCst);
    }

    /// Passes new connections on to another server, as if that server had replaced the first one.
    pub fn redirect(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Holds back what arrives on the present connections, even after their clients are gone. New connections are not
    /// affected.
    pub fn hold(&self) {
        self.shared.held_bytes.store(0, Ordering::SeqCst);
        self.shared.held_below.send_replace(self.shared.connections.load(Ordering::SeqCst));
    }

    /// Passes on what was held back.
    pub fn release(&self) {
        self.shared.held_below.send_replace(0);
    }

    /// How many bytes were held back since [`Self::hold`].
    pub fn held_bytes(&self) -> u64 {
        self.shared.held_bytes.load(Ordering::SeqCst)
    }

    /// How many resets, stalls, delays and dropped answers there were so far.
    pub fn faults(&self) -> [u64; 4] {
        let Counts { resets, stalls, delays, dropped } = &self.shared.counts;
        [resets, stalls, delays, dropped].map(|count| count.load(Ordering::SeqCst))
    }

    /// The most requests with records that were under way at the same time.
    pub fn most_at_once(&self) -> u64 {
        self.shared.most_open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.weather.load(Ordering::SeqCst) == Weather::Shut as u8 {
            reset(client);
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            // Broken connections are what this proxy is for, so their errors are ignored.
            let _ = carry(client, &shared).await;
        });
    }
}

/// What happens to the current request.
struct Plan {
    fault: Option<Fault>,
    /// The fault happens after this many bytes of the request.
    at: u64,
}

async fn carry(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(mut server) = TcpStream::connect(target).await else {
        reset(client);
        return Ok(());
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut told) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut plan = shared.plan();
    let mut sent = 0;
    let mut answering = false;
    let mut _under_way = None;
    let number = shared.connections.fetch_add(1, Ordering::SeqCst);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let count = read?;
                if *shared.held_below.borrow() > number {
                    let held = shared.hold_back(number, &mut client, asked[..count].to_vec()).await?;
                    server.write_all(&held).await?;
                    continue;
                }
                if count == 0 {
                    return drain(server, client).await;
                }
                if answering {
                    (answering, sent, plan) = (false, 0, shared.plan());
                }
                if plan.fault == Some(Fault::Delay) && sent == 0 {
                    tokio::time::sleep(DELAY).await;
                }
                let cut = (plan.at.saturating_sub(sent) as usize).min(count);
                let reached = sent + count as u64 >= plan.at;
                sent += count as u64;
                if sent >= LARGE && _under_way.is_none() {
                    _under_way = Some(shared.open());
                }
                match plan.fault {
                    Some(Fault::Reset) if reached => {
                        server.write_all(&asked[..cut]).await?;
                        shared.counts.resets.fetch_add(1, Ordering::SeqCst);
                        reset(client);
                        reset(server);
                        return Ok(());
                    }
                    Some(Fault::Stall) if reached => {
                        server.write_all(&asked[..cut]).await?;
                        shared.counts.stalls.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(shared.stall_time()).await;
                        server.write_all(&asked[cut..count]).await?;
                        plan.fault = None;
                    }
                    _ => server.write_all(&asked[..count]).await?,
                }
            }
            read = server.read(&mut told) => {
                let count = read?;
                if count == 0 {
                    return client.shutdown().await;
                }
                if !answering {
                    (answering, _under_way) = (true, None);
                    match plan.fault {
                        Some(Fault::DropAnswer) => {
                            shared.counts.dropped.fetch_add(1, Ordering::SeqCst);
                            reset(client);
                            return Ok(());
                        }
                        Some(Fault::Delay) => {
                            shared.counts.delays.fetch_add(1, Ordering::SeqCst);
                            tokio::time::sleep(DELAY).await;
                        }
                        _ => {}
                    }
                }
                client.write_all(&told[..count]).await?;
            }
        }
    }
}

/// A request of at least this many bytes carries records.
const LARGE: u64 = 1000;
const DELAY: Duration = Duration::from_millis(100);

/// Finishes after the client has closed its side: passes everything that it sent to the server, and discards the
/// answer.
async fn drain(mut server: TcpStream, client: TcpStream) -> io::Result<()> {
    server.shutdown().await?;
    let mut rest = vec![0; 4096];
    while server.read(&mut rest).await? > 0 {}
    drop(client);
    Ok(())
}

/// Counts a request as under way from its first byte to the first byte of its answer.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn open(&self) -> Open<'_> {
        let now = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(now, Ordering::SeqCst);
        Open(self)
    }

    fn plan(&self) -> Plan {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        let foul = self.weather.load(Ordering::SeqCst) == Weather::Foul as u8;
        if !foul || !dice.one_in(3) {
            return Plan { fault: None, at: u64::MAX };
        }
        let fault = match dice.below(10) {
            0..4 => Fault::Reset,
            4..8 => Fault::DropAnswer,
            8 => Fault::Stall,
            _ => Fault::Delay,
        };
        // The place is anywhere from the first bytes to the body of a large request. Small positions are as likely as
        // large ones.
        let bits = dice.within(1..17);
        let at = dice.within(1..2 << bits);
        Plan { fault: Some(fault), at }
    }

    /// Collects what the client of a connection sends until the connection is released.
    async fn hold_back(&self, number: u64, client: &mut TcpStream, mut held: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut held_below = self.held_below.subscribe();
        let mut more = vec![0; 64 << 10];
        let mut is_gone = held.is_empty();
        self.held_bytes.fetch_add(held.len() as u64, Ordering::SeqCst);
        while *held_below.borrow_and_update() > number {
            tokio::select! {
                changed = held_below.changed() => changed.map_err(io::Error::other)?,
                read = client.read(&mut more), if !is_gone => match read {
                    Ok(count @ 1..) => {
                        held.extend_from_slice(&more[..count]);
                        self.held_bytes.fetch_add(count as u64, Ordering::SeqCst);
                    }
                    Ok(0) | Err(_) => is_gone = true,
                },
            }
        }
        Ok(held)
    }

    fn stall_time(&self) -> Duration {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        dice.millis(50..self.stall.as_millis() as u64)
    }
}

/// Closes the connection with a reset instead of an orderly end.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}
