//! The labels that the steps have changed so far, in front of the record's own labels.
//!
//! Guarantees: each label is changed at most once in the verdict, however many steps touched it.

use std::borrow::Cow;

use reduct_sink_plugin::{LabelChange, Record};
use reduct_sink_rules::{Facts, Field, Glob};

pub struct Labels<'a> {
    record: &'a Record<'a>,
    changes: Vec<LabelChange>,
    content_type: Option<String>,
}

impl<'a> Labels<'a> {
    pub fn new(record: &'a Record<'a>) -> Self {
        Self { record, changes: Vec::new(), content_type: None }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        match self.changes.iter().find(|change| change.name == name) {
            Some(change) => change.value.as_deref(),
            None => self.record.label(name),
        }
    }

    pub fn set(&mut self, name: &str, value: String) {
        self.change(name, Some(value));
    }

    pub fn remove(&mut self, name: &str) {
        self.change(name, None);
    }

    pub fn remove_matching(&mut self, glob: &Glob) {
        let matches = |name: &str| glob.matches(name.as_bytes());
        for change in self.changes.iter_mut().filter(|change| matches(&change.name)) {
            change.value = None;
        }
        for label in self.record.labels().iter().filter(|label| matches(&label.name)) {
            self.change(&label.name, None);
        }
    }

    pub fn set_content_type(&mut self, content_type: String) {
        self.content_type = Some(content_type);
    }

    pub fn into_changes(self) -> (Vec<LabelChange>, Option<String>) {
        (self.changes, self.content_type)
    }

    fn change(&mut self, name: &str, value: Option<String>) {
        match self.changes.iter_mut().find(|change| change.name == name) {
            Some(change) => change.value = value,
            None => self.changes.push(LabelChange { name: name.into(), value }),
        }
    }
}

impl Facts for Labels<'_> {
    fn value<'f>(&'f self, field: &'f Field) -> Option<Cow<'f, [u8]>> {
        match (field, &self.content_type) {
            (Field::Label(name), _) => self.get(name).map(|text| Cow::Borrowed(text.as_bytes())),
            (Field::ContentType, Some(content_type)) => Some(Cow::Borrowed(content_type.as_bytes())),
            (field, _) => self.record.value(field),
        }
    }

    fn exists(&self, field: &Field) -> bool {
        match field {
            Field::Label(name) => self.get(name).is_some(),
            Field::ContentType => self.value(field).is_some(),
            field => self.record.exists(field),
        }
    }

    fn any(&self, field: &Field, test: &dyn Fn(&[u8]) -> bool) -> bool {
        match field {
            Field::Label(_) | Field::ContentType => self.value(field).is_some_and(|value| test(&value)),
            field => self.record.any(field, test),
        }
    }

    fn number(&self, field: &Field) -> Option<u64> {
        self.record.number(field)
    }
}
