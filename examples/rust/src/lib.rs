//! A plugin with three transforms, of which the configuration chooses one.

mod label;
mod split;

use reduct_sink_plugin::{Failure, Record, Transform, Verdict, plugin};

/// What `[plugins.config]` may hold; its key `transform` chooses the variant.
#[derive(serde::Deserialize)]
#[serde(tag = "transform", rename_all = "lowercase", deny_unknown_fields)]
enum Plugin {
    /// Drops the records that have this header with this value.
    Drop { header: String, value: String },
    /// Turns fields of a JSON payload into the entry and labels.
    Label,
    /// Makes a record of each line of JSON in the payload.
    Split,
}

impl Transform for Plugin {
    type Config = Self;

    fn configure(config: Self) -> Result<Self, String> {
        Ok(config)
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        match self {
            Self::Drop { header, value } => {
                let mut headers = record.headers.iter();
                let found = headers.any(|h| h.key == *header && h.value.as_deref() == Some(value.as_bytes()));
                Ok(if found { Verdict::Drop } else { Verdict::Keep })
            }
            Self::Label => label::label(&record.payload()),
            Self::Split => split::split(&record.payload()),
        }
    }
}

plugin!(Plugin);
