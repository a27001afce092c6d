//! Callers of the status address who may not act, and callers who mean to use up the host.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Sink, bed, figures, process, unique};

use super::CATCH_UP;
use crate::operate::{SHOWN_WITHIN, address, get, request};

#[test]
fn strangers_see_little_and_change_nothing() -> Result<()> {
    let bed = bed()?;
    let topic = unique("guarded");
    bed.kafka.client().create_topic(&topic, 1)?;
    let (address, probes) = (address()?, address()?);
    let folder = process::data_folder("token")?;
    let token = folder.path().join("token");
    std::fs::write(&token, "a-secret\n")?;
    let config = bed
        .sink_config(&topic)
        .set("status.listen", address.as_str())
        .set("status.probes_listen", probes.as_str())
        .set("status.token_file", token.to_str().context("UTF-8")?);
    let mut sink = Sink::start(&config)?;
    process::wait_for("an answer", CATCH_UP, || Ok(get(&address, "/livez").ok().filter(|(code, _)| *code == 200)))?;
    let mut refused = 0;
    let mut refuse = |at: &str, head: &str, code: u16| {
        let (found, body) = request(at, &format!("{head}\r\nConnection: close\r\n\r\n"))?;
        ensure!(found == code, "{head:?} is answered with {found}: {body}");
        refused += 1;
        Ok::<_, anyhow::Error>(())
    };
    let own = format!("Host: {address}");
    refuse(&address, "GET /status HTTP/1.1\r\nHost: evil.example", 403)?;
    refuse(&address, "GET /health HTTP/1.1\r\nHost: 127.0.0.1.evil.example", 403)?;
    refuse(&address, "GET /metrics HTTP/1.1\r\nX-Nothing: 1", 403)?;
    refuse(&address, &format!("GET /status HTTP/1.1\r\n{own}\r\nOrigin: http://evil.example"), 403)?;
    refuse(&address, &format!("POST /pause HTTP/1.1\r\n{own}\r\nOrigin: http://{address}\r\nContent-Length: 0"), 403)?;
    refuse(&address, &format!("GET /tap?id=1 HTTP/1.1\r\n{own}"), 403)?;
    refuse(&address, &format!("GET /dead-letters HTTP/1.1\r\n{own}"), 403)?;
    let promote = "POST /plugins/passthrough/promote HTTP/1.1";
    refuse(&address, &format!("{promote}\r\n{own}\r\nContent-Length: 0"), 403)?;
    refuse(&address, &format!("{promote}\r\n{own}\r\nAuthorization: Bearer wrong\r\nContent-Length: 0"), 403)?;
    refuse(&address, &format!("{promote}\r\n{own}\r\nOrigin: http://x\r\nAuthorization: Bearer a-secret"), 403)?;
    // Heads that are too large, and no HTTP at all.
    for (what, code) in [
        (format!("GET /status HTTP/1.1\r\n{own}\r\nX-Large: {}", "x".repeat(100_000)), 431),
        (format!("GET /{} HTTP/1.1\r\n{own}", "x".repeat(100_000)), 414),
        ("\u{1}\u{2}\u{3} not a request".to_owned(), 400),
    ] {
        // Where the host ends the connection while it is still being written to, there is no answer to read.
        match request(&address, &format!("{what}\r\nConnection: close\r\n\r\n")) {
            Ok((found, _)) => ensure!(found == code || found == 400 || found == 431, "{found} instead of {code}"),
            Err(_) => ensure!(get(&address, "/livez")?.0 == 200, "the status address is gone"),
        }
        refused += 1;
    }
    let mut refuse = |at: &str, head: &str, code: u16| {
        let (found, body) = request(at, &format!("{head}\r\nConnection: close\r\n\r\n"))?;
        ensure!(found == code, "{head:?} is answered with {found}: {body}");
        refused += 1;
        Ok::<_, anyhow::Error>(())
    };
    refuse(&probes, &format!("GET / HTTP/1.1\r\nHost: {probes}"), 404)?;
    refuse(&probes, &format!("GET /status HTTP/1.1\r\nHost: {probes}"), 404)?;
    refuse(&probes, &format!("{promote}\r\nHost: {probes}\r\nAuthorization: Bearer a-secret"), 404)?;
    figures::record("status_attacks", f64::from(refused))?;
    ensure!(get(&probes, "/livez")?.0 == 200 && get(&probes, "/metrics")?.0 == 200);
    // With the token it gets as far as the plugin, of which there is no candidate.
    let head = format!("{promote}\r\n{own}\r\nAuthorization: Bearer a-secret\r\nContent-Length: 0");
    let (code, body) = request(&address, &format!("{head}\r\nConnection: close\r\n\r\n"))?;
    ensure!(code == 409, "{code}: {body}");

    // Callers that say nothing are sent away, and others are served in the meantime.
    let silent: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(&address).ok()).collect();
    let begun = Instant::now();
    ensure!(get(&probes, "/livez")?.0 == 200);
    // Silent callers keep their places at the other address for five seconds.
    ensure!(begun.elapsed() < Duration::from_secs(3), "a probe waited {:?} for a place", begun.elapsed());
    process::wait_for("an answer beside silent callers", SHOWN_WITHIN, || {
        Ok(get(&address, "/livez").ok().filter(|(code, _)| *code == 200))
    })?;
    drop(silent);
    // Callers that send their head a byte at a time.
    let mut slow: Vec<TcpStream> = (0..100).filter_map(|_| TcpStream::connect(&address).ok()).collect();
    for byte in b"GET / HTTP/1.1" {
        slow.iter_mut().for_each(|caller| drop(caller.write_all(&[*byte])));
        std::thread::sleep(Duration::from_millis(50));
    }
    process::wait_for("an answer beside slow callers", CATCH_UP, || {
        Ok(get(&address, "/livez").ok().filter(|(code, _)| *code == 200))
    })?;
    drop(slow);
    sink.stop_cleanly()
}
