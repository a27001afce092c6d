//! Tests the host's surroundings: a slow line, a system without CA certificates, a token that is replaced, an old
//! server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_rs::Permissions;
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, SinkConfig, Store, bed, payload, unique};

use super::CATCH_UP;

/// Makes a line of 2 Mbit/s, in one direction, to `target`. Returns the address to use instead. It ends with the
/// process.
fn slow_line(target: &str) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, target) = (listener.local_addr()?, target.trim_start_matches("http://").to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&target) else { continue };
            let (Ok(mut from_server), Ok(mut to_client)) = (server.try_clone(), client.try_clone()) else { continue };
            std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
            std::thread::spawn(move || carry_slowly(client, server));
        }
    });
    Ok(format!("http://{address}"))
}

fn carry_slowly(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 12_500];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_secs_f64(read as f64 / 250_000.0));
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// The host gives a large request more time than a small one.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_record_arrives_over_a_slow_line() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("slow");
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, [4_000_000, 100_000, 100_000].map(|size| Message::new(payload(1, size))))?;
    let config = SinkConfig::new(kafka.brokers(), &slow_line(&bed.store.url())?, &topic);
    let config = config.topics(&[&topic]).set("store.timeout", "3s");
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()
}

/// The HTTP client needs CA certificates even for plain HTTP, so the host must cope with a system that has none.
#[tokio::test(flavor = "multi_thread")]
async fn no_ca_certificates_are_needed_without_tls() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("no-ca");
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, [Message::new("x")])?;
    let flags = |url: &str| {
        ["--brokers", kafka.brokers(), "--topic", &topic, "--url", url, "--bucket", &topic, "--group", &topic]
            .map(str::to_owned)
    };
    let environment =
        [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent"), ("REDUCT_SINK_STATUS_LISTEN", "")];
    let args = flags(&bed.store.url());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut sink = Sink::start_with(&args, &environment)?;
    sink.wait_caught_up(&kafka, &topic, &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, &topic).await?.exact()?;

    let args = flags("https://127.0.0.1:9");
    let args: Vec<&str> = ["check"].into_iter().chain(args.iter().map(String::as_str)).collect();
    let output = run_to_end(&args, &environment, Duration::from_secs(60))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && text.contains("ca-certificates"), "{text}");
    Ok(())
}

/// A token expires, and its file is given another one. The store speaks TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_token_is_read_again() -> Result<()> {
    let kafka = bed()?.kafka.client();
    let store = Store::start_tls(Some("full"))?;
    let client = store.client()?;
    client.create_bucket("rotated").send().await?;
    let topic = unique("token");
    kafka.create_topic(&topic, 1)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("token");
    let rights = || Permissions { full_access: true, read: vec![], write: vec![] };
    std::fs::write(&file, client.create_token("first", rights()).await?)?;
    let config = SinkConfig::new(kafka.brokers(), &store.url(), "rotated").topics(&[&topic]);
    let ca = store.ca().context("the authority's certificate")?.display().to_string();
    let config = config.set("store.token_file", file.to_str().context("a path that is UTF-8")?).set("store.tls.ca", ca);
    let mut produced = kafka.produce(&topic, [Message::new("by the first")])?;
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    std::fs::write(&file, client.create_token("second", rights()).await? + "\n")?;
    client.delete_token("first").await?;
    produced.extend(kafka.produce(&topic, [Message::new("by the second")])?);
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&client, "rotated").await?.exact()
}

/// Servers before 1.21.2 hide records in queries, and those before 1.19 don't even allow a slash in an entry's name. The test imitates
/// such a server.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_refused_by_its_version() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || answer_as_1_18(&mut client));
        }
    });
    let kafka = bed()?.kafka.client();
    let topic = unique("old");
    kafka.create_topic(&topic, 3)?;
    for command in ["check", "run"] {
        let args = [command, "--brokers", kafka.brokers(), "--topic", &topic, "--url", &url, "--bucket", "b"];
        let output = run_to_end(&args, &[("REDUCT_SINK_STATUS_LISTEN", "")], Duration::from_secs(60))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && text.contains("1.18.3") && text.contains("1.21.2"), "{command}: {text}");
    }
    Ok(())
}

fn answer_as_1_18(client: &mut TcpStream) {
    let mut request = [0; 4096];
    while let Ok(read @ 1..) = client.read(&mut request) {
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        let body = if request.contains("/info") {
            r#"{"version":"1.18.3","bucket_count":0,"usage":0,"uptime":9,"oldest_record":0,"latest_record":0,"defaults":{"bucket":{}}}"#
        } else if request.contains("/me") {
            r#"{"name":"anonymous","value":"","created_at":"2024-01-01T00:00:00Z","permissions":{"full_access":true,"read":[],"write":[]},"is_provisioned":false}"#
        } else {
            "{}"
        };
        let length = body.len();
        let body = if request.starts_with("HEAD") { "" } else { body };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-reduct-api: 1.18\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        if client.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
