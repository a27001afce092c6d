//! The fields that this plugin's configuration can name: those of every record, and `payload:PATH`.

use reduct_sink_rules::{Field, FieldName};
use serde::Deserialize;

/// A field by its name in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Name {
    Record(Field),
    Payload(Path),
}

/// A field of the payload: `camera.name`, `items[0].id`, `["a key with . in it"].x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub text: String,
    pub steps: Vec<Step>,
    /// The place of the field's value among those that are read from a payload. It is assigned when the whole
    /// configuration has been read.
    pub slot: usize,
}

/// One step from a value into a value inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The field with this name in an object.
    Key(String),
    /// The item at this place of a list, counted from 0.
    Item(usize),
}

const PREFIX: &str = "payload:";

impl FieldName for Name {
    fn as_record_field(&self) -> Option<&Field> {
        match self {
            Name::Record(field) => Some(field),
            Name::Payload(_) => None,
        }
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix(PREFIX) {
            Some(path) => Ok(Name::Payload(Path { steps: steps(path)?, text: path.into(), slot: 0 })),
            None if text.contains(':') => Field::try_from(text).map(Name::Record),
            None => {
                let hint = |error| format!("{error}; a field of the payload is {PREFIX}{text}");
                Field::try_from(text.clone()).map(Name::Record).map_err(hint)
            }
        }
    }
}

/// The name as the configuration has it.
impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}", self.text)
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let wrong = |what: &str| {
        format!(
            "{PREFIX}{path} is no field of a payload: {what}; such a field is written like payload:camera.name, \
             payload:items[0].id or payload:[\"a.b\"]"
        )
    };
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() || steps.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]").ok_or_else(|| wrong("[\" has no \"] after it"))?;
            steps.push(Step::Key(key.into()));
            rest = after;
        } else if let Some(number) = rest.strip_prefix('[') {
            let (number, after) = number.split_once(']').ok_or_else(|| wrong("[ has no ] after it"))?;
            steps.push(Step::Item(number.parse().map_err(|_| wrong("between [ and ] stands no whole number"))?));
            rest = after;
        } else {
            let key = match steps.is_empty() {
                true => rest,
                false => rest.strip_prefix('.').ok_or_else(|| wrong("a . or [ is missing"))?,
            };
            let end = key.find(['.', '[']).unwrap_or(key.len());
            let (key, after) = key.split_at_checked(end).unwrap_or((key, ""));
            if key.is_empty() {
                return Err(wrong("a name is empty"));
            }
            steps.push(Step::Key(key.into()));
            rest = after;
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_step_by_step() {
        let key = |key: &str| Step::Key(key.into());
        for (path, expected) in [
            ("temp", vec![key("temp")]),
            ("camera.name", vec![key("camera"), key("name")]),
            ("items[0].id", vec![key("items"), Step::Item(0), key("id")]),
            ("[2][3]", vec![Step::Item(2), Step::Item(3)]),
            ("[\"a.b\"].c[\"d\"]", vec![key("a.b"), key("c"), key("d")]),
            ("Größe", vec![key("Größe")]),
        ] {
            assert_eq!(steps(path), Ok(expected), "{path}");
        }
        for (path, what) in [
            ("", "a name is empty"),
            ("a..b", "a name is empty"),
            ("a.", "a name is empty"),
            (".a", "a name is empty"),
            ("a[", "[ has no ] after it"),
            ("a[x]", "between [ and ] stands no whole number"),
            ("a[-1]", "between [ and ] stands no whole number"),
            ("a[0]b", "a . or [ is missing"),
            ("[\"a", "[\" has no \"] after it"),
        ] {
            let error = steps(path).unwrap_err();
            assert!(error.contains(what), "{path}: {error}");
        }
    }

    #[test]
    fn a_name_is_a_field_of_the_record_or_of_the_payload() {
        let name = |text: &str| Name::try_from(text.to_string());
        assert_eq!(name("topic"), Ok(Name::Record(Field::Topic)));
        assert!(matches!(name("payload:a:b"), Ok(Name::Payload(path)) if path.steps == [Step::Key("a:b".into())]));
        let error = name("temp").unwrap_err();
        assert!(error.starts_with("unknown field \"temp\"; a field is header:KEY"), "{error}");
        assert!(error.ends_with("a field of the payload is payload:temp"), "{error}");
    }
}
