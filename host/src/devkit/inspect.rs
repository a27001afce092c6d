//! `plugin inspect`: describes a component's file, and says whether this host would load it.
//!
//! Guarantees: any file can be inspected, and is described as far as it can be read; the host's own loader, with an
//! empty configuration, decides whether it loads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde::Serialize;
use wasmparser::{ComponentName, KnownCustom, Parser, Payload};
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldId, WorldItem, WorldKey};

use super::testing::plugin_name;
use crate::config::{PluginConfig, PluginSource, in_full};
use crate::plugin::{Cache, Digest, LoadProblem, Runtime, claimed_by, claimed_signer};
use crate::record::text::one_line;

/// The description of a component's file.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The file's path.
    pub file: String,
    /// For an address: the same with the digest, as a configuration has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// The component's name: the one in the file, or else the file's own.
    pub name: String,
    /// The file's sha256, which identifies the version.
    pub digest: String,
    /// The signer that the signature beside the file names. The signature is not checked.
    pub signed_by: Option<String>,
    /// The file's size.
    pub bytes: usize,
    /// The size of each core module in the component, in bytes.
    pub core_modules: Vec<usize>,
    /// The languages and tools with which it was made, with their versions.
    pub made_by: Vec<String>,
    /// The package and version of the contract for which it was built; `None`: it exports no transformer.
    pub contract: Option<String>,
    /// The world of the contract for which it was built; `None`: it exports no transformer.
    pub world: Option<String>,
    /// The host functions of the contract that it imports.
    pub host_functions: Vec<String>,
    /// The packages of WASI that it imports.
    pub wasi: Vec<Wasi>,
    /// Its other imports, which no host of this contract provides.
    pub other_imports: Vec<String>,
    /// Its exports.
    pub exports: Vec<String>,
    /// How long compiling, checking and starting took, in milliseconds; `None`: it doesn't load.
    pub load_ms: Option<f64>,
    /// Why it doesn't load, and the remedy; `None`: it loads.
    pub problem: Option<String>,
    /// Why it refuses an empty configuration, although it loads; `None`: it accepts one.
    pub wants_configuration: Option<String>,
}

/// A package of WASI that a component imports.
#[derive(Debug, Serialize)]
pub struct Wasi {
    /// The package's name and version.
    pub package: String,
    /// The names of its interfaces.
    pub interfaces: Vec<String>,
    /// What the plugin finds there, and what a grant would add.
    pub meaning: &'static str,
}

/// Reads, compiles and starts the component in `file`, and describes it.
pub fn inspect(file: &Path) -> anyhow::Result<Inspection> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", in_full(file)))?;
    let plugin = PluginConfig::new(plugin_name(file), PluginSource::File(file.to_owned()));
    let mut inspection = Inspection::of(file.display().to_string(), &plugin, &bytes);
    inspection.signed_by = claimed_signer(file);
    let runtime = Runtime::for_strangers(None)?;
    inspection.load(&runtime, &plugin);
    Ok(inspection)
}

/// Does the same with a plugin that has an address. It is fetched into the user's cache.
pub fn inspect_at(plugin: &PluginConfig) -> anyhow::Result<Inspection> {
    let PluginSource::Remote(remote) = &plugin.source else { return Err(anyhow!("it has no address")) };
    let cache = Cache::default_folder().and_then(|folder| super::cache(&folder).ok());
    let runtime = Runtime::for_strangers(cache)?;
    let address = remote.address.to_string();
    let fetched = runtime.latest(plugin).map_err(|problem| anyhow!("{address} {problem}; {}", problem.remedy()))?;
    let fetched = fetched.context("it has no address")?;
    let mut inspection = Inspection::of(address, plugin, &fetched.bytes);
    inspection.signed_by = fetched.signature.as_deref().and_then(claimed_by);
    inspection.pinned = Some(fetched.pinned);
    inspection.load(&runtime, plugin);
    Ok(inspection)
}

/// What a component imports, and what it exports. `None`: it isn't a component.
pub fn interfaces(component: &[u8]) -> Option<[Vec<String>; 2]> {
    let Ok(DecodedWasm::Component(resolve, world)) = wit_component::decode(component) else { return None };
    let world = resolve.worlds.get(world)?;
    let imports = world.imports.keys().map(|key| resolve.name_world_key(key)).collect();
    Some([imports, world.exports.keys().map(|key| resolve.name_world_key(key)).collect()])
}

fn blank(file: String, plugin: &PluginConfig, bytes: &[u8]) -> Inspection {
    Inspection {
        file,
        pinned: None,
        name: plugin.name.clone(),
        digest: Digest::of(bytes).to_string(),
        signed_by: None,
        bytes: bytes.len(),
        core_modules: Vec::new(),
        made_by: Vec::new(),
        contract: None,
        world: None,
        host_functions: Vec::new(),
        wasi: Vec::new(),
        other_imports: Vec::new(),
        exports: Vec::new(),
        load_ms: None,
        problem: None,
        wants_configuration: None,
    }
}

/// What is shown of a name that the component gives itself or its tools, and how many tools of each kind.
const SHOWN_BYTES: usize = 200;
const SHOWN_TOOLS: usize = 20;

impl Inspection {
    /// All that can be said without loading it.
    fn of(file: String, plugin: &PluginConfig, bytes: &[u8]) -> Self {
        let mut inspection = blank(file, plugin, bytes);
        // If the file isn't WebAssembly, the loader's message in `problem` says so.
        let tools = inspection.add_metadata(bytes);
        inspection.made_by = tools.into_iter().collect();
        if let Ok(DecodedWasm::Component(resolve, world)) = wit_component::decode(bytes) {
            inspection.add_world(&resolve, world);
        }
        inspection
    }

    /// Notes the core modules and the name, as far as the file can be read. Returns the languages and tools.
    fn add_metadata(&mut self, bytes: &[u8]) -> BTreeSet<String> {
        let mut tools = BTreeSet::new();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
            match payload {
                Payload::ModuleSection { unchecked_range, .. } => {
                    self.core_modules.push(unchecked_range.len());
                    depth += 1;
                }
                Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::CustomSection(section) => match section.as_known() {
                    KnownCustom::Producers(fields) => {
                        for field in fields.into_iter().map_while(Result::ok) {
                            let values = field.values.into_iter().map_while(Result::ok);
                            let shown = |text: String| one_line(text.trim(), SHOWN_BYTES);
                            let values = values.map(|tool| shown(format!("{} {}", tool.name, tool.version)));
                            tools.extend(values.take(SHOWN_TOOLS));
                        }
                    }
                    KnownCustom::ComponentName(names) if depth == 0 => {
                        for name in names.map_while(Result::ok) {
                            if let ComponentName::Component { name, .. } = name {
                                self.name = one_line(name, SHOWN_BYTES);
                            }
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        tools
    }

    fn add_world(&mut self, resolve: &Resolve, world: WorldId) {
        let Some(world) = resolve.worlds.get(world) else { return };
        let mut wasi: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, item) in &world.imports {
            let name = resolve.name_world_key(key);
            let WorldItem::Interface { id, .. } = item else {
                self.other_imports.push(name);
                continue;
            };
            let functions = resolve.interfaces.get(*id).map(|interface| interface.functions.keys().cloned());
            if name.starts_with("reduct-sink:transform/") {
                self.host_functions.extend(functions.into_iter().flatten());
            } else if let Some((package, interface)) = name.strip_prefix("wasi:").and_then(|rest| rest.split_once('/'))
            {
                let version = interface.split_once('@').map_or(String::new(), |(_, version)| format!("@{version}"));
                let interface = interface.split('@').next().unwrap_or_default().to_owned();
                wasi.entry(format!("wasi:{package}{version}")).or_default().push(interface);
            } else {
                self.other_imports.push(name);
            }
        }
        self.wasi = wasi
            .into_iter()
            .map(|(package, interfaces)| Wasi { meaning: meaning(&package, &interfaces), package, interfaces })
            .collect();
        let exports = world.exports.keys().map(|key| resolve.name_world_key(key));
        self.exports = exports.collect();
        let transformer = world.exports.keys().find_map(|key| match key {
            WorldKey::Interface(id) => {
                let interface = resolve.interfaces.get(*id)?;
                let package = resolve.packages.get(interface.package?)?;
                let name = package.name.to_string();
                (name.starts_with("reduct-sink:transform") && interface.name.as_deref() == Some("transformer"))
                    .then_some(name)
            }
            WorldKey::Name(_) => None,
        });
        self.world = transformer.is_some().then(|| "transform".into());
        self.contract = transformer;
    }

    fn load(&mut self, runtime: &Runtime, plugin: &PluginConfig) {
        let started = Instant::now();
        match runtime.load(plugin) {
            Ok(_) => self.load_ms = Some(milliseconds(started.elapsed())),
            Err(error) => match &error.problem {
                LoadProblem::ConfigureRefused(reason) => {
                    self.load_ms = Some(milliseconds(started.elapsed()));
                    self.wants_configuration = Some(reason.clone());
                }
                problem => self.problem = Some(format!("it {problem}; {}", problem.remedy())),
            },
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a plugin finds in this package of WASI without a grant, and what a grant (`plugins.grants`) would add.
fn meaning(package: &str, interfaces: &[String]) -> &'static str {
    let has = |name: &str| interfaces.iter().any(|interface| interface.starts_with(name));
    match package.split(['@', ':']).nth(1).unwrap_or_default() {
        "filesystem" => {
            "files; none are there. Granting `directories` lets it read what is in them, and change it where writable"
        }
        "sockets" => "the network; every connection is refused, and there is no grant for it",
        "http" => "HTTP requests; all are refused. Granting `http` lets it send what it sees of records to those hosts",
        "random" => {
            "random numbers; made from the record. Granting `random` gives real ones, and the same record may get \
             different answers"
        }
        "clocks" => {
            "clocks; they show the record's time. Granting `clocks` gives real ones, and the same record may get \
             different answers"
        }
        "io" => "streams and waiting, which the others use; no access by itself",
        "cli" if has("environment") => {
            "output goes to the log; no arguments, and no variables. Granting `environment` shows it those named"
        }
        "cli" => "output goes to the log; nothing can be read",
        _ => "nothing that this host knows",
    }
}
