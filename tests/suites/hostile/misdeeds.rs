//! What a plugin does to one record, and what must become of that record.

use crate::guest::Guest;

/// What must become of the record on which a plugin misbehaves.
pub enum Fate {
    /// It becomes a dead letter whose reason contains this text.
    Letter(&'static str),
    /// It is written unchanged, because the misdeed has no effect.
    Written,
    /// It is written or becomes a dead letter, once: whether the host can store it depends on the machine.
    Either,
}

/// One attack.
pub struct Misdeed {
    pub name: &'static str,
    pub fate: Fate,
    pub body: String,
    /// More imports and fields of the core module, and the WIT that declares the imports.
    more: (&'static str, String),
    /// A part of the module's own text, and the text that replaces it.
    instead: Option<(&'static str, String)>,
    /// More keys of the plugin's row in the configuration.
    pub keys: &'static str,
}

pub fn misdeed(name: &'static str, fate: Fate, body: impl Into<String>) -> Misdeed {
    Misdeed { name, fate, body: body.into(), more: ("", String::new()), instead: None, keys: "" }
}

impl Misdeed {
    /// Adds fields to the core module.
    pub fn with(mut self, fields: &'static str) -> Self {
        self.more.0 = fields;
        self
    }

    /// Adds imports to the core module: of these interfaces, from these packages.
    pub fn importing(mut self, imports: &'static str, interfaces: &[&str], packages: &str) -> Self {
        let interfaces: String = interfaces.iter().map(|interface| format!("import {interface}; ")).collect();
        let wit = format!(
            "package test:hostile; {packages}
             world hostile {{ include reduct-sink:transform/transform@0.1.0; {interfaces} }}"
        );
        self.more = (imports, wit);
        self
    }

    /// With an interface of its own that it exports.
    pub fn exporting(mut self, interface: &str) -> Self {
        self.more.1 = self.more.1.replace("world hostile {", &format!("world hostile {{ export {interface};"));
        self
    }

    /// Replaces a part of the module's text.
    pub fn replacing(mut self, part: &'static str, by: impl Into<String>) -> Self {
        self.instead = Some((part, by.into()));
        self
    }

    /// Adds a grant, or another key of the plugin.
    pub fn granted(mut self, keys: &'static str) -> Self {
        self.keys = keys;
        self
    }

    /// A component that misbehaves on the record at `offset` and keeps all others.
    pub fn component(&self, offset: u64) -> Vec<u8> {
        let guard = format!("(if (i64.ne (local.get $offset) (i64.const {offset})) (then (return (call $keep))))");
        self.build(&format!("{guard} {}", self.body))
    }

    /// A component that misbehaves on every record.
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

/// Code that does `body` in an endless loop.
pub fn forever(body: &str) -> String {
    format!("(loop $ever {body} (br $ever)) unreachable")
}

/// Code that does `body` this many times.
pub fn times(count: u32, body: &str) -> String {
    format!(
        "(loop $more {body} (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const {count}))))"
    )
}
