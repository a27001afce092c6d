//! Reads Avro schemas, as far as reading payloads needs them: types, names, symbols and the scale of decimals.
//!
//! Guarantees: a schema is either read or refused with the place of the mistake; a reference finds its type wherever in
//! the schema it was defined earlier.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

/// The place of a type among all types of its schema.
pub type TypeId = usize;

/// How values of a type are written.
#[derive(Debug, Clone, PartialEq)]
pub enum AvroType {
    Null,
    Boolean,
    /// `int` and `long`, whatever their logical type.
    Integer,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<String>),
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
    Record(Vec<(String, TypeId)>),
    /// A whole number in bytes (a fixed number of them, or their number comes first), whose last `scale` digits stand
    /// after the point.
    Decimal {
        scale: u32,
        fixed: Option<usize>,
    },
}

/// A schema with all of its types.
#[derive(Debug)]
pub struct AvroSchema {
    types: Vec<AvroType>,
    pub root: TypeId,
}

/// How deep types may be nested.
const MOST_DEEP: usize = 64;
/// The largest scale of a decimal.
const MOST_SCALE: u64 = 1_000;

impl AvroSchema {
    /// Reads a schema, or a schema registry's answer that holds one.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("the schema isn't JSON: {error}");
        // Some operators write a type's name without JSON's quotes.
        let json: Json = match std::str::from_utf8(bytes).map(str::trim) {
            Ok(name) if is_primitive(name) => Json::String(name.into()),
            _ => serde_json::from_slice(bytes).map_err(wrong)?,
        };
        let json = match (json.get("schema"), json.get("type")) {
            (Some(Json::String(text)), None) => {
                let references = json.get("references").and_then(Json::as_array);
                if references.is_some_and(|references| !references.is_empty()) {
                    return Err("the schema refers to other schemas of the registry, which isn't supported".into());
                }
                match json.get("schemaType").and_then(Json::as_str) {
                    None | Some("AVRO") => {}
                    Some(kind) => return Err(format!("the schema is of the type {kind}, not AVRO")),
                }
                if is_primitive(text) {
                    Json::String(text.clone())
                } else {
                    serde_json::from_str(text).map_err(wrong)?
                }
            }
            _ => json,
        };
        let mut reader = SchemaReader { types: Vec::new(), names: HashMap::new() };
        let root = reader.read(&json, "", 0)?;
        Ok(Self { types: reader.types, root })
    }

    pub fn get(&self, id: TypeId) -> &AvroType {
        self.types.get(id).unwrap_or(&AvroType::Null)
    }
}

fn is_primitive(name: &str) -> bool {
    primitive(name).is_some()
}

fn primitive(name: &str) -> Option<AvroType> {
    Some(match name {
        "null" => AvroType::Null,
        "boolean" => AvroType::Boolean,
        "int" | "long" => AvroType::Integer,
        "float" => AvroType::Float,
        "double" => AvroType::Double,
        "bytes" => AvroType::Bytes,
        "string" => AvroType::Text,
        _ => return None,
    })
}

struct SchemaReader {
    types: Vec<AvroType>,
    /// The named types, by full name.
    names: HashMap<String, TypeId>,
}

impl SchemaReader {
    fn add(&mut self, one: AvroType) -> TypeId {
        self.types.push(one);
        self.types.len() - 1
    }

    fn read(&mut self, json: &Json, namespace: &str, depth: usize) -> Result<TypeId, String> {
        if depth > MOST_DEEP {
            return Err(format!("the schema is nested in more than {MOST_DEEP} levels"));
        }
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(variants) => {
                let variants = variants.iter().map(|variant| self.read(variant, namespace, depth + 1));
                let variants = variants.collect::<Result<Vec<_>, _>>()?;
                Ok(self.add(AvroType::Union(variants)))
            }
            Json::Object(object) => self.object(object, namespace, depth),
            other => Err(format!("{other} is no type of Avro")),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<TypeId, String> {
        if let Some(primitive) = primitive(name) {
            return Ok(self.add(primitive));
        }
        let full = full_name(name, namespace);
        // A name without a dot may also mean a type without a namespace.
        let known = self.names.get(&full).or_else(|| self.names.get(name));
        known.copied().ok_or_else(|| format!("the schema names the type {full:?} and doesn't define it before"))
    }

    fn object(&mut self, object: &Map<String, Json>, namespace: &str, depth: usize) -> Result<TypeId, String> {
        let kind = object.get("type").ok_or("a type has no `type`")?;
        let Json::String(kind) = kind else { return self.read(kind, namespace, depth + 1) };
        let logical = object.get("logicalType").and_then(Json::as_str);
        match (kind.as_str(), logical) {
            ("record" | "error", _) => self.record(object, namespace, depth),
            ("enum", _) => {
                let symbols = object.get("symbols").and_then(Json::as_array).ok_or("an enum has no `symbols`")?;
                let symbol = |symbol: &Json| symbol.as_str().map(str::to_owned).ok_or("a symbol is no text");
                let symbols = symbols.iter().map(symbol).collect::<Result<Vec<_>, _>>()?;
                self.define(object, namespace, AvroType::Enum(symbols)).map(|(id, _)| id)
            }
            ("fixed", logical) => {
                let size = object.get("size").and_then(Json::as_u64).and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or("a fixed has no `size`")?;
                let one = match logical {
                    Some("decimal") => AvroType::Decimal { scale: scale(object)?, fixed: Some(size) },
                    _ => AvroType::Fixed(size),
                };
                self.define(object, namespace, one).map(|(id, _)| id)
            }
            ("array", _) => {
                let items = object.get("items").ok_or("an array has no `items`")?;
                let items = self.read(items, namespace, depth + 1)?;
                Ok(self.add(AvroType::Array(items)))
            }
            ("map", _) => {
                let values = object.get("values").ok_or("a map has no `values`")?;
                let values = self.read(values, namespace, depth + 1)?;
                Ok(self.add(AvroType::Map(values)))
            }
            ("bytes", Some("decimal")) => {
                let scale = scale(object)?;
                Ok(self.add(AvroType::Decimal { scale, fixed: None }))
            }
            (name, _) => self.named(name, namespace),
        }
    }

    fn record(&mut self, object: &Map<String, Json>, namespace: &str, depth: usize) -> Result<TypeId, String> {
        // The record is defined before its fields are read, because they may refer to it.
        let (id, namespace) = self.define(object, namespace, AvroType::Record(Vec::new()))?;
        let fields = object.get("fields").and_then(Json::as_array).ok_or("a record has no `fields`")?;
        let mut read = Vec::new();
        for field in fields {
            let name = field.get("name").and_then(Json::as_str).ok_or("a field has no `name`")?;
            let of = field.get("type").ok_or_else(|| format!("the field {name:?} has no `type`"))?;
            let of = self.read(of, &namespace, depth + 1).map_err(|error| format!("field {name:?}: {error}"))?;
            read.push((name.to_owned(), of));
        }
        if let Some(place) = self.types.get_mut(id) {
            *place = AvroType::Record(read);
        }
        Ok(id)
    }

    /// Adds a named type. Returns its place and the namespace that holds inside it.
    fn define(&mut self, object: &Map<String, Json>, outer: &str, one: AvroType) -> Result<(TypeId, String), String> {
        let name = object.get("name").and_then(Json::as_str).ok_or("a record, enum or fixed has no `name`")?;
        let namespace = object.get("namespace").and_then(Json::as_str).unwrap_or(outer);
        let full = full_name(name, namespace);
        let inner = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let id = self.add(one);
        if self.names.insert(full.clone(), id).is_some() {
            return Err(format!("the schema defines the type {full:?} twice"));
        }
        Ok((id, inner))
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.into() } else { format!("{namespace}.{name}") }
}

fn scale(object: &Map<String, Json>) -> Result<u32, String> {
    let scale = object.get("scale").map_or(Some(0), Json::as_u64).filter(|scale| *scale <= MOST_SCALE);
    scale.and_then(|scale| scale.try_into().ok()).ok_or_else(|| "a decimal's `scale` is no small number".into())
}
