//! Tests the bill of materials of the host that the suites run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{figures, sink};
use serde_json::Value;

/// The names and versions come from Cargo's tree. What is compared with them are the paths of sources that the compiler leaves in the
/// binary, and the libraries that the dynamic linker is asked for: nothing that is linked may be missing.
#[test]
fn the_bill_of_materials_lists_what_is_linked() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a root")?;
    let binary = sink::binary()?;
    let made = Command::new(root.join(".ci/sbom")).arg("--binary").arg(&binary).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bill: Value = serde_json::from_slice(&made.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ensure!(text(&bill["bomFormat"]) == "CycloneDX" && text(&bill["metadata"]["component"]["name"]) == "reduct-sink");

    let components = bill["components"].as_array().context("components")?;
    let found: BTreeMap<String, &Value> =
        components.iter().map(|one| (format!("{}-{}", text(&one["name"]), text(&one["version"])), one)).collect();
    let code = std::fs::read(&binary)?;
    let code = String::from_utf8_lossy(&code);
    // Such a path is `/registry/src/REGISTRY/NAME-VERSION/src/…`, or in the debug information a part of it, which a NUL ends.
    let folders = code.split("/registry/src/").skip(1).filter_map(|path| path.split('/').nth(1));
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || "_.+-".contains(letter);
    let linked: BTreeSet<&str> = folders.filter_map(|name| name.split(|letter| !is_of_name(letter)).next()).collect();
    ensure!(linked.len() > 50, "only {} crates show in the binary", linked.len());
    let missing: Vec<_> = linked.iter().filter(|name| !found.contains_key(**name)).collect();
    ensure!(missing.is_empty(), "not in the bill of materials: {missing:?}");

    let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
    for (name, one) in &found {
        if !text(&one["purl"]).starts_with("pkg:cargo/") {
            continue;
        }
        ensure!(one["licenses"][0]["expression"].is_string(), "{name} has no licence");
        let checksum = text(&one["hashes"][0]["content"]);
        let entry = format!("name = \"{}\"\nversion = \"{}\"\n", text(&one["name"]), text(&one["version"]));
        let locked = lock.split("[[package]]\n").find(|package| package.starts_with(&entry));
        let locked = locked.with_context(|| format!("{name} isn't in Cargo.lock"))?;
        ensure!(checksum.len() == 64 && locked.contains(&checksum), "{name} has another checksum in Cargo.lock");
    }
    for name in ["librdkafka", "lz4", "zstd", "aws-lc"] {
        let library = components.iter().find(|one| one["name"] == name).with_context(|| format!("no {name}"))?;
        ensure!(text(&library["version"]).starts_with(|first: char| first.is_ascii_digit()), "{library}");
        ensure!(library["licenses"][0]["expression"].is_string(), "{library}");
    }
    let shared = |part: &str| components.iter().any(|one| text(&one["name"]).starts_with(part));
    ensure!(
        shared("libcurl.so") && shared("libssl.so") && shared("libcrypto.so") && shared("libz.so"),
        "{components:?}"
    );
    let tools = ["proptest", "tempfile-macros", "cc", "serde_derive", "axum-macros", "libfuzzer-sys"];
    let not_linked: Vec<_> =
        components.iter().map(|one| text(&one["name"])).filter(|name| tools.contains(&&**name)).collect();
    ensure!(not_linked.is_empty(), "{not_linked:?} aren't linked into the host");
    figures::record("sbom_components", components.len() as f64)
}
