//! Headers → labels: whatever a producer sends becomes labels that are safe, and the headers can be told from them.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reduct_sink::dead_letters::format::{body_with_headers, dead_letter, identity_of_headers, read};
use reduct_sink::record::labels::{all_labels, decode_name, decode_value, encode_value, read_headers, read_identity};
use reduct_sink::record::{Header, LabelChange, OutputRecord, Rejection};
use reduct_sink_fuzz::{Input, is_safe_label, record};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let record = Arc::new(record(&mut input));
    let mut output = OutputRecord::unchanged(record.clone());
    let labels = all_labels(&output, true);
    for (name, value) in &labels {
        assert!(is_safe_label(name, value), "{name:?}: {value:?}");
    }
    let sorted = |mut headers: Vec<Header>| {
        headers.sort_by(|a, b| (&a.key, &a.value).cmp(&(&b.key, &b.value)));
        headers
    };
    assert_eq!(sorted(read_headers(&labels)), sorted(record.headers.clone()));
    assert_eq!(read_identity(&labels), Some(output.identity()));
    if let Some(key) = &record.key {
        assert_eq!(decode_value(&encode_value(Some(key))).as_ref(), Some(key));
    }
    // What plugins set on top, and what a dead letter says of it.
    while !input.0.is_empty() {
        let change = LabelChange { name: input.text(), value: (input.byte() & 1 == 1).then(|| input.text()) };
        output.labels.push(change);
    }
    for (name, value) in all_labels(&output, true) {
        assert!(is_safe_label(&name, &value), "{name:?}: {value:?}");
    }
    let reason = Rejection { reason: String::from_utf8_lossy(bytes).into_owned(), plugin: None };
    let letter = dead_letter(&output, reason);
    let labels = all_labels(&letter, true);
    for (name, value) in &labels {
        assert!(is_safe_label(name, value), "{name:?}: {value:?}");
    }
    let back = read(&labels, letter.payload()).expect("it is a dead letter").expect("it can be read");
    assert_eq!(sorted(back.input.headers), sorted(record.headers.clone()));
    assert_eq!((&back.input.key, back.input.offset), (&record.key, record.offset));
    let _ = body_with_headers(&letter);
    // Bytes of others, as they may stand in a bucket or a topic.
    let text = String::from_utf8_lossy(bytes);
    let _ = (decode_name(&text), decode_value(&text));
    let headers = record.headers.iter().map(|header| (&*header.key, header.value.as_deref()));
    let _ = identity_of_headers(headers);
    let foreign = record.headers.iter().map(|header| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&header.key), text(header.value.as_deref().unwrap_or_default()))
    });
    let mut foreign: std::collections::HashMap<String, String> = foreign.collect();
    let _ = (read_headers(&foreign), read_identity(&foreign), read(&foreign, letter.payload()));
    foreign.extend(labels);
    let _ = read(&foreign, letter.payload());
});
