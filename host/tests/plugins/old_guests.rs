//! Tests that components which were built for an earlier version of the contract still run on this host.
//!
//! Each folder of `host/tests/old_guests/` is for one version of the contract. It has `guest.wasm`, which is never built again,
//! and the source from which it was built.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use reduct_sink::chain::{Chain, Outcome, SharedChain};
use reduct_sink::config::{PluginConfig, PluginSource};
use reduct_sink::plugin::Digest;
use reduct_sink::record::labels::LabelRules;
use reduct_sink::record::{Header, InputRecord, OutputRecord, TopicPartition};

use crate::bed::{PATIENCE, runtime};

const DIGEST: &str = "439521215f4da805da715d9a734deea9a1be577f1f384e6c1a12fbac75391407";

fn guest() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/old_guests/v0.1.0/guest.wasm")
}

fn chain() -> Chain {
    let plugin = PluginConfig { timeout: PATIENCE, ..PluginConfig::new("old", PluginSource::File(guest())) };
    Chain::new(SharedChain::load(runtime(), &[plugin]).unwrap()).unwrap()
}

fn record(told_to: &'static str) -> Arc<InputRecord> {
    let header = |key: &'static str, value: Option<&'static str>| Header {
        key: Bytes::from_static(key.as_bytes()),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    };
    Arc::new(InputRecord {
        source: TopicPartition { topic: "line.7".into(), partition: 2 },
        topic_id: None,
        offset: 5,
        timestamp_ms: Some(1_700_000_000_000),
        key: Some(Bytes::from_static(b"key")),
        headers: vec![header("do", Some(told_to)), header("null", None)],
        payload: Some(Bytes::from_static(b"0123456789")),
    })
}

fn outputs(outcome: Outcome) -> Vec<OutputRecord> {
    match outcome {
        Outcome::Outputs(outputs) => outputs,
        other => panic!("{other:?}"),
    }
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::DeadLetter(failure) | Outcome::Retry(failure) => failure.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_the_one_that_was_built_then() {
    assert_eq!(Digest::of(&std::fs::read(guest()).unwrap()).to_string(), DIGEST);
}

#[test]
fn every_verdict_of_a_guest_of_0_1_0_is_understood() {
    let mut chain = chain();
    let kept = outputs(chain.transform(&record("keep")));
    assert!(kept.len() == 1 && kept.iter().all(|kept| kept.entry.is_none() && kept.payload.is_none()));
    assert!(matches!(chain.transform(&record("drop")), Outcome::Dropped));
    let parts = outputs(chain.transform(&record("split")));
    let payloads: Vec<Bytes> = parts.iter().map(OutputRecord::payload).collect();
    assert_eq!(payloads, ["0123", "4567", "89"]);
    assert_eq!(parts.iter().map(|part| part.index).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    let retried = chain.transform(&record("retry"));
    assert!(matches!(&retried, Outcome::Retry(failure) if failure.reason == "not now"), "{retried:?}");
    assert!(reason(chain.transform(&record("sing"))).contains("sing"));
    // The panic ends the instance; a new instance decides about the next record.
    assert!(reason(chain.transform(&record("panic"))).contains("trap"));
    assert!(matches!(chain.transform(&record("drop")), Outcome::Dropped));
}

#[test]
fn every_function_of_the_host_answers_a_guest_of_0_1_0() {
    let changed = outputs(chain().transform(&record("change")));
    let [changed] = changed.as_slice() else { panic!("{changed:?}") };
    let told = String::from_utf8(changed.payload().to_vec()).unwrap();
    assert_eq!(
        told,
        "line.7/2@5 at 1700000000000000 key key headers do null size 10 entry line_2E7 labels do type \"\" read \
         \"234\""
    );
    assert_eq!(changed.entry.as_deref(), Some("old/guest"));
    assert_eq!(changed.timestamp_us, Some(1_700_000_000_000_001));
    assert_eq!(changed.content_type.as_deref(), Some("text/plain"));
    let labels: Vec<(String, String)> = LabelRules::default().record_labels(changed).into_iter().collect();
    assert_eq!(labels, [("old".into(), "1".into())]);
}

#[test]
fn its_refusal_of_a_configuration_is_told() {
    let plugin =
        PluginConfig { config: r#"{"label": ""}"#.into(), ..PluginConfig::new("old", PluginSource::File(guest())) };
    let error = runtime().load(&plugin).unwrap_err().to_string();
    assert!(error.contains("label: found \"\", expected a name"), "{error}");
}
