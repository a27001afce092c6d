//! fields: sets labels, entry, timestamp and content type from fields of the payload, and drops records by them.
//!
//! Guarantees: a payload is read only if one of its fields is needed, and JSON and CSV only as far as the last needed
//! field; the payload itself is never changed; a label holds all bytes of its field.

mod avro;
mod avro_schema;
mod config;
mod csv;
mod extract;
mod fetch;
mod json;
mod name;
mod payload;
mod protobuf;
mod protobuf_schema;
mod scan;
mod schemas;
mod time;
mod value;
mod view;

use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict, plugin};

use config::{Config, Settings};
use payload::Problem;
use view::View;

/// The plugin: its settings, ready for use.
pub struct Fields(Settings);

impl Transform for Fields {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        config.prepare().map(Self)
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        let Self(settings) = self;
        let view = View::new(record, &settings.payload);
        let verdict = decide(settings, &view);
        match view.problem() {
            None => verdict,
            // Another attempt may find the schema, so a payload that was not read yet doesn't count as unreadable.
            Some(Problem::Away(text)) => Err(Failure::Retry(text.clone())),
            Some(_) if settings.keeps_unreadable() => Ok(Verdict::Keep),
            Some(problem) => Err(Failure::Reject(problem.text().into())),
        }
    }
}

/// The verdict about a record whose payload could be read.
fn decide(settings: &Settings, view: &View<'_>) -> Result<Verdict, Failure> {
    if settings.filter.as_ref().is_some_and(|filter| !filter.keeps(view)) {
        return Ok(Verdict::Drop);
    }
    let mut change = Change::new();
    for (name, source) in &settings.labels {
        if let Some(value) = source.label(view)? {
            change = change.set_label(name, value);
        }
    }
    if let Some(name) = &settings.schema_id
        && let Some(id) = view.schema_id()
    {
        change = change.set_label(name, id.to_string());
    }
    if let Some(entry) = &settings.entry {
        change.entry = entry.render(view)?;
    }
    if let Some(content_type) = &settings.content_type {
        change.content_type = content_type.render(view)?;
    }
    if let Some(timestamp) = &settings.timestamp {
        change.timestamp = timestamp.microseconds(view)?;
    }
    Ok(change.into())
}

plugin!(Fields);

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
