//! Makes guests: components whose `transform` has a body in WAT, with everything else that the contract demands.
//!
//! In a body, `$"text"` stands for the text's address and length. A body can use:
//!
//! - the message: `$topic`, `$topic-length`, `$partition`, `$offset`, `$timestamp`, `$has-key`, `$key`, `$key-length`,
//!   `$headers`, `$header-count`, `$payload-size`;
//! - the verdicts, which a body ends with: `$keep`, `$drop`, `$change`, `$split`, `$reject TEXT`, `$retry TEXT`;
//! - before `$change`, and after each `$part` before `$split`: `$entry TEXT`, `$time I64`, `$label TEXT TEXT`,
//!   `$unlabel TEXT`, `$type TEXT`, `$payload BYTES`;
//! - the host: `$host-log LEVEL TEXT`, and `$host-payload`, `$host-entry`, `$host-labels`, `$host-type` and `$host-read
//!   OFFSET LENGTH`, which leave what they found as `(global.get $got) (global.get $got-length)`;
//! - `$calls`, a global that counts this instance's calls, and the locals `$i` and `$n`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A component whose `transform` has this body, and whose `configure` accepts everything.
pub fn guest(transform: &str) -> Vec<u8> {
    Guest::new(transform).build()
}

/// A guest that has more than a body.
#[derive(Debug)]
pub struct Guest {
    transform: String,
    configure: String,
    imports: String,
    definitions: String,
    replaced: Vec<(String, String)>,
    wit: String,
    world: &'static str,
    version: &'static str,
}

impl Guest {
    pub fn new(transform: &str) -> Self {
        Self {
            transform: transform.into(),
            configure: "(i32.const 0)".into(),
            imports: String::new(),
            definitions: String::new(),
            replaced: Vec::new(),
            wit: String::new(),
            world: "transform",
            version: "0.1.0",
        }
    }

    /// Sets the body of `configure`, which can use `$config` and `$config-length`, and can end with `$refuse TEXT`.
    pub fn configure(mut self, body: &str) -> Self {
        self.configure = body.into();
        self
    }

    /// Adds imports to the core module, and the WIT that declares them: packages, and a world of another name that
    /// includes `reduct-sink:transform/transform@0.1.0`.
    pub fn importing(mut self, imports: &str, wit: &str, world: &'static str) -> Self {
        self.imports = imports.into();
        self.wit = wit.into();
        self.world = world;
        self
    }

    /// Adds definitions to the core module.
    pub fn defining(mut self, definitions: &str) -> Self {
        self.definitions = definitions.into();
        self
    }

    /// Replaces a part of the core module's own text.
    #[allow(dead_code, reason = "only the suite hostile uses it")]
    pub fn replacing(mut self, part: &str, by: &str) -> Self {
        self.replaced.push((part.into(), by.into()));
        self
    }

    /// Builds the guest for a changed contract: with another version, and with parts of the WIT replaced.
    pub fn contract(self, version: &'static str, replace: &[(&str, &str)]) -> Vec<u8> {
        let mut contract = contract_text();
        for (from, to) in replace {
            assert!(contract.contains(from), "the contract has no {from:?}");
            contract = contract.replacen(from, to, 1);
        }
        let contract = contract.replace("reduct-sink:transform@0.1.0;", &format!("reduct-sink:transform@{version};"));
        Self { version, ..self }.encode(&contract)
    }

    pub fn build(self) -> Vec<u8> {
        self.encode(&contract_text())
    }

    /// Builds the guest with this encoding of its texts.
    #[allow(dead_code, reason = "only the tests of plugins use it")]
    pub fn encoded(self, encoding: StringEncoding) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("contract.wit", &contract_text()).unwrap();
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        component(self.core_module(), &resolve, world, encoding)
    }

    pub fn core_module(&self) -> Vec<u8> {
        wat::parse_str(self.wat()).unwrap_or_else(|error| panic!("{error}\n{}", self.wat()))
    }

    /// The core module with its world in a custom section, as generators of bindings produce it.
    pub fn module_with_world(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("contract.wit", &contract_text()).unwrap();
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        let mut module = self.core_module();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        module
    }

    /// The same guest is made only once: some tests ask for one again and again.
    fn encode(&self, contract: &str) -> Vec<u8> {
        static MADE: Mutex<BTreeMap<[String; 2], Vec<u8>>> = Mutex::new(BTreeMap::new());
        let key = [format!("{self:?}"), contract.into()];
        if let Some(made) = MADE.lock().unwrap().get(&key) {
            return made.clone();
        }
        let mut resolve = Resolve::default();
        let package = resolve.push_str("contract.wit", contract).unwrap();
        let package = if self.wit.is_empty() { package } else { resolve.push_str("more.wit", &self.wit).unwrap() };
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        let made = component(self.core_module(), &resolve, world, StringEncoding::UTF8);
        MADE.lock().unwrap().insert(key, made.clone());
        made
    }

    fn wat(&self) -> String {
        let (mut texts, mut at) = (String::new(), 4096);
        let mut place = |wat: &str| place_texts(wat, &mut texts, &mut at);
        let (transform, configure) = (place(&self.transform), place(&self.configure));
        let (imports, definitions, version) = (&self.imports, &self.definitions, self.version);
        let replaced = self.replaced.iter().map(|(_, by)| by.as_str());
        let library =
            library_for([&transform, &configure, imports, definitions].into_iter().map(String::as_str).chain(replaced));
        let host = format!("reduct-sink:transform/host@{version}");
        let transformer = format!("reduct-sink:transform/transformer@{version}");
        let text = format!(
            r#"(module
  (import "{host}" "log" (func $host-log (param i32 i32 i32)))
  (import "{host}" "payload" (func $import-payload (param i32)))
  (import "{host}" "read" (func $import-read (param i64 i32 i32)))
  (import "{host}" "entry" (func $import-entry (param i32)))
  (import "{host}" "labels" (func $import-labels (param i32)))
  (import "{host}" "content-type" (func $import-type (param i32)))
  {imports}
  (memory (export "memory") 4)
  {definitions}
  {texts}
  {library}
  (func (export "{transformer}#configure") (param $config i32) (param $config-length i32) (result i32)
    (call $begin)
    {configure})
  (func (export "cabi_post_{transformer}#configure") (param i32) (call $end))
  (func (export "{transformer}#transform")
    (param $topic i32) (param $topic-length i32) (param $partition i32) (param $offset i64) (param $timestamp i64)
    (param $has-key i32) (param $key i32) (param $key-length i32) (param $headers i32) (param $header-count i32)
    (param $payload-size i64) (result i32) (local $i i32) (local $n i32)
    (call $begin)
    (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
    {transform})
  (func (export "cabi_post_{transformer}#transform") (param i32) (call $end)))"#
        );
        self.replaced.iter().fold(text, |text, (part, by)| {
            assert!(text.contains(part), "the module has no {part:?}");
            text.replacen(part, by, 1)
        })
    }
}

/// Makes a component of a core module in WAT and a world.
pub fn component_of(wat: &str, wit: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    component(wat::parse_str(wat).unwrap(), &resolve, world, StringEncoding::UTF8)
}

fn component(mut module: Vec<u8>, resolve: &Resolve, world: wit_parser::WorldId, texts: StringEncoding) -> Vec<u8> {
    embed_component_metadata(&mut module, resolve, world, texts).unwrap();
    let encoder = ComponentEncoder::default().module(&module).unwrap();
    encoder.validate(true).encode().unwrap_or_else(|error| panic!("{error:#}"))
}

fn contract_text() -> String {
    include_str!("../../../wit/v0.1.0/transform.wit").to_owned()
}

/// Adds each `$"text"` to the memory's texts, and replaces it by its address and length.
fn place_texts(wat: &str, texts: &mut String, at: &mut usize) -> String {
    let mut placed = String::new();
    let mut rest = wat;
    while let Some((before, after)) = rest.split_once("$\"") {
        let (text, after) = after.split_once('"').expect("a text ends");
        placed += &format!("{before}(i32.const {at}) (i32.const {})", text.len());
        let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        *texts += &format!("(data (i32.const {at}) \"{escaped}\")\n  ");
        *at += text.len();
        rest = after;
    }
    placed + rest
}

/// The library without the functions that none of these texts calls: for each guest all of them would be compiled.
fn library_for<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    static ITEMS: LazyLock<Vec<(Option<&str>, &str)>> = LazyLock::new(|| {
        // Each begins with two spaces and a parenthesis; what belongs to it stands further to the right.
        let starts = LIBRARY.match_indices("\n  (").map(|(at, _)| at).chain([LIBRARY.len()]).collect::<Vec<_>>();
        let items = starts.windows(2).map(|ends| &LIBRARY[ends[0]..ends[1]]);
        items.map(|item| (item.strip_prefix("\n  (func $").map(first_name), item)).collect()
    });
    let mut called: Vec<&str> = texts.flat_map(calls).chain(["begin", "end"]).collect();
    let mut used = BTreeSet::new();
    while let Some(name) = called.pop() {
        if used.insert(name) {
            called.extend(ITEMS.iter().filter(|(own, _)| *own == Some(name)).flat_map(|(_, item)| calls(item)));
        }
    }
    let kept = ITEMS.iter().filter(|(name, _)| name.is_none_or(|name| used.contains(name)));
    kept.map(|(_, item)| *item).collect()
}

/// The names of the functions that a text calls.
fn calls(text: &str) -> impl Iterator<Item = &str> {
    text.split("call $").skip(1).map(first_name)
}

fn first_name(text: &str) -> &str {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-').next().unwrap_or_default()
}

/// The part that all core modules share. Its memory holds the answer from 0 on, a return area at 1024, texts from 4096,
/// label changes from 32768 (20 bytes each), parts from 65536 (64 bytes each), and scratch space from 196608.
const LIBRARY: &str = r#"
  (global $free (mut i32) (i32.const 196608))
  (global $at (mut i32) (i32.const 16))
  (global $labels-end (mut i32) (i32.const 32768))
  (global $parts-end (mut i32) (i32.const 65536))
  (global $got (mut i32) (i32.const 0))
  (global $got-length (mut i32) (i32.const 0))
  (global $calls (mut i64) (i64.const 0))

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get 3)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $free) (i32.shl (memory.size) (i32.const 16))))
      (br_if $fits (i32.ne (i32.const -1) (memory.grow (i32.add (i32.const 1) (i32.shr_u
        (i32.sub (global.get $free) (i32.shl (memory.size) (i32.const 16))) (i32.const 16))))))
      unreachable)
    (local.get $at))

  (func $begin
    (memory.fill (i32.const 0) (i32.const 0) (i32.const 4096))
    (global.set $at (i32.const 16))
    (global.set $labels-end (i32.const 32768))
    (global.set $parts-end (i32.const 65536)))

  (func $end (global.set $free (i32.const 196608)))

  (func $verdict (param $case i32) (result i32) (i32.store8 (i32.const 8) (local.get $case)) (i32.const 0))
  (func $keep (result i32) (call $verdict (i32.const 0)))
  (func $drop (result i32) (call $verdict (i32.const 1)))
  (func $change (result i32) (call $verdict (i32.const 2)))
  (func $split (result i32)
    (i32.store (i32.const 16) (i32.const 65536))
    (i32.store (i32.const 20) (i32.shr_u (i32.sub (global.get $parts-end) (i32.const 65536)) (i32.const 6)))
    (call $verdict (i32.const 3)))
  (func $failure (param $case i32) (param i32 i32) (result i32)
    (i32.store8 (i32.const 0) (i32.const 1))
    (i32.store8 (i32.const 8) (local.get $case))
    (i32.store (i32.const 12) (local.get 1))
    (i32.store (i32.const 16) (local.get 2))
    (i32.const 0))
  (func $reject (param i32 i32) (result i32) (call $failure (i32.const 0) (local.get 0) (local.get 1)))
  (func $retry (param i32 i32) (result i32) (call $failure (i32.const 1) (local.get 0) (local.get 1)))
  (func $refuse (param i32 i32) (result i32)
    (i32.store8 (i32.const 0) (i32.const 1))
    (i32.store (i32.const 4) (local.get 0))
    (i32.store (i32.const 8) (local.get 1))
    (i32.const 0))

  (func $part
    (global.set $at (global.get $parts-end))
    (memory.fill (global.get $at) (i32.const 0) (i32.const 64))
    (global.set $parts-end (i32.add (global.get $at) (i32.const 64))))
  (func $some (param $field i32) (param i32 i32)
    (local.set $field (i32.add (global.get $at) (local.get $field)))
    (i32.store8 (local.get $field) (i32.const 1))
    (i32.store offset=4 (local.get $field) (local.get 1))
    (i32.store offset=8 (local.get $field) (local.get 2)))
  (func $entry (param i32 i32) (call $some (i32.const 0) (local.get 0) (local.get 1)))
  (func $type (param i32 i32) (call $some (i32.const 40) (local.get 0) (local.get 1)))
  (func $payload (param i32 i32) (call $some (i32.const 52) (local.get 0) (local.get 1)))
  (func $time (param i64)
    (i32.store8 offset=16 (global.get $at) (i32.const 1))
    (i64.store offset=24 (global.get $at) (local.get 0)))
  (func $add-label (param i32 i32 i32 i32 i32)
    (local $label i32)
    (local.set $label (global.get $labels-end))
    (global.set $labels-end (i32.add (local.get $label) (i32.const 20)))
    (if (i32.eqz (i32.load offset=36 (global.get $at)))
      (then (i32.store offset=32 (global.get $at) (local.get $label))))
    (i32.store offset=36 (global.get $at) (i32.add (i32.const 1) (i32.load offset=36 (global.get $at))))
    (i32.store (local.get $label) (local.get 0))
    (i32.store offset=4 (local.get $label) (local.get 1))
    (i32.store offset=8 (local.get $label) (local.get 2))
    (i32.store offset=12 (local.get $label) (local.get 3))
    (i32.store offset=16 (local.get $label) (local.get 4)))
  (func $label (param i32 i32 i32 i32)
    (call $add-label (local.get 0) (local.get 1) (i32.const 1) (local.get 2) (local.get 3)))
  (func $unlabel (param i32 i32)
    (call $add-label (local.get 0) (local.get 1) (i32.const 0) (i32.const 0) (i32.const 0)))

  (func $take
    (global.set $got (i32.load (i32.const 1024)))
    (global.set $got-length (i32.load (i32.const 1028))))
  (func $host-payload (call $import-payload (i32.const 1024)) (call $take))
  (func $host-entry (call $import-entry (i32.const 1024)) (call $take))
  (func $host-labels (call $import-labels (i32.const 1024)) (call $take))
  (func $host-type (call $import-type (i32.const 1024)) (call $take))
  (func $host-read (param i64 i32) (call $import-read (local.get 0) (local.get 1) (i32.const 1024)) (call $take))
"#;
