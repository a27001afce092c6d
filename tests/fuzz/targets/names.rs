//! Names: of entries as plugins choose them, of topics, and templates. What is accepted is legal in ReductStore.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reduct_sink::record::TopicPartition;
use reduct_sink::record::entry_name::{EntryName, Naming, Template, topic_segment};
use reduct_sink_fuzz::Input;

fn is_legal(entry: &str) -> bool {
    let in_entry = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/');
    entry.bytes().all(in_entry) && entry.split('/').all(|segment| !segment.is_empty() && segment.len() <= 255)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let (name, template, topic) = (input.text(), input.text(), input.text());
    if let Ok(entry) = EntryName::parse(&name) {
        assert!(is_legal(entry.as_str()), "{entry:?}");
    }
    // Kafka's rule for topics.
    let in_topic = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_topic =
        !topic.is_empty() && topic.len() <= 249 && topic.bytes().all(in_topic) && topic != "." && topic != "..";
    let source = TopicPartition { topic: if is_topic { topic.as_str().into() } else { "t".into() }, partition: 3 };
    if is_topic && topic_segment(&topic).len() <= 255 {
        assert!(is_legal(&topic_segment(&topic)), "{topic:?}");
    }
    let Ok(template) = Template::parse(&template) else { return };
    if let Ok(entry) = template.render(&name, &source) {
        assert!(is_legal(entry.as_str()), "{entry:?}");
    }
    let _ = (template.shares_entries(2, true), Naming::configured(&template));
});
