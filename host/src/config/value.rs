//! A value as it was found: what it is, and where it stands.

use std::fmt;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigLocation, ConfigProblem};

#[derive(Debug, Clone, PartialEq)]
pub struct ConfigValue {
    pub value: Value,
    pub location: ConfigLocation,
    pub origin: Origin,
}

/// How a value got to its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It stands there.
    Literal,
    /// By `{ env = "NAME" }`.
    Variable,
    /// By `{ file = "PATH" }`.
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<ConfigValue>),
    Table(Vec<(String, ConfigValue)>),
    /// A reference whose value couldn't be had, which is reported already.
    Unknown,
}

impl ConfigValue {
    /// Whether no message may show the value: a reference is written to keep it out of sight.
    pub fn is_hidden(&self) -> bool {
        self.origin != Origin::Literal
    }

    pub fn text(text: impl Into<String>, location: ConfigLocation) -> Self {
        Self { value: Value::Text(text.into()), location, origin: Origin::Literal }
    }

    /// `location` turns the offset of a byte into its location.
    pub fn from_toml(
        found: &Spanned<DeValue<'_>>,
        location: &impl Fn(usize) -> ConfigLocation,
    ) -> Result<Self, ConfigProblem> {
        let here = location(found.span().start);
        let value = match found.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(truth) => Value::Boolean(*truth),
            DeValue::Datetime(time) => Value::Datetime(time.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map(Value::Integer)
                // Without the number, which may be a password.
                .map_err(|_| ConfigProblem::at(&here, "", "the number is beyond what 64 bits hold"))?,
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .map(Value::Float)
                .map_err(|_| ConfigProblem::at(&here, "", "this is not a number"))?,
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| Self::from_toml(item, location)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => Value::Table(table_from_toml(table, location)?),
        };
        Ok(Self { value, location: here, origin: Origin::Literal })
    }

    /// As JSON, for what is handed to a plugin. Fails on a number that JSON can't express.
    pub fn to_json(&self) -> Result<serde_json::Value, ConfigProblem> {
        Ok(match &self.value {
            Value::Text(text) | Value::Datetime(text) => text.clone().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => {
                serde_json::Number::from_f64(*number).map(serde_json::Value::Number).ok_or_else(|| {
                    ConfigProblem::at(&self.location, "", format!("found {number}, which JSON can't express"))
                })?
            }
            Value::Boolean(truth) => (*truth).into(),
            Value::Unknown => serde_json::Value::Null,
            Value::List(items) => items.iter().map(Self::to_json).collect::<Result<Vec<_>, _>>()?.into(),
            Value::Table(entries) => {
                let entries = entries.iter().map(|(key, value)| Ok((key.clone(), value.to_json()?)));
                entries.collect::<Result<serde_json::Map<_, _>, ConfigProblem>>()?.into()
            }
        })
    }
}

fn table_from_toml(
    table: &DeTable<'_>,
    location: &impl Fn(usize) -> ConfigLocation,
) -> Result<Vec<(String, ConfigValue)>, ConfigProblem> {
    table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), ConfigValue::from_toml(value, location)?))).collect()
}

/// What was found, in words for an error message.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        match self {
            Self::Text(text) if text.chars().count() > SHOWN => {
                write!(f, "{:?}…", text.chars().take(SHOWN).collect::<String>())
            }
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Boolean(truth) => truth.fmt(f),
            Self::Datetime(time) => write!(f, "the time {time}"),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
            Self::Unknown => f.write_str("nothing"),
        }
    }
}

impl Value {
    /// Whether a part of it couldn't be had, which is reported already.
    pub fn has_unknown(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::List(items) => items.iter().any(|item| item.value.has_unknown()),
            Self::Table(entries) => entries.iter().any(|(_, entry)| entry.value.has_unknown()),
            _ => false,
        }
    }

    /// What was found, for a key whose values must not be shown.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Datetime(_) => "a time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Unknown => "nothing",
        }
    }
}
