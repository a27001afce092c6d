//! A guest that uses all of contract 0.1.0: each function of the host, and each verdict and failure, chosen by the header
//! `do`. Its component, built once, is beside this folder and is never built again: it must run on every later host.

use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict, log, plugin};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    label: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { label: "old".into() }
    }
}

struct Old(Config);

impl Transform for Old {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.label.is_empty() {
            return Err("label: found \"\", expected a name".into());
        }
        Ok(Self(config))
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        match record.header_text("do") {
            Some("keep") => Ok(Verdict::Keep),
            Some("drop") => Ok(Verdict::Drop),
            Some("change") => Ok(self.told(record).into()),
            Some("split") => {
                let parts = record.payload().chunks(4).map(|part| Change::new().payload(part)).collect();
                Ok(Verdict::Split(parts))
            }
            Some("retry") => Err(Failure::Retry("not now".into())),
            Some("panic") => panic!("as it was told to"),
            other => {
                log::warn!("nothing to do with {other:?}");
                Err(format!("the header \"do\" says {other:?}").into())
            }
        }
    }
}

impl Old {
    /// All that the contract tells of a record.
    fn told(&self, record: &Record<'_>) -> Change {
        let key = record.key.as_ref().map_or("none".into(), |key| String::from_utf8_lossy(key).into_owned());
        let headers: Vec<&str> = record.headers.iter().map(|header| header.key.as_str()).collect();
        let labels: Vec<&str> = record.labels().iter().map(|label| label.name.as_str()).collect();
        let text = format!(
            "{}/{}@{} at {} key {key} headers {} size {} entry {} labels {} type {:?} read {:?}",
            record.topic,
            record.partition,
            record.offset,
            record.timestamp,
            headers.join(" "),
            record.payload_size,
            record.entry(),
            labels.join(" "),
            record.content_type(),
            String::from_utf8_lossy(&record.read(2, 3)),
        );
        Change::new()
            .entry("old/guest")
            .timestamp(record.timestamp + 1)
            .set_label(&self.0.label, "1")
            .remove_label("do")
            .content_type("text/plain")
            .payload(text)
    }
}

plugin!(Old);
