//! Makes the component that is embedded in the binary, from text: the passthrough in `plugins/passthrough` and the
//! contract in `wit/`. The result lies in the build's output folder as `passthrough.wasm`.

use std::path::Path;
use std::{env, error::Error, fs};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const CONTRACT: &str = "../wit/v0.1.0";
const PASSTHROUGH: &str = "../plugins/passthrough/passthrough.wat";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={CONTRACT}");
    println!("cargo::rerun-if-changed={PASSTHROUGH}");
    let mut module = wat::parse_file(PASSTHROUGH)?;
    let mut contract = Resolve::default();
    let (package, _) = contract.push_dir(CONTRACT)?;
    let world = contract.select_world(&[package], Some("transform"))?;
    embed_component_metadata(&mut module, &contract, world, StringEncoding::UTF8)?;
    let component = ComponentEncoder::default().module(&module)?.validate(true).encode()?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("passthrough.wasm"), component)?;
    Ok(())
}
