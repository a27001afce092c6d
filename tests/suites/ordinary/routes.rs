//! Tests ways to the store: over IPv6, through a proxy that the environment names, and a redirect.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, bed, payload, unique};

use super::CATCH_UP;

const QUIET: (&str, &str) = ("REDUCT_SINK_STATUS_LISTEN", "");

/// Listens on `address` and passes connections on to the shared store. Returns where it listens. It ends with the
/// process.
fn forward(address: &str) -> Result<String> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    let (here, target) = (listener.local_addr()?, bed()?.store.url().trim_start_matches("http://").to_owned());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&target) else { continue };
            for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
                let (Ok(mut from), Ok(mut to)) = (from, to) else { continue };
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    Ok(here.to_string())
}

/// Runs the host on a new topic with this URL and these variables until all records are stored.
async fn carries(url: &str, environment: &[(&str, &str)]) -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("route");
    kafka.create_topic(&topic, 1)?;
    let produced = kafka.produce(&topic, (0..100).map(|n| Message::new(payload(n, 1_000))))?;
    let args = ["--brokers", kafka.brokers(), "--topic", &topic, "--url", url, "--bucket", &topic, "--group", &topic];
    let mut sink = Sink::start_with(&args, environment)?;
    sink.wait_caught_up(&kafka, &topic, &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, &topic).await?.exact()
}

/// The output of a command that fails with this URL and these variables.
fn refusal(command: &str, url: &str, environment: &[(&str, &str)]) -> Result<String> {
    let kafka = bed()?.kafka.client();
    let topic = unique("refused");
    kafka.create_topic(&topic, 1)?;
    let args = [command, "--brokers", kafka.brokers(), "--topic", &topic, "--url", url, "--bucket", "b"];
    let output = run_to_end(&args, environment, Duration::from_secs(100))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "{command} succeeds: {text}");
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_and_the_status_are_reached_over_ipv6() -> Result<()> {
    let url = format!("http://{}", forward("[::1]:0")?);
    carries(&url, &[QUIET]).await?;
    let port = reduct_sink_testbed::process::free_port()?;
    let (kafka, listen) = (bed()?.kafka.client(), format!("[::1]:{port}"));
    let topic = unique("ipv6");
    kafka.create_topic(&topic, 1)?;
    let args = ["--brokers", kafka.brokers(), "--topic", &topic, "--url", &url, "--bucket", &topic];
    let mut sink = Sink::start_with(&args, &[("REDUCT_SINK_STATUS_LISTEN", &listen)])?;
    let answer = wait_for("the status over IPv6", Duration::from_secs(60), || {
        sink.process().expect_running()?;
        Ok(get(&listen, "/livez").ok().filter(|answer| answer.starts_with("HTTP/1.1")))
    })?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    sink.stop_cleanly()
}

fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A client asks an HTTP proxy for a complete URL. The store accepts such requests, so forwarding them is enough here.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_used_and_named() -> Result<()> {
    let proxy = format!("http://{}", forward("127.0.0.1:0")?);
    carries("http://store.invalid:8383", &[("http_proxy", &proxy), QUIET]).await?;
    let (dead, url) = ("http://127.0.0.1:9", bed()?.store.url());
    carries(&url, &[("http_proxy", dead), ("no_proxy", "127.0.0.1"), QUIET]).await?;
    let named = "the variable http_proxy names a proxy 127.0.0.1:9";
    let told = refusal("check", &url, &[("http_proxy", dead), QUIET])?;
    ensure!(told.contains(named), "{told}");
    // `run` would wait for the store, so the test uses `check`.
    let args =
        ["--brokers", &bed()?.kafka.brokers(), "--topic", "any", "--url", &url, "--bucket", "b"].map(String::from);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    bed()?.kafka.client().create_topic("any", 1)?;
    let mut sink = Sink::start_with(&args, &[("http_proxy", dead), QUIET])?;
    sink.wait_log(named, Duration::from_secs(60))?;
    sink.kill9()
}

/// The HTTP client follows a redirect, but turns a POST into a GET, so that no record would ever be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_refused_with_its_target() -> Result<()> {
    let target = bed()?.store.url();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let to = target.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = vec![0; 64 << 10];
            let read = client.read(&mut request).unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or("/");
            let answer = format!(
                "HTTP/1.1 301 Moved Permanently\r\nlocation: {to}{path}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = client.write_all(answer.as_bytes());
        }
    });
    for command in ["check", "run"] {
        let told = refusal(command, &url, &[QUIET])?;
        ensure!(told.contains(&format!("redirects to {target}")), "{command}: {told}");
    }
    Ok(())
}
