//! Headers → labels: whatever a producer sends becomes labels that are safe, and the headers can be told from them.
#![no_main]

use std::collections::HashMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reduct_sink::dead_letters::format::{identity_of_headers, read};
use reduct_sink::record::labels::{LabelRules, Original, read_identity, read_original, read_text, whole_text};
use reduct_sink::record::{LabelChange, OutputRecord, Rejection};
use reduct_sink_fuzz::{Input, is_safe_label, record};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let record = Arc::new(record(&mut input));
    let whole = Original { key: record.key.clone(), headers: record.headers.clone() };
    let mut output = OutputRecord::unchanged(record.clone());
    let rules = LabelRules::default();
    let labels = rules.all_labels(&output);
    for (name, value) in &labels {
        assert!(is_safe_label(name, value), "{name:?}: {value:?}");
    }
    assert_eq!(read_original(&labels).as_ref(), Ok(&whole));
    assert_eq!(read_text(&whole_text(&record)).as_ref(), Ok(&whole));
    assert_eq!(read_identity(&labels), Some(output.identity()));
    // What plugins set on top, and what a dead letter says of it.
    while !input.0.is_empty() {
        let change = LabelChange { name: input.text(), value: (input.byte() & 1 == 1).then(|| input.text()) };
        output.labels.add(vec![change]);
    }
    let changed = rules.record_labels(&output);
    assert!(changed.keys().all(|name| !name.starts_with("kafka.") && !name.starts_with("sink.")), "{changed:?}");
    for (name, value) in rules.all_labels(&output) {
        assert!(is_safe_label(&name, &value), "{name:?}: {value:?}");
    }
    let reason = Rejection { reason: String::from_utf8_lossy(bytes).into_owned(), plugin: None };
    let letter = output.rejected(reason);
    let labels = rules.all_labels(&letter);
    for (name, value) in &labels {
        assert!(is_safe_label(name, value), "{name:?}: {value:?}");
    }
    let back = read(&labels, letter.payload()).expect("it is a dead letter").expect("it can be read");
    assert_eq!(back.input, *record);
    // Bytes of others, as they may stand in a bucket or a topic.
    let _ = read_text(&String::from_utf8_lossy(bytes));
    let headers = record.headers.iter().map(|header| (&*header.key, header.value.as_deref()));
    let _ = identity_of_headers(headers);
    let foreign = record.headers.iter().map(|header| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&header.key), text(header.value.as_deref().unwrap_or_default()))
    });
    let mut foreign: HashMap<String, String> = foreign.collect();
    let _ = (read_original(&foreign), read_identity(&foreign), read(&foreign, letter.payload()));
    foreign.extend(labels);
    let _ = read(&foreign, letter.payload());
});
