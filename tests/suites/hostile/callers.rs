//! Tests callers of the status address who may not act, and callers who try to use up the host's resources.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Sink, bed, figures, process, unique};
use serde_json::Value;

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
    // These requests have a head that is too large, or aren't HTTP.
    for (what, code) in [
        (format!("GET /status HTTP/1.1\r\n{own}\r\nX-Large: {}", "x".repeat(100_000)), 431),
        (format!("GET /{} HTTP/1.1\r\n{own}", "x".repeat(100_000)), 414),
        ("\u{1}\u{2}\u{3} not a request".to_owned(), 400),
    ] {
        // If the host closes the connection while the test still writes to it, there is no answer to read.
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
    refused += tricks(&address, &own)?;
    figures::record("status_attacks", f64::from(refused))?;
    ensure!(!is_paused(&address)?, "a stranger has paused the host");
    only_its_user_reaches_the_socket(&address)?;
    ensure!(get(&probes, "/livez")?.0 == 200 && get(&probes, "/metrics")?.0 == 200);
    // With the token the request is accepted, and fails because the plugin has no candidate.
    let head = format!("{promote}\r\n{own}\r\nAuthorization: Bearer a-secret\r\nContent-Length: 0");
    let (code, body) = request(&address, &format!("{head}\r\nConnection: close\r\n\r\n"))?;
    ensure!(code == 409, "{code}: {body}");

    // The host disconnects callers that send nothing, and serves others in the meantime.
    // Silent callers keep their places at the other address for five seconds. On a busy machine a probe may be late for other
    // reasons, but not each time.
    let mut waited = Vec::new();
    let silent = loop {
        let silent: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(&address).ok()).collect();
        let begun = Instant::now();
        ensure!(get(&probes, "/livez")?.0 == 200);
        waited.push(begun.elapsed());
        if waited.last().is_some_and(|waited| *waited < Duration::from_secs(3)) {
            break silent;
        }
        ensure!(waited.len() < 10, "probes waited {waited:?} for a place");
    };
    process::wait_for("an answer beside silent callers", SHOWN_WITHIN, || {
        Ok(get(&address, "/livez").ok().filter(|(code, _)| *code == 200))
    })?;
    drop(silent);
    // These callers send their head one byte at a time.
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

/// What HTTP allows that a caller could try: each is refused, or answered once as any stranger is.
fn tricks(address: &str, own: &str) -> Result<u32> {
    let pause = "POST /pause HTTP/1.1";
    let smuggled = format!("{pause}\r\n{own}\r\nAuthorization: Bearer a-secret\r\nContent-Length: 0\r\n\r\n");
    let chunk = format!("{:x}\r\n{}\r\n", 10_000, "x".repeat(10_000));
    let headers: String = (0..500).map(|n| format!("X-{n}: 1\r\n")).collect();
    let tricks = [
        ("two hosts", format!("GET /status HTTP/1.1\r\n{own}\r\nHost: evil.example\r\n\r\n"), &[400, 403][..]),
        (
            "two hosts, its own last",
            format!("GET /status HTTP/1.1\r\nHost: evil.example\r\n{own}\r\n\r\n"),
            &[400, 403],
        ),
        (
            "two origins",
            format!("{pause}\r\n{own}\r\nOrigin: http://evil.example\r\nOrigin: http://{address}\r\n\r\n"),
            &[400, 403],
        ),
        (
            "another host in the target",
            format!("GET http://evil.example/status HTTP/1.1\r\n{own}\r\n\r\n"),
            &[400, 403],
        ),
        ("a proxy's method", format!("CONNECT evil.example:80 HTTP/1.1\r\n{own}\r\n\r\n"), &[400, 403, 404, 405]),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[]),
        (
            "another protocol",
            format!(
                "GET /tap HTTP/1.1\r\n{own}\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            ),
            &[400, 403],
        ),
        ("a second request behind the first", format!("GET /tap HTTP/1.1\r\n{own}\r\n\r\n{smuggled}"), &[403]),
        (
            "a request in a body",
            format!("POST /resume HTTP/1.1\r\n{own}\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
            &[403],
        ),
        (
            "two lengths",
            format!(
                "POST /resume HTTP/1.1\r\n{own}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            &[400, 403],
        ),
        (
            "lengths that differ",
            format!("POST /resume HTTP/1.1\r\n{own}\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n{smuggled}"),
            &[400, 403],
        ),
        (
            "a body without an end",
            format!("{pause}\r\n{own}\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(20)),
            &[403],
        ),
        ("five hundred headers", format!("GET /tap HTTP/1.1\r\n{own}\r\n{headers}\r\n"), &[400, 431]),
        ("an encoded path", format!("POST /%70ause HTTP/1.1\r\n{own}\r\n\r\n"), &[403, 404]),
        (
            "a path out of the topics",
            format!("POST /topics/..%2f..%2fpause/pause HTTP/1.1\r\n{own}\r\n\r\n"),
            &[403, 404],
        ),
        ("another method", format!("PUT /pause HTTP/1.1\r\n{own}\r\n\r\n"), &[405]),
        ("reading instead of asking", format!("GET /pause HTTP/1.1\r\n{own}\r\n\r\n"), &[405]),
        ("no token", format!("{pause}\r\n{own}\r\nAuthorization: Bearer \r\n\r\n"), &[403]),
        ("a token that is no text", format!("{pause}\r\n{own}\r\nAuthorization: Bearer \u{e4}\r\n\r\n"), &[403]),
    ];
    for (what, text, codes) in &tricks {
        let answers = answers(address, text.as_bytes()).with_context(|| what.to_string())?;
        // What is no HTTP/1 may be left without an answer.
        let is_refused = answers.is_empty() && codes.is_empty() || answers.len() == 1 && codes.contains(&answers[0]);
        ensure!(is_refused, "{what} is answered with {answers:?}");
    }
    Ok(tricks.len() as u32)
}

/// The codes of all answers on one connection, until the host ends it.
fn answers(address: &str, text: &[u8]) -> Result<Vec<u16>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The host may end the connection before it has read everything.
    let _ = stream.write_all(text);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        ensure!(error.kind() == ErrorKind::ConnectionReset && !answer.is_empty(), "the connection stays: {error}");
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let heads = answer.split("HTTP/1.").skip(1);
    heads.map(|head| head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no code")).collect()
}

fn is_paused(address: &str) -> Result<bool> {
    let status: Value = serde_json::from_str(&get(address, "/status")?.1)?;
    ensure!(status["paused"]["all"].is_boolean(), "{status}");
    Ok(status["paused"]["all"] == true
        || status["paused"]["topics"].as_array().is_some_and(|topics| !topics.is_empty()))
}

/// Other users of the machine can't even see the socket.
fn only_its_user_reaches_the_socket(address: &str) -> Result<()> {
    let port = address.rsplit_once(':').context("a port")?.1;
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => Path::new(&folder).join("reduct-sink"),
        // SAFETY: a plain system call.
        None => std::env::temp_dir().join(format!("reduct-sink-{}", unsafe { libc::geteuid() })),
    };
    let socket = folder.join(format!("{port}.sock"));
    let mode = |path: &Path| Ok::<_, anyhow::Error>(std::fs::symlink_metadata(path)?.mode() & 0o777);
    let (socket, folder) = (mode(&socket)?, mode(&folder)?);
    ensure!((socket, folder) == (0o600, 0o700), "the socket's mode is {socket:o}, its folder's {folder:o}");
    Ok(())
}
