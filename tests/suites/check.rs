//! Tests `reduct-sink check` on the real servers: it reports each kind of refusal with its remedy, and checks
//! everything else all the same.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use reduct_rs::Permissions;
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Bed, Sink, SinkConfig, Store, bed, guest as components, process, unique};

use crate::guest::Guest;

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_token_is_told_what_it_lacks() -> Result<()> {
    let store = Store::start_with(Some("right"), &[])?;
    let client = store.client()?;
    client.create_bucket("kafka").send().await?;
    let token = async |name: &str, read: &[&str], write: &[&str]| {
        let list = |buckets: &[&str]| buckets.iter().map(ToString::to_string).collect();
        client.create_token(name, Permissions { full_access: false, read: list(read), write: list(write) }).await
    };
    let cases = [
        (token("reader", &["kafka"], &[]).await?, "kafka", "FAILED  store: the token \"reader\" lacks write access"),
        (token("writer", &[], &["kafka"]).await?, "kafka", "FAILED  store: the token \"writer\" lacks read access"),
        (token("both", &["ka*"], &["kafka"]).await?, "kafka", "ok      bucket kafka: there"),
        (
            token("both-2", &["*"], &["*"]).await?,
            "new",
            "FAILED  store: there is no bucket \"new\", and the token \"both-2\"",
        ),
        ("right".into(), "new", "ok      bucket new: not there, will be created"),
        ("wrong".into(), "kafka", "FAILED  store: the store refuses the token"),
    ];
    for (token, bucket, expected) in &cases {
        let (code, told) = check_store(bed()?, &store.url(), bucket, Some(token))?;
        assert_eq!(code, Some(if expected.starts_with("ok") { 0 } else { 4 }), "{told}");
        assert!(told.contains(expected), "expected {expected:?} in:\n{told}");
    }
    let (code, told) = check_store(bed()?, &store.url(), "kafka", None)?;
    assert!(code == Some(4) && told.contains("FAILED  store: the store wants a token and none is set"), "{told}");
    // The server makes `$system` for its own events within seconds of its start, whether it is asked anything or not.
    let buckets = client.bucket_list().await?.buckets.into_iter().map(|bucket| bucket.name);
    let ours: Vec<String> = buckets.filter(|name| !name.starts_with('$')).collect();
    assert_eq!(ours, ["kafka"], "check creates nothing");
    Ok(())
}

#[test]
fn what_is_no_store_is_told_so() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // This thread ends with the process.
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let (code, told) = check_store(bed()?, &format!("http://127.0.0.1:{port}"), "kafka", None)?;
    assert!(code == Some(4) && told.contains("isn't a ReductStore"), "{told}");

    let tls = bed()?.store.url().replace("http:", "https:");
    let (code, told) = check_store(bed()?, &tls, "kafka", None)?;
    assert!(
        code == Some(4) && told.contains("doesn't speak TLS") && told.contains("correct the port in store.url"),
        "{told}"
    );
    Ok(())
}

#[test]
fn kafka_that_refuses_or_lacks_a_topic_is_told_so_and_the_store_is_asked_all_the_same() -> Result<()> {
    let bed = bed()?;
    let topic = unique("there");
    bed.kafka.client().create_topic(&topic, 3)?;
    let (brokers, url) = (bed.kafka.brokers(), bed.store.url());
    let flags = ["check", "--brokers", &brokers, "--url", &url, "--bucket", "kafka", "--topic", &topic];

    let sasl = ["security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN", "sasl.username=a", "sasl.password=geheim"];
    let args: Vec<&str> = flags.into_iter().chain(sasl.iter().flat_map(|property| ["--property", property])).collect();
    let (code, told) = run(&args)?;
    assert!(code == Some(4) && told.contains("FAILED  kafka:") && told.contains("refuses us"), "{told}");
    assert!(told.contains("ok      store:") && !told.contains("geheim"), "{told}");

    let args = [&flags[..], &["--topic", "no-such-topic", "--topic", "^no-such-.*"]].concat();
    let (code, told) = run(&args)?;
    assert_eq!(code, Some(4), "{told}");
    for expected in [
        format!("ok      topic {topic}: {topic}, 3 partitions"),
        "FAILED  topic no-such-topic: there is no such topic".into(),
        "FAILED  topic ^no-such-.*: the pattern matches none".into(),
        "ok      store: ReductStore".into(),
    ] {
        assert!(told.contains(&expected), "expected {expected:?} in:\n{told}");
    }
    Ok(())
}

/// Mistakes that only a server can notice: `check` reports each with its exit code, its place and the remedy.
#[test]
fn each_mistake_that_a_server_answers_has_its_remedy() -> Result<()> {
    let bed = bed()?;
    let topic = unique("mistakes");
    bed.kafka.client().create_topic(&topic, 1)?;
    let (brokers, url) = (bed.kafka.brokers(), bed.store.url());
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let flags = |brokers: &str, url: &str, more: &[&str]| -> Result<(Option<i32>, String)> {
        let common = ["check", "--brokers", brokers, "--url", url, "--bucket", "kafka", "--topic", &topic];
        run(&[&common[..], more].concat())
    };
    let (closed, is_kafka) = (format!("http://{nobody}"), format!("http://{brokers}"));
    for ((code, told), expected, parts) in [
        (flags(&nobody, &url, &[])?, 4, &["FAILED  kafka: ", &nobody, "check"] as &[&str]),
        (flags(&brokers, &closed, &[])?, 4, &["FAILED  store: ", &nobody, "start ReductStore, or correct the port"]),
        (flags(&brokers, &is_kafka, &[])?, 4, &["FAILED  store: ", "check"]),
        (
            run_with(
                &["check", "--brokers", &brokers, "--url", &url, "--bucket", "kafka", "--topic", &topic],
                &[("REDUCT_SINK_DEAD_LETTERS_TOPIC", "no-such-letters")],
            )?,
            4,
            &[
                "FAILED  dead-letter topic no-such-letters: there is no such topic; create it, or correct dead_letters.topic",
            ],
        ),
        (
            flags(&brokers, &url, &["--status", &taken])?,
            2,
            &["FAILED  status: cannot listen on ", "set status.listen to"],
        ),
    ] {
        assert_eq!(code, Some(expected), "{told}");
        for part in parts {
            assert!(told.contains(part), "expected {part:?} in:\n{told}");
        }
    }
    Ok(())
}

/// What only the plugin itself can say of its configuration, and what the host says of one that it cannot start.
#[test]
fn a_plugin_that_cannot_be_loaded_is_told_with_its_name_and_remedy() -> Result<()> {
    let folder = process::data_folder("check")?;
    let filter = components::plugin("filter")?;
    let hungry = folder.path().join("hungry.wasm");
    // Ten pages of 64 KB more than a plugin of 1 MB may have.
    std::fs::write(
        &hungry,
        Guest::new("(call $keep)")
            .replacing("(memory (export \"memory\") 4)", "(memory (export \"memory\") 26)")
            .build(),
    )?;
    for (name, path, keys, expected) in [
        (
            "filter",
            &filter,
            "config = { onmatch = 'drop' }",
            &["plugin `filter`", "onmatch", "on_match", "change the plugin's `config`"][..],
        ),
        (
            "filter",
            &filter,
            "config = { on_match = 'drop', rules = [{ field = 'kay', equals = 'x' }] }",
            &["plugin `filter`", "unknown field \"kay\"", "header:KEY", "change the plugin's `config`"],
        ),
        ("hungry", &hungry, "memory = '1MB'", &["plugin `hungry`", "raise `plugins.memory`"]),
    ] {
        let config = SinkConfig::new("127.0.0.1:1", "http://127.0.0.1:1", "b").topics(&["t"]);
        let file = folder.path().join("sink.toml");
        std::fs::write(&file, config.plugin_with(name, path, keys)?.text())?;
        let (code, told) = run(&["check", "--offline", "--config", &file.display().to_string()])?;
        assert_eq!(code, Some(3), "{told}");
        for part in expected {
            assert!(told.contains(part), "expected {part:?} in:\n{told}");
        }
    }
    Ok(())
}

/// Before the first record is written, `check` shows the complete entry names, the labels as a query names them, and
/// warns of templates with which the group can have only one host.
#[test]
fn entries_and_labels_are_shown_as_they_will_be_stored() -> Result<()> {
    let bed = bed()?;
    let topic = unique("shown.as");
    bed.kafka.client().create_topic(&topic, 3)?;
    let entry = topic.replace('.', "_2E");
    let (brokers, url) = (bed.kafka.brokers(), bed.store.url());
    let flags = ["check", "--brokers", &brokers, "--url", &url, "--bucket", "kafka", "--topic", &topic];
    let (code, told) = run(&flags)?;
    let shown = format!(
        "entries of {topic}: {entry}/0 to {entry}/2; an entry ENTRY that a plugin chooses becomes ENTRY/0 to ENTRY/2"
    );
    assert!(code == Some(0) && told.contains(&shown), "expected {shown:?} in:\n{told}");
    let labels = "labels: deviceid=d1 kafka.headers=";
    assert!(told.contains(labels) && told.contains(" kafka.source=TOPIC/0 traceparent=00-1 "), "{told}");
    assert!(!told.contains("a second host"), "{told}");
    for entry in ["fixed", "{name}"] {
        let (code, told) = run(&[&flags[..], &["--entry", entry]].concat())?;
        assert!(code == Some(0) && told.contains("a second host of this group will refuse"), "{entry}: {told}");
    }
    let (code, told) = run(&[&flags[..], &["--entry", "all/{topic}/{partition}"]].concat())?;
    assert!(code == Some(0) && !told.contains("a second host"), "{told}");
    Ok(())
}

/// `run` reports at its start what `check` would report. It ends if a broker refuses it, and waits for a broker that
/// can't be reached.
#[test]
fn run_says_at_its_start_what_is_wrong_with_kafka() -> Result<()> {
    let bed = bed()?;
    let topic = unique("start");
    bed.kafka.client().create_topic(&topic, 1)?;
    let (brokers, url) = (bed.kafka.brokers(), bed.store.url());
    let flags = ["--url", &url, "--bucket", "kafka", "--topic", &topic, "--brokers"];
    let sasl = ["security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN", "sasl.username=a", "sasl.password=geheim"];
    let sasl = sasl.iter().flat_map(|property| ["--property", property]);
    let (code, told) = run(&["run"].into_iter().chain(flags).chain([&*brokers]).chain(sasl).collect::<Vec<_>>())?;
    assert!(code == Some(4) && told.contains("refuses us") && !told.contains("geheim"), "{told}");

    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let address = crate::operate::address()?;
    let mut sink = Sink::start_with(&[&flags[..], &[&nobody, "--status", &address]].concat(), &[])?;
    sink.wait_log(&format!("Kafka at {nobody} can't be reached"), BOUND)?;
    sink.wait_log("Connection refused", BOUND)?;
    // There is no configuration to be read again yet.
    sink.process().signal(libc::SIGHUP)?;
    // Nobody kills it for that, and everybody is told what it waits for.
    let ask = |path: &str| crate::operate::get(&address, path);
    assert_eq!(ask("/livez")?.0, 200);
    for path in ["/readyz", "/health"] {
        process::wait_until("what it waits for", BOUND, || {
            let (code, told) = ask(path)?;
            let waits = format!("it waits for an answer of Kafka at {nobody}");
            ensure!(code == 503 && told.contains("host.starting") && told.contains(&waits), "{path} {code} {told}");
            Ok(())
        })?;
    }
    let (code, told) = run(&["pause", "--status", &address])?;
    assert!(code == Some(1) && told.contains("the host isn't running yet"), "{code:?} {told}");
    sink.process().expect_running()?;
    // A stop during the start is a clean stop.
    sink.stop_cleanly()?;
    Ok(())
}

/// The same with a store that is away.
#[test]
fn a_host_that_waits_for_its_store_says_so() -> Result<()> {
    let bed = bed()?;
    let topic = unique("start");
    bed.kafka.client().create_topic(&topic, 1)?;
    let (brokers, address) = (bed.kafka.brokers(), crate::operate::address()?);
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let flags = ["--url", &url, "--bucket", "kafka", "--topic", &topic, "--brokers", &brokers, "--status", &address];
    let mut sink = Sink::start_with(&flags, &[])?;
    let waits = format!("it waits for ReductStore at {url}");
    process::wait_for("what it waits for", BOUND, || {
        sink.process().expect_running()?;
        let Ok((code, told)) = crate::operate::get(&address, "/readyz") else { return Ok(None) };
        Ok((code == 503 && told.contains("host.starting") && told.contains(&waits)).then_some(()))
    })?;
    assert_eq!(crate::operate::get(&address, "/livez")?.0, 200);
    sink.stop_cleanly()
}

/// Checks a store, with the shared Kafka and an existing topic.
fn check_store(bed: &Bed, url: &str, bucket: &str, token: Option<&str>) -> Result<(Option<i32>, String)> {
    let topic = unique("check-store");
    bed.kafka.client().create_topic(&topic, 1)?;
    let brokers = bed.kafka.brokers();
    let mut args = vec!["check", "--brokers", &brokers, "--topic", &topic, "--url", url, "--bucket", bucket];
    args.extend(token.iter().flat_map(|token| ["--token", token]));
    run(&args)
}

/// Runs the command. Returns its exit code and its output.
fn run(args: &[&str]) -> Result<(Option<i32>, String)> {
    run_with(args, &[])
}

fn run_with(args: &[&str], environment: &[(&str, &str)]) -> Result<(Option<i32>, String)> {
    let output = run_to_end(args, environment, BOUND)?;
    let (report, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code(), format!("{report}{errors}")))
}
