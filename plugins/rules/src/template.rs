//! Templates: text that names fields of the record, such as `{topic}` and `{header:KEY}`; `{{` and `}}` stand for
//! braces.

use std::borrow::Cow;

use serde::Deserialize;

use crate::{Facts, Field};

/// A text in which each field that it names is replaced by the field's value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String", bound(deserialize = "F: TryFrom<String, Error = String>"))]
pub struct Template<F = Field>(Vec<Part<F>>);

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<F = Field> {
    /// Text that is the same for all records.
    Text(String),
    /// A field, whose value is put in its place.
    Field(F),
}

impl<F> Template<F> {
    /// The pieces in order.
    pub fn parts(&self) -> &[Part<F>] {
        &self.0
    }

    /// The template's fields, for a plugin that changes its own fields after the configuration was read.
    pub fn fields_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.0.iter_mut().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Field(field) => Some(field),
        })
    }

    /// The bytes of the text for a record; `None`: one of the fields is absent or null.
    pub fn render<'a>(&'a self, facts: &'a impl Facts<F>) -> Option<Cow<'a, [u8]>> {
        if let [part] = self.0.as_slice() {
            return part_value(part, facts);
        }
        let mut text = Vec::new();
        for part in &self.0 {
            text.extend_from_slice(&part_value(part, facts)?);
        }
        Some(Cow::Owned(text))
    }
}

fn part_value<'a, F>(part: &'a Part<F>, facts: &'a impl Facts<F>) -> Option<Cow<'a, [u8]>> {
    match part {
        Part::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
        Part::Field(field) => facts.value(field),
    }
}

impl<F: TryFrom<String, Error = String>> TryFrom<String> for Template<F> {
    type Error = String;

    fn try_from(template: String) -> Result<Self, String> {
        let unpaired = |brace: char| format!("{template:?} has an unpaired {brace:?}; {{{{ and }}}} stand for braces");
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut rest = template.as_str();
        while let Some((before, found)) = rest.find(['{', '}']).and_then(|at| rest.split_at_checked(at)) {
            text.push_str(before);
            if let Some(after) = found.strip_prefix("{{") {
                text.push('{');
                rest = after;
            } else if let Some(after) = found.strip_prefix("}}") {
                text.push('}');
                rest = after;
            } else if let Some(field) = found.strip_prefix('{') {
                let (field, after) = field.split_once('}').ok_or_else(|| unpaired('{'))?;
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Field(F::try_from(field.to_string())?));
                rest = after;
            } else {
                return Err(unpaired('}'));
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reduct_sink_plugin::testing::Sample;

    fn render(template: &str) -> Option<Vec<u8>> {
        let sample = Sample::new().header("a:b", "x").header("raw", b"\xff").null_header("null").key("");
        let template = Template::<Field>::try_from(template.to_string()).unwrap();
        template.render(&sample.record()).map(Cow::into_owned)
    }

    #[test]
    fn fields_are_filled_in() {
        for (template, expected) in [
            ("", Some("")),
            ("plain", Some("plain")),
            ("{topic}", Some("topic")),
            ("a/{topic}/{header:a:b}", Some("a/topic/x")),
            ("{{{partition}}}", Some("{0}")),
            ("[{key}]", Some("[]")),
            ("{header:null}", None),
            ("a{header:missing}", None),
        ] {
            assert_eq!(render(template), expected.map(|text| text.as_bytes().to_vec()), "{template}");
        }
        assert_eq!(render("{header:raw}"), Some(b"\xff".to_vec()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (template, message) in [
            ("{topic", "\"{topic\" has an unpaired '{'; {{ and }} stand for braces"),
            ("topic}", "\"topic}\" has an unpaired '}'"),
            ("{topik}", "unknown field \"topik\""),
        ] {
            let error = Template::<Field>::try_from(template.to_string()).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
