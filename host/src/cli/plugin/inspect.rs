//! `reduct-sink plugin inspect`.

use std::path::PathBuf;

use clap::Args;
use reduct_sink::devkit::inspect::{Inspection, inspect, inspect_at};

use super::registry::RegistryOptions;
use super::{CommandError, Exit, failed, is_json, print};

#[derive(Debug, Args)]
pub struct Inspect {
    /// The component: a file, or an address such as oci://HOST/NAME:TAG
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    registry: RegistryOptions,
}

impl Inspect {
    pub fn execute(self) -> Result<(), CommandError> {
        let inspection = match self.registry.plugin(&self.file)? {
            Some(plugin) => inspect_at(&plugin),
            None => inspect(&self.file),
        };
        let inspection = inspection.map_err(failed)?;
        if is_json() {
            print(serde_json::to_string_pretty(&inspection).map_err(failed)?);
        } else {
            tell(&inspection);
        }
        if inspection.problem.is_none() { Ok(()) } else { Err(CommandError::reported(Exit::Plugin)) }
    }
}

fn tell(inspection: &Inspection) {
    let line = |what: &str, text: String| print(format_args!("{what:<12}{text}"));
    let list = |names: &[String]| if names.is_empty() { "none".into() } else { names.join(", ") };
    line("file", inspection.file.clone());
    if let Some(pinned) = &inspection.pinned {
        line("pinned", pinned.clone());
    }
    line("name", inspection.name.clone());
    line("digest", format!("sha256 {}", inspection.digest));
    line(
        "signed",
        match &inspection.signed_by {
            Some(signer) => format!("{signer}; `plugin verify` checks it"),
            None => "no".into(),
        },
    );
    let cores: usize = inspection.core_modules.iter().sum();
    line(
        "size",
        format!("{} bytes, of which {cores} in {} core modules", inspection.bytes, inspection.core_modules.len()),
    );
    line("made by", list(&inspection.made_by));
    let world = inspection.world.as_deref().map_or("no world of ours".into(), |world| format!("world `{world}`"));
    line("contract", format!("{}, {world}", inspection.contract.as_deref().unwrap_or("not reduct-sink:transform")));
    line("uses", list(&inspection.host_functions));
    if inspection.wasi.is_empty() {
        line("WASI", "none".into());
    }
    for wasi in &inspection.wasi {
        line("WASI", format!("{} ({}): {}", wasi.package, wasi.interfaces.join(", "), wasi.meaning));
    }
    if !inspection.other_imports.is_empty() {
        line("imports", list(&inspection.other_imports));
    }
    line("exports", list(&inspection.exports));
    match (&inspection.problem, inspection.load_ms) {
        (Some(problem), _) => line("FAILED", problem.clone()),
        (None, Some(ms)) => line("loads", format!("yes, in {ms:.1} ms")),
        (None, None) => line("loads", "yes".into()),
    }
    if let Some(reason) = &inspection.wants_configuration {
        line("", format!("without a configuration it says: {reason}"));
    }
}
