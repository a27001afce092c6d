//! Tells the binary which commit it is built from and which version of wasmtime is compiled in, and makes the component that is
//! embedded in it, from text: the passthrough in `plugins/passthrough` and the contract in `wit/`. The result lies in the build's
//! output folder as `passthrough.wasm`. On Linux it puts `native/unpack.c` between librdkafka and its decompressors.

use std::path::Path;
use std::process::Command;
use std::{env, error::Error, fs};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const CONTRACT: &str = "../wit/v0.1.0";
/// Set by a builder where there is no checkout.
const COMMIT: &str = "REDUCT_SINK_COMMIT";
const PASSTHROUGH: &str = "../plugins/passthrough/passthrough.wat";
const UNPACK: &str = "native/unpack.c";
/// The functions that `native/unpack.c` stands in for, in the binary only.
const BOUNDED: [&str; 10] = [
    "inflate",
    "LZ4F_decompress",
    "rd_gz_decompress",
    "rd_kafka_consumer_err",
    "rd_kafka_lz4_decompress",
    "rd_kafka_msgset_parse",
    "rd_kafka_snappy_java_uncompress",
    "rd_kafka_snappy_uncompress",
    "rd_kafka_snappy_uncompressed_length",
    "rd_kafka_zstd_decompress",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={CONTRACT}");
    println!("cargo::rerun-if-changed={PASSTHROUGH}");
    let mut module = wat::parse_file(PASSTHROUGH)?;
    let mut contract = Resolve::default();
    let (package, _) = contract.push_dir(CONTRACT)?;
    let world = contract.select_world(&[package], Some("transform"))?;
    embed_component_metadata(&mut module, &contract, world, StringEncoding::UTF8)?;
    let component = ComponentEncoder::default().module(&module)?.validate(true).encode()?;
    println!("cargo::rustc-env=WASMTIME_VERSION={}", locked_version("wasmtime")?);
    println!("cargo::rerun-if-env-changed={COMMIT}");
    if let Some(commit) = env::var(COMMIT).ok().filter(|commit| !commit.is_empty()).or_else(checked_out) {
        println!("cargo::rustc-env=BUILT_FROM_COMMIT={commit}");
    }
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("passthrough.wasm"), component)?;
    println!("cargo::rerun-if-changed={UNPACK}");
    if env::var("CARGO_CFG_TARGET_OS")? == "linux" {
        bound_unpacking();
    }
    Ok(())
}

/// The commit of the checkout that this is built in; `None`: it is none of this project, or there is no git.
fn checked_out() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // An unpacked archive may lie in somebody else's checkout.
    let top = fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    if top != fs::canonicalize("..").ok()? {
        return None;
    }
    // Both change with each commit and each checkout.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "HEAD"])
}

/// Has the linker put the functions of `native/unpack.c` in the place of librdkafka's.
fn bound_unpacking() {
    let objects =
        cc::Build::new().file(UNPACK).std("gnu11").warnings(true).extra_warnings(true).compile_intermediates();
    for object in objects {
        println!("cargo::rustc-link-arg-bin=reduct-sink={}", object.display());
    }
    for name in BOUNDED {
        println!("cargo::rustc-link-arg-bin=reduct-sink=-Wl,--wrap={name}");
    }
}

/// The version of a package in the workspace's lock file.
fn locked_version(package: &str) -> Result<String, Box<dyn Error>> {
    const LOCK: &str = "../Cargo.lock";
    println!("cargo::rerun-if-changed={LOCK}");
    let lock = fs::read_to_string(LOCK)?;
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).ok_or("it isn't in Cargo.lock")?;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}
