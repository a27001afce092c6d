//! What a plugin does to one record, and what must become of that record.

use crate::guest::Guest;

/// What becomes of the record that a plugin misbehaves on.
pub enum Fate {
    /// A dead letter whose reason says this.
    Letter(&'static str),
    /// It is written as it was: nothing that matters has happened.
    Written,
    /// One or the other, once: the host may be able to store it or not.
    Either,
}

/// One attack.
pub struct Misdeed {
    pub name: &'static str,
    pub fate: Fate,
    pub body: String,
    /// Imports, and further fields, of the core module; and the WIT of what they import.
    more: (&'static str, String),
    /// What of the module's own text is replaced.
    instead: Option<(&'static str, String)>,
    /// Further keys of the plugin's configuration.
    pub keys: &'static str,
}

pub fn misdeed(name: &'static str, fate: Fate, body: impl Into<String>) -> Misdeed {
    Misdeed { name, fate, body: body.into(), more: ("", String::new()), instead: None, keys: "" }
}

impl Misdeed {
    /// With further fields of the core module.
    pub fn with(mut self, fields: &'static str) -> Self {
        self.more.0 = fields;
        self
    }

    /// With imports: of these interfaces, from these packages.
    pub fn importing(mut self, imports: &'static str, interfaces: &[&str], packages: &str) -> Self {
        let interfaces: String = interfaces.iter().map(|interface| format!("import {interface}; ")).collect();
        let wit = format!(
            "package test:hostile; {packages}
             world hostile {{ include reduct-sink:transform/transform@0.1.0; {interfaces} }}"
        );
        self.more = (imports, wit);
        self
    }

    /// With something else in the place of a part of the module's text.
    pub fn replacing(mut self, part: &'static str, by: impl Into<String>) -> Self {
        self.instead = Some((part, by.into()));
        self
    }

    /// With a grant, or another key of the plugin.
    pub fn granted(mut self, keys: &'static str) -> Self {
        self.keys = keys;
        self
    }

    /// Keeps all records but the one at `offset`.
    pub fn component(&self, offset: u64) -> Vec<u8> {
        let guard = format!("(if (i64.ne (local.get $offset) (i64.const {offset})) (then (return (call $keep))))");
        self.build(&format!("{guard} {}", self.body))
    }

    /// Misbehaves on every record.
    pub fn component_for_all(&self) -> Vec<u8> {
        self.build(&self.body)
    }

    fn build(&self, body: &str) -> Vec<u8> {
        let (imports, wit) = &self.more;
        let mut guest = Guest::new(body);
        if let Some((part, by)) = &self.instead {
            guest = guest.replacing(part, by);
        }
        guest.importing(imports, wit, if wit.is_empty() { "transform" } else { "hostile" }).build()
    }
}

/// `body` over and over.
pub fn forever(body: &str) -> String {
    format!("(loop $ever {body} (br $ever)) unreachable")
}

/// `body`, `count` times.
pub fn times(count: u32, body: &str) -> String {
    format!(
        "(loop $more {body} (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const {count}))))"
    )
}
