//! The JSON Schema of the configuration file, generated from the key table, for editors and for tools that write
//! configurations.

use serde_json::{Map, Value, json};

use super::key_table::{Key, PIPELINES, Preset, Takes, is_list, is_of_process, keys, sections, size_text};

/// The schema (draft 2020-12) of the file as TOML reads it.
pub fn schema() -> Value {
    let mut root = tables("A configuration of reduct-sink.", |_| true);
    let pipeline =
        tables("What is set for one pipeline; the rest is what the top of the file says.", |path| !is_of_process(path));
    let pipelines = json!({
        "type": "object", "description": "Several pipelines in one process, by their names.", "minProperties": 1,
        "propertyNames": { "pattern": "^[a-z][a-z0-9-]*$", "maxLength": 64 },
        "additionalProperties": pipeline,
    });
    insert(&mut root, PIPELINES, pipelines);
    if let Some(root) = root.as_object_mut() {
        root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".into(), "reduct-sink".into());
        root.insert("$defs".into(), definitions());
    }
    root
}

/// The tables and keys whose paths are wanted.
fn tables(doc: &str, is_wanted: fn(&str) -> bool) -> Value {
    let mut root = table(doc);
    for section in sections().filter(|section| is_wanted(section.path)) {
        let section_schema = match section.path {
            "kafka.properties" => json!({
                "type": "object", "description": section.doc,
                "additionalProperties": { "type": ["string", "number", "boolean", "object"] },
            }),
            path if is_list(path) => {
                json!({ "type": "array", "description": section.doc, "items": table("One of them.") })
            }
            _ => table(section.doc),
        };
        insert(&mut root, section.path, section_schema);
    }
    let is_plain = |key: &&Key| !matches!(key.takes, Takes::Properties | Takes::Plugins);
    for key in keys().filter(|key| is_plain(key) && is_wanted(key.path)) {
        insert(&mut root, key.path, of_key(key));
    }
    root
}

fn table(doc: &str) -> Value {
    json!({ "type": "object", "description": doc, "additionalProperties": false, "properties": {} })
}

/// Puts a schema at the place of a path, below tables and items that are there already.
fn insert(root: &mut Value, path: &str, schema: Value) {
    let mut here = root;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let properties = match here.get("items").is_some() {
            true => here.get_mut("items").and_then(|items| items.get_mut("properties")),
            false => here.get_mut("properties"),
        };
        let Some(properties) = properties.and_then(Value::as_object_mut) else { return };
        if names.peek().is_none() {
            properties.insert(name.into(), schema);
            return;
        }
        let Some(next) = properties.get_mut(name) else { return };
        here = next;
    }
}

fn of_key(key: &Key) -> Value {
    let mut schema = match key.takes {
        Takes::Boolean => json!({ "type": "boolean" }),
        Takes::Number { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Takes::Size { .. } => json!({ "$ref": "#/$defs/size" }),
        Takes::Duration { .. } => json!({ "$ref": "#/$defs/duration" }),
        Takes::Share => json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? *%$" }),
        Takes::Choice(words) => json!({ "enum": words() }),
        Takes::Text(_) | Takes::Path(_) => json!({ "$ref": "#/$defs/text" }),
        Takes::Texts(_) => json!({ "type": "array", "items": { "$ref": "#/$defs/text" } }),
        Takes::Tables(_) => json!({ "type": "array", "items": { "type": "object" } }),
        Takes::Table(_) | Takes::Properties => json!({ "type": "object" }),
        Takes::TableOrNames(_) => {
            json!({ "anyOf": [{ "type": "object" }, { "type": "array", "items": { "type": "string" } }] })
        }
        Takes::Plugins => json!({ "type": "array" }),
    };
    if let Some(schema) = schema.as_object_mut() {
        describe(key, schema);
    }
    schema
}

fn describe(key: &Key, schema: &mut Map<String, Value>) {
    let range = match key.takes {
        Takes::Size { min, max } => format!(" From {} to {}.", size_text(min), size_text(max)),
        Takes::Duration { min, max } => {
            format!(" From {} to {}.", humantime::format_duration(min), humantime::format_duration(max))
        }
        _ => String::new(),
    };
    schema.insert("description".into(), format!("{}{range}", key.doc).into());
    let default = match key.preset {
        Preset::Required | Preset::Absent | Preset::Derived(_) => return,
        Preset::Boolean(truth) => Some(truth.into()),
        Preset::Number(number) => Some(number.into()),
        // The literal of the others is a text in quotes.
        preset => preset.literal().and_then(|literal| serde_json::from_str(&literal).ok()),
    };
    schema.extend(default.map(|default| ("default".into(), default)));
}

fn definitions() -> Value {
    let text_or = |more: &[&str], doc: &str| {
        let types: Vec<&str> = ["string"].iter().chain(more).copied().collect();
        json!({ "description": doc, "anyOf": [{ "type": types }, { "$ref": "#/$defs/reference" }] })
    };
    let reference = |kind: &str, doc: &str| {
        json!({
            "type": "object", "description": doc, "additionalProperties": false, "required": [kind],
            "properties": { kind: { "type": "string" } },
        })
    };
    json!({
        "size": text_or(&["integer"], "A number of bytes, or a text such as \"8MB\" or \"64MiB\"."),
        "duration": text_or(&[], "A text such as \"500ms\" or \"1m 30s\"."),
        "text": text_or(&[], "A text, or where it comes from."),
        "reference": { "anyOf": [
            reference("env", "The value of an environment variable."),
            reference("file", "What a file holds; a relative path is relative to the configuration file's folder."),
        ] },
    })
}
