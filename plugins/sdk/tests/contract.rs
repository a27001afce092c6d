//! The contract's folders: each parses, and none that is released has changed its shape.

use std::path::{Path, PathBuf};

use wit_parser::{Resolve, WorldItem};

fn contract() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")
}

/// Version 0.1.0 without its comments. It is frozen: comments may be mended, this may not.
const V0_1_0: &str = "package reduct-sink:transform@0.1.0; \
    interface types { \
    record header { key: string, value: option<list<u8>>, } \
    record label { name: string, value: string, } \
    record message { topic: string, partition: u32, offset: u64, timestamp: u64, key: option<list<u8>>, \
    headers: list<header>, payload-size: u64, } \
    record label-change { name: string, value: option<string>, } \
    record change { entry: option<string>, timestamp: option<u64>, labels: list<label-change>, \
    content-type: option<string>, payload: option<list<u8>>, } \
    variant verdict { keep, drop, change(change), split(list<change>), } \
    variant failure { reject(string), retry(string), } } \
    interface host { use types.{label}; enum level { error, warn, info, debug, } \
    log: func(level: level, text: string); payload: func() -> list<u8>; \
    read: func(offset: u64, length: u32) -> list<u8>; entry: func() -> string; labels: func() -> list<label>; \
    content-type: func() -> string; } \
    interface transformer { use types.{message, verdict, failure}; \
    configure: func(config: string) -> result<_, string>; \
    transform: func(message: message) -> result<verdict, failure>; } \
    world transform { import host; export transformer; }";

#[test]
fn version_0_1_0_is_frozen() {
    let text = std::fs::read_to_string(contract().join("v0.1.0/transform.wit")).unwrap();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words: Vec<String> = code.flat_map(str::split_whitespace).map(str::to_string).collect();
    assert_eq!(words.join(" "), V0_1_0);
}

#[test]
fn every_version_parses_and_is_documented() {
    let folders: Vec<PathBuf> = std::fs::read_dir(contract())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(!folders.is_empty());
    for folder in folders {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(&folder).unwrap_or_else(|error| panic!("{}: {error:?}", folder.display()));
        let name = &resolve.packages[package].name;
        assert_eq!(folder.file_name().unwrap().to_str(), Some(format!("v{}", name.version.as_ref().unwrap()).as_str()));

        let world = resolve.select_world(&[package], Some("transform")).unwrap();
        let exports: Vec<&WorldItem> = resolve.worlds[world].exports.values().collect();
        assert!(matches!(exports.as_slice(), [WorldItem::Interface { .. }]), "one exported interface");
        for (_, interface) in resolve.interfaces.iter() {
            let documented = |contents: Option<&String>| contents.is_some_and(|text| !text.trim().is_empty());
            let of = interface.name.clone().unwrap_or_default();
            assert!(documented(interface.docs.contents.as_ref()), "{of}");
            for (name, function) in &interface.functions {
                assert!(documented(function.docs.contents.as_ref()), "{of}.{name}");
            }
        }
    }
}
