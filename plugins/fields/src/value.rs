//! The value of a field as it was found in a payload, and the types that a value may have.

use std::borrow::Cow;

use serde::Deserialize;

/// What a payload holds at a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    /// A number, with the payload's own digits if the format writes numbers in digits.
    Number(String),
    Text(String),
    Bytes(Vec<u8>),
    /// A text of a format that has no types, such as CSV.
    Untyped(String),
    /// A time of two numbers, as ROS writes it.
    Stamp(Stamp),
    /// An object, a list or the like, which no label can hold; the text names its type.
    Other(&'static str),
}

/// The two numbers of a time: ROS 2 calls them `sec` and `nanosec`, ROS 1 `secs` and `nsecs`, Protobuf's
/// `google.protobuf.Timestamp` `seconds` and `nanos`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Stamp {
    #[serde(alias = "secs", alias = "seconds")]
    pub sec: i64,
    #[serde(alias = "nsecs", alias = "nanos")]
    pub nanosec: i64,
}

/// The type that a value must have to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// A text, number or boolean.
    #[default]
    Any,
    Text,
    Number,
    Integer,
    Boolean,
}

impl Value {
    /// The value of bytes that the format declares to be text.
    pub fn of_text(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.into()),
            Err(_) => Self::Bytes(bytes.into()),
        }
    }

    /// The value of a floating-point number, in as few digits as distinguish it from its neighbours.
    pub fn of_float<F: Copy + Into<f64> + std::fmt::Display + std::fmt::LowerExp>(float: F) -> Self {
        let size = float.into().abs();
        match () {
            () if !size.is_finite() => Self::Other("a number that isn't finite"),
            () if size != 0.0 && !(1e-7..1e21).contains(&size) => Self::Number(format!("{float:e}")),
            () => Self::Number(float.to_string()),
        }
    }

    /// The value's bytes; `None` for null, an object or a list.
    pub fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        let text = match self {
            Value::Null | Value::Stamp(_) | Value::Other(_) => return None,
            Value::Bytes(bytes) => return Some(Cow::Borrowed(bytes)),
            Value::Boolean(true) => "true",
            Value::Boolean(false) => "false",
            Value::Number(text) | Value::Text(text) | Value::Untyped(text) => text,
        };
        Some(Cow::Borrowed(text.as_bytes()))
    }

    /// Whether the value is of this type.
    pub fn is(&self, expected: Type) -> bool {
        let integer = |text: &str| text.parse::<i128>().is_ok();
        match (expected, self) {
            (_, Value::Null | Value::Stamp(_) | Value::Other(_)) => false,
            (Type::Any, _)
            | (Type::Text, Value::Text(_) | Value::Untyped(_))
            | (Type::Number, Value::Number(_))
            | (Type::Boolean, Value::Boolean(_)) => true,
            (Type::Integer, Value::Number(text) | Value::Untyped(text)) => integer(text),
            (Type::Number, Value::Untyped(text)) => text.parse::<f64>().is_ok_and(f64::is_finite),
            (Type::Boolean, Value::Untyped(text)) => matches!(text.as_str(), "true" | "false"),
            _ => false,
        }
    }

    /// The value for an error's text.
    pub fn description(&self) -> String {
        let short = |text: &str| match text.char_indices().nth(40) {
            Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
            None => format!("{text:?}"),
        };
        match self {
            Value::Null => "null".into(),
            Value::Boolean(value) => format!("the boolean {value}"),
            Value::Number(text) => format!("the number {text}"),
            Value::Text(text) => format!("the text {}", short(text)),
            Value::Untyped(text) => short(text),
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Stamp(_) => "an object".into(),
            Value::Other(kind) => (*kind).into(),
        }
    }
}

impl Type {
    /// The type for an error's text.
    pub fn description(self) -> &'static str {
        match self {
            Type::Any => "a text, number or boolean",
            Type::Text => "a text",
            Type::Number => "a number",
            Type::Integer => "a whole number",
            Type::Boolean => "a boolean",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_tell_values_apart() {
        use Type::{Any, Boolean, Integer, Number, Text};
        for (value, types) in [
            (Value::Null, vec![]),
            (Value::Other("an object"), vec![]),
            (Value::Boolean(true), vec![Any, Boolean]),
            (Value::Number("-7".into()), vec![Any, Number, Integer]),
            (Value::Number("7.0".into()), vec![Any, Number]),
            (Value::Text("7".into()), vec![Any, Text]),
            (Value::Bytes(vec![7]), vec![Any]),
            (Value::Untyped("7".into()), vec![Any, Text, Number, Integer]),
            (Value::Untyped("7.5".into()), vec![Any, Text, Number]),
            (Value::Untyped("nan".into()), vec![Any, Text]),
            (Value::Untyped("true".into()), vec![Any, Text, Boolean]),
        ] {
            for expected in [Any, Text, Number, Integer, Boolean] {
                assert_eq!(value.is(expected), types.contains(&expected), "{value:?} {expected:?}");
            }
        }
    }
}
