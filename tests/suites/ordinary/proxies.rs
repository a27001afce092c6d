//! Reverse proxies before ReductStore, as they are installed. Both are in Debian: `apt-get install nginx haproxy`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::{Process, data_folder, free_port, new_log, wait_for};
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, SinkConfig, bed, payload, unique};
use tempfile::TempDir;

use super::CATCH_UP;

struct Proxy {
    url: String,
    _process: Process,
    _folder: TempDir,
}

impl Proxy {
    /// `configure` makes the configuration from the port to listen on and the store's address.
    fn start(program: &str, args: &[&str], configure: impl FnOnce(&Path, u16, &str) -> String) -> Result<Self> {
        let (folder, port) = (data_folder("proxy")?, free_port()?);
        let store = bed()?.store.url();
        let file = folder.path().join("proxy.conf");
        std::fs::write(&file, configure(folder.path(), port, store.trim_start_matches("http://")))?;
        let mut command = Command::new(program);
        command.args(args).arg(&file);
        let log = new_log("proxy")?;
        let process = Process::spawn(program, command, &log).with_context(|| format!("install {program}"))?;
        wait_for("the proxy", Duration::from_secs(10), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), _process: process, _folder: folder })
    }

    fn nginx() -> Result<Self> {
        Self::start("/usr/sbin/nginx", &["-c"], |folder, port, store| {
            let folder = folder.display();
            let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|name| format!("{name}_temp_path {folder}/{name};"))
                .concat();
            format!(
                "daemon off; master_process off; user root; pid {folder}/pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port}; \
                 location / {{ proxy_pass http://{store}; }} }} }}\n"
            )
        })
    }

    fn haproxy() -> Result<Self> {
        Self::start("/usr/sbin/haproxy", &["-db", "-f"], |_, port, store| {
            format!(
                "defaults\n mode http\n timeout connect 5s\n timeout client 50s\n timeout server 50s\n\
                 frontend in\n bind 127.0.0.1:{port}\n default_backend out\nbackend out\n server store {store}\n"
            )
        })
    }

    /// Runs the host through the proxy: `headers` headers of 60 bytes on 200 records of 1 KB, then 100 of 100 KB.
    async fn carries(&self, headers: usize) -> Result<()> {
        let bed = bed()?;
        let kafka = bed.kafka.client();
        let topic = unique("proxy");
        kafka.create_topic(&topic, 1)?;
        let message = |n: u64| {
            let message = Message::new(payload(n, if n < 200 { 1_000 } else { 100_000 }));
            (0..headers).fold(message, |message, at| message.header(format!("header-{at}"), "x".repeat(60)))
        };
        let produced = kafka.produce(&topic, (0..300).map(message))?;
        let config = SinkConfig::new(kafka.brokers(), &self.url, &topic).topics(&[&topic]);
        let mut sink = Sink::start(&config)?;
        sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
        sink.stop_cleanly()?;
        Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()
    }
}

/// nginx takes 32 KB of headers and 1 MB of body, and answers 400 or 413.
#[tokio::test(flavor = "multi_thread")]
async fn nginx_as_it_is_installed_carries_records() -> Result<()> {
    Proxy::nginx()?.carries(8).await
}

/// HAProxy takes 16 KB of headers, and answers 400.
#[tokio::test(flavor = "multi_thread")]
async fn haproxy_as_it_is_installed_carries_records() -> Result<()> {
    Proxy::haproxy()?.carries(3).await
}

/// A record that is larger than the proxy takes is refused with the limit's name, and no other record waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_for_nginx_names_the_limit() -> Result<()> {
    let proxy = Proxy::nginx()?;
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("too-large");
    kafka.create_topic(&topic, 2)?;
    let message = |n: u64| Message::new(payload(n, if n == 10 { 1_500_000 } else { 1_000 })).partition(n as i32 % 2);
    let produced = kafka.produce(&topic, (0..100).map(message))?;
    let config = SinkConfig::new(kafka.brokers(), &proxy.url, &topic).topics(&[&topic]);
    let mut sink = Sink::start(&config)?;
    sink.wait_log("client_max_body_size", Duration::from_secs(60))?;
    let group = kafka.group(config.group())?;
    wait_for("the other partition", CATCH_UP, || {
        sink.process().expect_running()?;
        Ok(group.committed(&topic).unwrap_or_default().contains(&(1, 50)).then_some(()))
    })?;
    // The records behind the large one are written, although nothing behind it can be committed.
    let begin = Instant::now();
    loop {
        let diff = Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?;
        if diff.missing.len() == 1 {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(60), "{diff}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    sink.stop()?;
    Ok(())
}

/// If only the attachments are refused, the host still writes the records, and reports the reason until it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn attachments_too_large_for_nginx_are_told_and_hold_no_record_up() -> Result<()> {
    let proxy = Proxy::nginx()?;
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("attachment");
    kafka.create_topic(&topic, 1)?;
    let folder = data_folder("attachments")?;
    let file = folder.path().join("schema.json");
    let schema = |length: usize| serde_json::json!({ "schema": "x".repeat(length) });
    std::fs::write(&file, schema(1_500_000).to_string())?;
    let rule = [("entry", topic.clone()), ("key", "$schema".into()), ("file", file.display().to_string())];
    let rule = toml::Table::from_iter(rule.map(|(key, value)| (key.to_owned(), value.into())));
    let status = format!("127.0.0.1:{}", free_port()?);
    let config = SinkConfig::new(kafka.brokers(), &proxy.url, &topic)
        .topics(&[&topic])
        .set("status.listen", &*status)
        .set("attachments", vec![toml::Value::from(rule)]);
    let produced = kafka.produce(&topic, (0..50).map(|n| Message::new(payload(n, 1_000))))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("the attachments are refused; records are written without them", CATCH_UP)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()?;
    let health = || -> Result<String> {
        let answer = Command::new("curl").args(["-s", &format!("http://{status}/health")]).output()?;
        Ok(String::from_utf8(answer.stdout)?)
    };
    wait_for("the refusal in /health", CATCH_UP, || {
        let told = health()?;
        Ok(["attachments", "413", &topic].iter().all(|part| told.contains(part)).then_some(()))
    })?;

    // A file that fits is written with the next record, and the problem is gone.
    std::fs::write(&file, schema(1_000).to_string())?;
    sink.wait_log("the attachment changed", CATCH_UP)?;
    kafka.produce(&topic, [Message::new("x")])?;
    sink.wait_log("attachments written", CATCH_UP)?;
    wait_for("the problem to be gone", CATCH_UP, || Ok((!health()?.contains("attachments")).then_some(())))?;
    let bucket = bed.store.client()?.get_bucket(config.bucket()).await?;
    let held = serde_json::json!(bucket.read_attachments(&topic).await?);
    ensure!(held["$schema"] == schema(1_000), "{held}");
    sink.stop_cleanly()
}
