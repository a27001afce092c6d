//! One step of relabel: how it is read from the configuration, and what it does to the labels.

use std::borrow::Cow;
use std::collections::BTreeMap;

use reduct_sink_plugin::stored;
use reduct_sink_rules::{Condition, Facts, Glob, Part, Pattern, Template, check_label_name};
use serde::Deserialize;

use crate::labels::Labels;

#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Step {
    action: Action,
    /// The conditions that must all hold for the step to be carried out.
    when: Vec<Condition>,
}

#[derive(Debug)]
enum Action {
    Set { name: String, value: Value },
    ContentType { value: Value },
    Rename { from: String, to: String },
    Copy { from: String, to: String },
    Remove { names: Glob },
}

/// A template, and the operations on its text in the order of these fields.
#[derive(Debug)]
struct Value {
    template: Template,
    regex: Option<(Pattern, Option<String>)>,
    lower: bool,
    map: BTreeMap<String, String>,
    default: Option<String>,
}

impl Step {
    pub fn apply(&self, labels: &mut Labels<'_>) -> Result<(), String> {
        if !self.when.iter().all(|condition| condition.holds(labels)) {
            return Ok(());
        }
        match &self.action {
            Action::Set { name, value } => {
                if let Some(value) = value.of(labels).map(|value| stored::encode(&value).into_owned()) {
                    labels.set(name, value);
                }
            }
            Action::ContentType { value } => {
                if let Some(value) = value.of(labels).map(|value| content_type(&value)).transpose()? {
                    labels.set_content_type(value);
                }
            }
            Action::Rename { from, to } => {
                if let Some(value) = labels.get(from).map(str::to_string) {
                    labels.remove(from);
                    labels.set(to, value);
                }
            }
            Action::Copy { from, to } => {
                if let Some(value) = labels.get(from).map(str::to_string) {
                    labels.set(to, value);
                }
            }
            Action::Remove { names } if names.is_plain() => labels.remove(names.as_str()),
            Action::Remove { names } => labels.remove_matching(names),
        }
        Ok(())
    }
}

impl Value {
    /// The resulting value; `None`: there is none, and the step sets nothing.
    fn of<'a>(&'a self, facts: &'a impl Facts) -> Option<Cow<'a, [u8]>> {
        self.found(facts).or_else(|| self.default.as_ref().map(|text| Cow::Borrowed(text.as_bytes())))
    }

    fn found<'a>(&'a self, facts: &'a impl Facts) -> Option<Cow<'a, [u8]>> {
        let mut value = self.template.render(facts)?;
        if let Some((pattern, replace)) = &self.regex {
            value = Cow::Owned(pattern.extract(&value, replace.as_deref())?.into_bytes());
        }
        if self.lower {
            value = Cow::Owned(lower(&value));
        }
        if self.map.is_empty() {
            return Some(value);
        }
        let mapped = std::str::from_utf8(&value).ok().and_then(|text| self.map.get(text));
        match (mapped, &self.default) {
            (Some(mapped), _) => Some(Cow::Borrowed(mapped.as_bytes())),
            (None, Some(_)) => None,
            (None, None) => Some(value),
        }
    }
}

fn lower(value: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(_) => value.to_ascii_lowercase(),
    }
}

/// Checks a content type. The host would refuse an invalid one, too, but couldn't name the value it was made of.
fn content_type(value: &[u8]) -> Result<String, String> {
    let legal = |byte: &u8| matches!(byte, 0x20..=0x7e) && *byte != b',';
    match std::str::from_utf8(value) {
        Ok(text) if !text.trim().is_empty() && value.iter().all(legal) => Ok(text.trim().into()),
        _ => Err(format!(
            "{:?} can't be a content type: that is printable ASCII without a comma, and not empty",
            String::from_utf8_lossy(value)
        )),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    set: Option<String>,
    content_type: Option<Template>,
    rename: Option<String>,
    copy: Option<String>,
    remove: Option<Glob>,
    to: Option<String>,
    value: Option<Template>,
    regex: Option<Pattern>,
    replace: Option<String>,
    lower: Option<bool>,
    map: Option<BTreeMap<String, String>>,
    default: Option<String>,
    #[serde(default)]
    when: Vec<Condition>,
}

impl TryFrom<Raw> for Step {
    type Error = String;

    fn try_from(mut raw: Raw) -> Result<Self, String> {
        let when = std::mem::take(&mut raw.when);
        let action =
            match (raw.set.take(), raw.content_type.take(), raw.rename.take(), raw.copy.take(), raw.remove.take()) {
                (Some(name), None, None, None, None) => {
                    label_name("set", &name)?;
                    let template = raw.value.take().ok_or("set needs value")?;
                    Action::Set { name, value: raw.value(template)? }
                }
                (None, Some(template), None, None, None) => {
                    let value = raw.value(template)?;
                    value.check_content_types()?;
                    Action::ContentType { value }
                }
                (None, None, Some(from), None, None) => {
                    label_name("rename", &from)?;
                    Action::Rename { to: raw.target("rename")?, from }
                }
                (None, None, None, Some(from), None) => {
                    label_name("copy", &from)?;
                    Action::Copy { to: raw.target("copy")?, from }
                }
                (None, None, None, None, Some(names)) => {
                    if names.is_plain() {
                        label_name("remove", names.as_str())?;
                    }
                    Action::Remove { names }
                }
                _ => return Err("a step has one of set, content_type, rename, copy or remove".into()),
            };
        let kind = match &action {
            Action::Set { .. } => "set",
            Action::ContentType { .. } => "content_type",
            Action::Rename { .. } => "rename",
            Action::Copy { .. } => "copy",
            Action::Remove { .. } => "remove",
        };
        match raw.left_over() {
            Some(key) => Err(format!("{key} doesn't go with {kind}")),
            None => Ok(Self { action, when }),
        }
    }
}

impl Raw {
    fn value(&mut self, template: Template) -> Result<Value, String> {
        let regex = match (self.regex.take(), self.replace.take()) {
            (Some(pattern), replace) => Some((pattern, replace)),
            (None, Some(_)) => return Err("replace needs regex".into()),
            (None, None) => None,
        };
        Ok(Value {
            template,
            regex,
            lower: self.lower.take().unwrap_or(false),
            map: self.map.take().unwrap_or_default(),
            default: self.default.take(),
        })
    }

    fn target(&mut self, kind: &str) -> Result<String, String> {
        let to = self.to.take().ok_or_else(|| format!("{kind} needs to"))?;
        label_name("to", &to)?;
        Ok(to)
    }

    /// The first given key that a step of this kind doesn't use; `None`: all keys are used.
    fn left_over(&self) -> Option<&'static str> {
        [
            ("to", self.to.is_some()),
            ("value", self.value.is_some()),
            ("regex", self.regex.is_some()),
            ("replace", self.replace.is_some()),
            ("lower", self.lower.is_some()),
            ("map", self.map.is_some()),
            ("default", self.default.is_some()),
        ]
        .into_iter()
        .find_map(|(key, there)| there.then_some(key))
    }
}

impl Value {
    /// Checks the content types that don't depend on a record.
    fn check_content_types(&self) -> Result<(), String> {
        let constant = match self.template.parts() {
            [] => Some(""),
            [Part::Text(text)] => Some(text.as_str()),
            _ => None,
        };
        let constant = constant.filter(|_| self.regex.is_none() && self.map.is_empty());
        for text in constant.into_iter().chain(self.map.values().map(String::as_str)).chain(self.default.as_deref()) {
            content_type(text.as_bytes()).map_err(|error| format!("content_type: {error}"))?;
        }
        Ok(())
    }
}

fn label_name(key: &str, name: &str) -> Result<(), String> {
    check_label_name(name).map_err(|error| format!("{key}: {error}"))
}
