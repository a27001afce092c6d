//! Tests the plugin `fields` with schemas from a granted directory, and over HTTP from a registry.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Message, Sink, bed, guest as components, process, read_back, unique};

use super::BOUND;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/fields/fixtures").join(name)
}

/// A payload with the prefix of a schema registry.
fn prefixed(id: u32, numbers: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], numbers, payload].concat()
}

/// Answers `/schemas/ids/7` with this text and everything else with 404, for as long as the test runs.
fn registry(text: String) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(match stream.try_clone() {
                Ok(stream) => stream,
                Err(_) => return,
            })
            .lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
            let (status, body) = match first.contains(" /schemas/ids/7?format=serialized ") {
                true => ("200 OK", text.as_str()),
                false => ("404 Not Found", "{}"),
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    Ok(port)
}

/// Runs `fields` with these keys over records; every second one must become a dead letter for the reason.
async fn run(keys: &str, known: Vec<u8>, unknown: Vec<u8>, reason: &str) -> Result<()> {
    let bed = bed()?;
    let topic = unique("schemas");
    bed.kafka.client().create_topic(&topic, 1)?;
    let payloads = (0..20).map(|n| if n % 2 == 0 { known.clone() } else { unknown.clone() });
    bed.kafka.client().produce(&topic, payloads.map(Message::new))?;
    let config = bed.sink_config(&topic).plugin_with("fields", &components::plugin("fields")?, keys)?;
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&bed.kafka.client(), config.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()?;
    let client = bed.store.client()?;
    let stored = read_back(&client, config.bucket(), &topic).await?;
    ensure!(stored.len() == 10, "{} stored: {}", stored.len(), sink.log()?);
    for stored in &stored {
        ensure!(stored.label("camera") == Some("left %C3%A9") && stored.label("schema") == Some("7"), "{stored:?}");
        ensure!(stored.timestamp_us / 1_000_000 == 1_700_000_000, "{stored:?}");
    }
    let letters = read_back(&client, config.bucket(), "dead-letters/*").await?;
    ensure!(letters.len() == 10, "{} dead letters", letters.len());
    for letter in &letters {
        let found = letter.label("sink.reason").context("a reason")?;
        ensure!(found.contains(reason), "{found}");
    }
    Ok(())
}

const LABELS: &str = "schema_id = \"schema\"\nlabels = { camera = \"payload:camera\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn avro_by_schemas_in_a_granted_directory() -> Result<()> {
    let folder = process::data_folder("schemas")?;
    std::fs::copy(fixture("frame.avsc"), folder.path().join("7.avsc"))?;
    let keys = format!(
        "[config]\nformat = \"avro\"\nschema = \"/schemas/{{id}}.avsc\"\n{LABELS}\
         timestamp = {{ field = \"payload:stamp\", unit = \"ros\" }}\n\
         [grants]\ndirectories = [{{ path = {:?}, guest = \"/schemas\" }}]\n",
        folder.path().display().to_string()
    );
    let frame = std::fs::read(fixture("frame.avro"))?;
    let (known, unknown) = (prefixed(7, &[], &frame), prefixed(8, &[], &frame));
    run(&keys, known, unknown, "schema 8: there is no file /schemas/8.avsc").await
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_by_schemas_of_a_registry() -> Result<()> {
    let port = registry(std::fs::read_to_string(fixture("registry.json"))?)?;
    let keys = format!(
        "[config]\nformat = \"protobuf\"\nschema = \"http://127.0.0.1:{port}/schemas/ids/{{id}}?format=serialized\"\n{LABELS}\
         timestamp = {{ field = \"payload:header.stamp\", unit = \"ros\" }}\n\
         [grants]\nhttp = [\"127.0.0.1:{port}\"]\n"
    );
    let frame = std::fs::read(fixture("frame.pb"))?;
    // Frame is the third message of the file.
    let (known, unknown) = (prefixed(7, &[2, 4], &frame), prefixed(8, &[2, 4], &frame));
    run(&keys, known, unknown, "answers 404").await
}
