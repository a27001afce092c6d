//! A line of the log as one JSON object.
//!
//! Guarantees: lists are lists and numbers are numbers; a duration is a number of milliseconds in a field whose name ends in
//! `_ms`; a field never replaces `timestamp`, `level`, `target` or `message` of the line.

use std::fmt;

use reduct_sink::config::threads;
use serde_json::{Map, Number, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let mut line = Fields(Map::new());
        for (name, text) in
            [("timestamp", &*timestamp), ("level", metadata.level().as_str()), ("target", metadata.target())]
        {
            line.0.insert(name.into(), text.into());
        }
        if let Some(pipeline) = threads::pipeline() {
            line.0.insert("pipeline".into(), Value::String(pipeline.to_string()));
        }
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.entry(field.name().trim_start_matches("r#")).or_insert_with(|| value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            return self.put(field, text);
        }
        if let Some(milliseconds) = milliseconds(&text) {
            let name = format!("{}_ms", field.name());
            self.0.entry(name).or_insert(Value::Number(milliseconds));
        } else {
            self.put(field, structured(text));
        }
    }
}

/// A list or a quoted text as Rust's `Debug` writes them is JSON in all ordinary cases; anything else stays text.
fn structured(text: String) -> Value {
    let parsed = if text.starts_with(['[', '"']) { serde_json::from_str(&text).ok() } else { None };
    parsed.unwrap_or(Value::String(text))
}

/// A duration as Rust's `Debug` writes it: `11.355092886s`, `361.1µs`.
fn milliseconds(text: &str) -> Option<Number> {
    let units = [("ns", 1e-6), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let (number, scale) = units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| is_number)?;
    // Whole microseconds, so that the product has no rounding tail.
    Number::from_f64((number * scale * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn logged(log: impl FnOnce()) -> Value {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).event_format(JsonLines).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = lines.0.lock().unwrap().clone();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn lists_numbers_and_durations_are_what_they_are() {
        let line = logged(|| {
            tracing::info!(
                topics = ?["a", "b\n"], took = ?Duration::from_micros(1_500), start = ?Duration::from_secs(90),
                short = ?Duration::from_nanos(361_100), empty = ?Vec::<u32>::new(), count = 3_u64, is_right = true,
                error = %"[not json", target_like = %"9s later", "done"
            );
        });
        let fields = [
            ("topics", serde_json::json!(["a", "b\n"])),
            ("took_ms", 1.5.into()),
            ("start_ms", 90_000.0.into()),
            ("short_ms", 0.361.into()),
            ("empty", serde_json::json!([])),
            ("count", 3.into()),
            ("is_right", true.into()),
            ("error", "[not json".into()),
            ("target_like", "9s later".into()),
            ("message", "done".into()),
            ("level", "INFO".into()),
        ];
        for (name, value) in fields {
            assert_eq!(line[name], value, "{name} in {line}");
        }
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn a_line_names_the_pipeline_that_its_thread_belongs_to() {
        let line = logged(|| threads::within(Some("cameras".into()), || tracing::info!("x")));
        assert_eq!(line["pipeline"], "cameras");
        assert!(logged(|| tracing::info!("x")).get("pipeline").is_none());
    }

    #[test]
    fn a_field_does_not_replace_the_level() {
        assert_eq!(logged(|| tracing::warn!(level = "none", "x"))["level"], "WARN");
    }
}
