//! Tests what an operator sees of a running host: its health, with reasons while Kafka, the store or the rights are
//! wrong; probes; metrics; the log of an outage; and who may do what over HTTP.

mod acting;
mod figures_read;
mod figures_true;
mod page;
mod picky;
mod stores;
mod traced;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reduct_sink_testbed::{Kafka, Message, Sink, SinkConfig, Store, bed, figures, payload, process, unique};
use serde_json::Value;

/// How soon the host has to show a problem.
pub const SHOWN_WITHIN: Duration = Duration::from_secs(30);
const BOUND: Duration = Duration::from_secs(120);

/// Sends one HTTP request with this head. Returns the status and the body.
pub fn request(address: &str, head: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((code, body))
}

pub fn get(address: &str, path: &str) -> Result<(u16, String)> {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

fn health(address: &str) -> Result<(u16, Value)> {
    let (code, body) = get(address, "/health")?;
    Ok((code, serde_json::from_str(&body).with_context(|| format!("{body:?} is no JSON"))?))
}

/// Waits until `/health` names a problem with this code. Returns its message.
fn wait_problem(sink: &mut Sink, address: &str, code: &str) -> Result<String> {
    let mut last = String::new();
    let found = process::wait_for(&format!("the problem {code}"), SHOWN_WITHIN, || {
        sink.process().expect_running()?;
        let Ok((status, health)) = health(address) else { return Ok(None) };
        last = format!("{status} {health}");
        let problems = health["problems"].as_array().cloned().unwrap_or_default();
        let found = problems.iter().find(|problem| problem["code"] == code);
        ensure!(found.is_none() || status == 503, "{last}");
        Ok(found.map(|problem| problem["message"].as_str().unwrap_or_default().to_owned()))
    });
    found.with_context(|| format!("/health said {last}; the log:\n{}", sink.log().unwrap_or_default()))
}

fn wait_healthy(sink: &mut Sink, address: &str) -> Result<()> {
    let mut last = String::new();
    let healthy = process::wait_for("a healthy host", BOUND, || {
        sink.process().expect_running()?;
        let Ok((status, health)) = health(address) else { return Ok(None) };
        last = format!("{status} {health}");
        Ok((status == 200 && health["healthy"] == true).then_some(()))
    });
    healthy.with_context(|| format!("/health said {last}"))
}

/// Waits until both probes are content. What was wrong for a moment with Kafka or the store is shown until the next look.
fn wait_ready(address: &str) -> Result<()> {
    process::wait_until("both probes to be content", SHOWN_WITHIN, || {
        for probe in ["/livez", "/readyz"] {
            let (code, told) = get(address, probe)?;
            ensure!(code == 200, "{probe}: {code} {told}");
        }
        Ok(())
    })
}

fn status(address: &str) -> Result<Value> {
    Ok(serde_json::from_str(&get(address, "/status")?.1)?)
}

pub fn address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", process::free_port()?))
}

#[test]
fn every_assigned_partition_is_listed_before_its_first_record() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("idle");
    kafka.create_topic(&topic, 12)?;
    let address = address()?;
    let config = bed.sink_config(&topic).set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    let partitions = process::wait_for("twelve partitions", SHOWN_WITHIN, || {
        sink.process().expect_running()?;
        let Ok(status) = status(&address) else { return Ok(None) };
        let partitions = status["partitions"].as_array().cloned().unwrap_or_default();
        let known = partitions.len() == 12 && partitions.iter().all(|partition| partition["lag"] == 0);
        Ok(known.then_some(partitions))
    })?;
    let numbers: Vec<u64> = partitions.iter().filter_map(|partition| partition["partition"].as_u64()).collect();
    ensure!(numbers == (0..12).collect::<Vec<_>>(), "not sorted: {numbers:?}");
    for partition in &partitions {
        ensure!(partition["begin"] == 0 && partition["end"] == 0 && partition["lag_s"] == 0.0, "{partition}");
    }
    wait_healthy(&mut sink, &address)?;
    wait_ready(&address)?;
    sink.stop_cleanly()
}

#[test]
fn a_misspelt_topic_is_shown() -> Result<()> {
    let bed = bed()?;
    let address = address()?;
    let config = bed.sink_config(&unique("nowhere")).set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    let message = wait_problem(&mut sink, &address, "kafka.topic-missing")?;
    ensure!(message.contains("there is no such topic"), "{message}");
    ensure!(get(&address, "/readyz")?.0 == 503 && get(&address, "/livez")?.0 == 200);
    sink.stop_cleanly()
}

#[test]
fn an_outage_of_kafka_is_shown_and_said_in_a_few_lines() -> Result<()> {
    let long = std::env::var("TESTBED_LONG").is_ok_and(|long| !long.is_empty());
    let outage = Duration::from_secs(if long { 75 } else { 40 });
    let mut kafka = Kafka::start()?;
    let topic = unique("outage");
    kafka.client().create_topic(&topic, 3)?;
    let address = address()?;
    let config = SinkConfig::new(&kafka.brokers(), &bed()?.store.url(), &unique("outage"))
        .topics(&[&topic])
        .set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    wait_healthy(&mut sink, &address)?;
    process::wait_for("three partitions", SHOWN_WITHIN, || {
        Ok((status(&address)?["partitions"].as_array().map(Vec::len) == Some(3)).then_some(()))
    })?;
    let lines = |sink: &Sink| Ok::<_, anyhow::Error>(sink.log()?.lines().count());
    let before = lines(&sink)?;
    let began = Instant::now();
    kafka.kill9()?;
    let message = wait_problem(&mut sink, &address, "kafka.unreachable")?;
    ensure!(message.contains(&kafka.brokers()) && message.contains("Connection refused"), "{message}");
    ensure!(get(&address, "/livez")?.0 == 200, "a restart would not help");
    ensure!(get(&address, "/readyz")?.0 == 503);
    std::thread::sleep(outage.saturating_sub(began.elapsed()));
    // How far the host is behind isn't known: neither 0 nor forgotten, and what follows from the outage is no second problem.
    let told = status(&address)?;
    ensure!(told["lag"]["records"].is_null() && told["lag"]["last_known"]["records"] == 0, "{told}");
    ensure!(told["problems"].as_array().map(Vec::len) == Some(1), "{told}");
    let metrics = get(&address, "/metrics")?.1;
    ensure!(metrics.contains("reduct_sink_lag_known 0"), "{metrics}");
    ensure!(!metrics.contains("reduct_sink_partition_lag_records{"), "{metrics}");
    let said = lines(&sink)? - before;
    figures::record(&format!("log_lines_kafka_outage_{}s", outage.as_secs()), said as f64)?;
    ensure!(said <= 12, "{said} lines in {outage:?}:\n{}", sink.log()?);
    kafka.start_again()?;
    kafka.wait_ready()?;
    wait_healthy(&mut sink, &address)?;
    ensure!(sink.log()?.contains("solved: kafka.unreachable, after "), "{}", sink.log()?);
    sink.stop_cleanly()
}

#[test]
fn kafka_that_is_reachable_at_its_bootstrap_address_only_is_named() -> Result<()> {
    let nowhere = process::free_port()?;
    let port = process::free_port()?;
    let controller = process::free_port()?;
    // The broker advertises an address at which nothing listens, so the tests' own client can't wait for it.
    let listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
    let kafka = Kafka::start_unready(&[
        ("listeners", &listeners),
        ("controller.quorum.bootstrap.servers", &format!("127.0.0.1:{controller}")),
        ("advertised.listeners", &format!("PLAINTEXT://127.0.0.1:{nowhere}")),
    ])?;
    process::wait_for("Kafka's port", BOUND, || Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop)))?;
    let address = address()?;
    let brokers = format!("127.0.0.1:{port}");
    let url = bed()?.store.url();
    let config =
        SinkConfig::new(&brokers, &url, &unique("bucket")).topics(&["camera"]).set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    let message = wait_problem(&mut sink, &address, "kafka.advertised")?;
    ensure!(message.contains(&format!("127.0.0.1:{nowhere}")) && message.contains("advertised.listeners"), "{message}");
    sink.process().kill9()?;
    drop(kafka);
    Ok(())
}

#[test]
fn missing_rights_are_found_by_check_and_shown_while_it_runs() -> Result<()> {
    let port = process::free_port()?;
    let controller = process::free_port()?;
    let listeners = format!("SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
    let jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"admin\" \
                user_admin=\"admin\" user_sink=\"sink\";";
    let kafka = Kafka::start_unready(&[
        ("listeners", &listeners),
        ("controller.quorum.bootstrap.servers", &format!("127.0.0.1:{controller}")),
        ("listener.security.protocol.map", "SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("sasl.enabled.mechanisms", "PLAIN"),
        ("sasl.mechanism.inter.broker.protocol", "PLAIN"),
        ("security.inter.broker.protocol", "SASL_PLAINTEXT"),
        ("listener.name.sasl_plaintext.plain.sasl.jaas.config", jaas),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("super.users", "User:admin;User:ANONYMOUS"),
        ("allow.everyone.if.no.acl.found", "false"),
    ])?;
    let brokers = format!("127.0.0.1:{port}");
    let admin = SaslAdmin::new(&brokers)?;
    process::wait_for("a topic", BOUND, || Ok(admin.create_topic("camera").ok()))?;
    admin.allow("TOPIC", "camera", "DESCRIBE")?;
    admin.allow("GROUP", "sinks", "DESCRIBE")?;
    admin.allow("GROUP", "sinks", "READ")?;
    let url = bed()?.store.url();
    let address = address()?;
    let sasl = |config: SinkConfig| {
        config
            .property("security.protocol", "sasl_plaintext")
            .property("sasl.mechanism", "PLAIN")
            .property("sasl.username", "sink")
            .property("sasl.password", "sink")
    };
    let config = SinkConfig::new(&brokers, &url, &unique("bucket"))
        .topics(&["camera"])
        .set("kafka.group", "sinks")
        .set("status.listen", address.as_str());
    let config = sasl(config);
    let told = check(&config)?;
    ensure!(told.contains("FAILED  topic camera: we may not read it"), "{told}");
    ensure!(told.contains("ok      group sinks"), "{told}");
    let mut sink = Sink::start(&config)?;
    wait_problem(&mut sink, &address, "kafka.topic-denied")?;
    admin.allow("TOPIC", "camera", "READ")?;
    wait_healthy(&mut sink, &address)?;
    sink.stop_cleanly()?;

    // Now the other case.
    let config = config.set("kafka.group", "others");
    let told = check(&config)?;
    ensure!(
        told.contains("ok      topic camera") && told.contains("FAILED  group others: we may not use it"),
        "{told}"
    );
    let mut sink = Sink::start(&config)?;
    wait_problem(&mut sink, &address, "kafka.group-denied")?;
    sink.process().kill9()?;

    // Who may describe the group learns that it may not be read only by joining it.
    admin.allow("GROUP", "others", "DESCRIBE")?;
    let mut sink = Sink::start(&config)?;
    wait_problem(&mut sink, &address, "kafka.group-denied")?;
    admin.allow("GROUP", "others", "READ")?;
    wait_healthy(&mut sink, &address)?;
    sink.stop_cleanly()?;
    drop(kafka);
    Ok(())
}

fn check(config: &SinkConfig) -> Result<String> {
    let folder = process::data_folder("check")?;
    let file = folder.path().join("sink.toml");
    std::fs::write(&file, config.text())?;
    let file = file.to_str().context("a path that is UTF-8")?;
    let output = reduct_sink_testbed::sink::run_to_end(&["check", "--config", file], &[], BOUND)?;
    Ok(String::from_utf8(output.stdout)?)
}

/// An administrator of a Kafka with SASL, which uses the same protocol as Kafka's own tools.
struct SaslAdmin(rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext>);

impl SaslAdmin {
    fn new(brokers: &str) -> Result<Self> {
        let mut config = rdkafka::ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("security.protocol", "sasl_plaintext")
            .set("sasl.mechanism", "PLAIN")
            .set("sasl.username", "admin")
            .set("sasl.password", "admin");
        Ok(Self(config.create()?))
    }

    fn create_topic(&self, name: &str) -> Result<()> {
        use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
        let created = futures::executor::block_on(self.0.create_topics([&topic], &AdminOptions::new()))?;
        match created.into_iter().next() {
            Some(Ok(_)) | Some(Err((_, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            other => bail!("{other:?}"),
        }
    }

    fn allow(&self, kind: &str, name: &str, right: &str) -> Result<()> {
        acl::allow(self.0.inner(), kind, name, right)
    }
}

/// Access control lists, for which rdkafka's safe API has no functions.
mod acl {
    use std::ffi::CString;

    use anyhow::{Result, ensure};
    use rdkafka::bindings as native;
    use rdkafka::client::{Client, DefaultClientContext};

    pub fn allow(client: &Client<DefaultClientContext>, kind: &str, name: &str, right: &str) -> Result<()> {
        let kind = match kind {
            "TOPIC" => native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            _ => native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP,
        };
        let right = match right {
            "READ" => native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ,
            _ => native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_DESCRIBE,
        };
        let (name, user, host) = (CString::new(name)?, CString::new("User:sink")?, CString::new("*")?);
        let mut words = [0; 256];
        // SAFETY: every pointer is valid for its call; what is made here is destroyed here.
        unsafe {
            let binding = native::rd_kafka_AclBinding_new(
                kind,
                name.as_ptr(),
                native::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                user.as_ptr(),
                host.as_ptr(),
                right,
                native::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                words.as_mut_ptr(),
                words.len(),
            );
            ensure!(!binding.is_null(), "librdkafka makes no ACL");
            let queue = native::rd_kafka_queue_new(client.native_ptr());
            let mut bindings = [binding];
            native::rd_kafka_CreateAcls(client.native_ptr(), bindings.as_mut_ptr(), 1, std::ptr::null(), queue);
            let event = native::rd_kafka_queue_poll(queue, 30_000);
            ensure!(!event.is_null(), "no answer to an ACL");
            let error = native::rd_kafka_event_error(event);
            native::rd_kafka_event_destroy(event);
            native::rd_kafka_queue_destroy(queue);
            native::rd_kafka_AclBinding_destroy(binding);
            ensure!(error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR, "{error:?}");
        }
        Ok(())
    }
}

/// A record with a byte that changed on a broker's disk is neither written nor skipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_batch_is_named_and_nothing_behind_it_is_read() -> Result<()> {
    const MARK: &[u8] = b"the-damaged-one";
    let mut kafka = Kafka::start()?;
    let client = kafka.client();
    let topic = unique("damaged");
    client.create_topic(&topic, 1)?;
    // Each call makes at least one batch of its own.
    for n in 0..3 {
        let one = |k| if (n, k) == (1, 3) { MARK.to_vec() } else { payload(10 * n + k, 100).to_vec() };
        client.produce(&topic, (0..6).map(|k| Message::new(one(k))))?;
    }
    kafka.stop()?;
    let log = kafka.data().join(format!("{topic}-0/00000000000000000000.log"));
    let mut bytes = std::fs::read(&log).with_context(|| log.display().to_string())?;
    let at = bytes.windows(MARK.len()).position(|window| window == MARK).context("the record isn't in the log")?;
    bytes[at] ^= 1;
    let (first, last) = batch_of(&bytes, at)?;
    std::fs::write(&log, bytes)?;
    kafka.start_again()?;
    kafka.wait_ready()?;
    let mut store = Store::start()?;
    let address = address()?;
    let config = SinkConfig::new(&kafka.brokers(), &store.url(), &unique("bucket"))
        .topics(&[&topic])
        .set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    let message = wait_problem(&mut sink, &address, "kafka.unreadable")?;
    ensure!(message.contains(&format!("{topic}/0")) && message.contains(&format!("offset {first} ")), "{message}");
    // In this time the host would have continued after the damaged record, if it did that. A host that fetches the batch again and again
    // without a pause keeps a core of the broker busy.
    let (begin, before) = (Instant::now(), kafka.process().cpu_seconds()?);
    std::thread::sleep(Duration::from_secs(15));
    let busy = (kafka.process().cpu_seconds()? - before) / begin.elapsed().as_secs_f64();
    ensure!(busy < 0.3, "the broker was busy for {busy:.2} of the time");
    ensure!(status(&address)?["partitions"][0]["position"] == first, "{}", status(&address)?);
    // Where the partition begins again, because the store restarted, it is read up to the batch again.
    store.restart()?;
    process::wait_for("a re-read", BOUND, || {
        sink.process().expect_running()?;
        let found = format!("reduct_sink_records_found_total {first}");
        Ok(get(&address, "/metrics")?.1.lines().any(|line| line == found).then_some(()))
    })?;
    sink.stop_cleanly()?;
    let stored = reduct_sink_testbed::read_back(&store.client()?, config.bucket(), "*").await?;
    ensure!(
        stored.len() as u64 == first,
        "{} records are stored, expected those before the damaged batch",
        stored.len()
    );

    // With the other policy the host stops.
    let mut sink = Sink::start(&config.clone().set("kafka.on_unreadable", "stop"))?;
    let ended = sink.process().wait(BOUND)?;
    ensure!(!ended.success() && sink.log()?.contains("can't be read"), "{ended}: {}", sink.log()?);

    // And the third one: exactly the damaged batch is left out, and told.
    let config = config.set("kafka.on_unreadable", "skip");
    let mut sink = Sink::start(&config)?;
    let message = wait_problem(&mut sink, &address, "kafka.skipped")?;
    let count = last + 1 - first;
    ensure!(message.contains(&format!("{topic}/0: {count} offsets")), "{message}");
    ensure!(message.contains(&format!("{first} to {last} last")), "{message}");
    sink.wait_caught_up(&client, config.group(), &[&topic], BOUND)?;
    ensure!(get(&address, "/metrics")?.1.contains(&format!("reduct_sink_skipped_offsets_total {count}")));
    sink.wait_log("kafka.on_unreadable is \"skip\"", BOUND)?;
    sink.stop_cleanly()?;
    let stored = reduct_sink_testbed::read_back(&store.client()?, config.bucket(), "*").await?;
    let mut offsets = Vec::new();
    for record in &stored {
        offsets.push(record.label("kafka.offset").context("an offset")?.parse::<u64>()?);
    }
    offsets.sort_unstable();
    ensure!(offsets == (0..first).chain(last + 1..18).collect::<Vec<_>>(), "{offsets:?} are stored");
    Ok(())
}

/// The first and the last offset of the batch that holds this byte of a log's file. Source: Kafka's format of a record batch.
fn batch_of(log: &[u8], byte: usize) -> Result<(u64, u64)> {
    let mut at = 0;
    while let Some(header) = log.get(at..at + 61) {
        let first = u64::from_be_bytes(header[..8].try_into()?);
        let end = at + 12 + u32::from_be_bytes(header[8..12].try_into()?) as usize;
        if byte < end {
            return Ok((first, first + u64::from(u32::from_be_bytes(header[23..27].try_into()?))));
        }
        at = end;
    }
    anyhow::bail!("no batch holds byte {byte}")
}

#[test]
fn a_store_that_is_away_is_shown_with_its_reason() -> Result<()> {
    let mut store = Store::start()?;
    let kafka = bed()?.kafka.client();
    let topic = unique("storeless");
    kafka.create_topic(&topic, 1)?;
    let address = address()?;
    let config = SinkConfig::new(&bed()?.kafka.brokers(), &store.url(), &unique("bucket"))
        .topics(&[&topic])
        .set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    wait_healthy(&mut sink, &address)?;
    store.kill9()?;
    kafka.produce(&topic, (0..10).map(|n| Message::new(payload(n, 100))))?;
    let message = wait_problem(&mut sink, &address, "store")?;
    ensure!(message.contains("can't be written to ReductStore") && message.contains("nothing is lost"), "{message}");
    process::wait_until("the retries to be counted", SHOWN_WITHIN, || {
        let metrics = get(&address, "/metrics")?.1;
        let retries = metrics
            .lines()
            .find_map(|line| line.strip_prefix("reduct_sink_store_retries_total{class=\"unavailable\"} "));
        ensure!(retries.is_some_and(|count| count.parse().is_ok_and(|count: u64| count > 0)), "{metrics}");
        Ok(())
    })?;
    ensure!(get(&address, "/livez")?.0 == 200 && get(&address, "/readyz")?.0 == 503);
    store.start_again()?;
    wait_healthy(&mut sink, &address)?;
    sink.stop_cleanly()
}
