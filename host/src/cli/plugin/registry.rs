//! Plugins that commands are given by their address: what the commands have in common, and `reduct-sink plugin push`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use reduct_sink::config::{
    FetchRules, PluginConfig, PluginSource, RemoteAddress, RemotePlugin, in_full, plugin_name_of,
};
use reduct_sink::devkit::inspect::interfaces;
use reduct_sink::plugin::{FetchError, push, signature_file};

use super::{CommandError, Exit, failed, tell_done};

/// How long storing a component may take.
const PUSH: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub struct RegistryOptions {
    /// Certificate authorities that are trusted beside the system's, in PEM form
    #[arg(long, value_name = "FILE", env = "REDUCT_SINK_REGISTRIES_CA")]
    ca: Option<PathBuf>,
    /// Ask the registry or web server without TLS
    #[arg(long)]
    plain_http: bool,
}

impl RegistryOptions {
    fn rules(&self, address: &RemoteAddress) -> FetchRules {
        let plain_http = if self.plain_http { vec![address.host()] } else { Vec::new() };
        FetchRules { ca: self.ca.clone(), plain_http, ..FetchRules::default() }
    }

    /// The plugin at an address. `None`: the text is a file's path.
    pub fn plugin(&self, text: &Path) -> Result<Option<PluginConfig>, CommandError> {
        let Some(text) = text.to_str().filter(|text| RemoteAddress::is_meant(text)) else { return Ok(None) };
        let address = parse(text)?;
        let name = plugin_name_of(Path::new(address.last_name())).unwrap_or_else(|| "plugin".into());
        let rules = self.rules(&address);
        let remote = RemotePlugin { address, follow: None, rules };
        Ok(Some(PluginConfig::new(name, PluginSource::Remote(Box::new(remote)))))
    }
}

#[derive(Debug, Args)]
pub struct Push {
    /// The component; if FILE.minisig is there, the signature is stored with it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to: oci://HOST/NAME:TAG
    #[arg(value_name = "ADDRESS")]
    address: String,
    #[command(flatten)]
    registry: RegistryOptions,
}

impl Push {
    pub fn execute(self) -> Result<(), CommandError> {
        let address = parse(&self.address)?;
        // What is sent is the operator's own file, whatever its size.
        let rules = FetchRules { timeout: PUSH, ..self.registry.rules(&address) };
        let oci = match address {
            RemoteAddress::Oci(oci) if oci.tag.is_some() && oci.digest.is_none() => oci,
            _ => return Err(usage("expected oci://HOST/NAME:TAG, without a digest")),
        };
        let file = in_full(&self.file);
        let component = std::fs::read(&self.file).with_context(|| format!("cannot read {file}")).map_err(failed)?;
        let interfaces = interfaces(&component).ok_or_else(|| {
            CommandError::new(Exit::Plugin, anyhow!("{file} isn't a component; `plugin inspect` says more"))
        })?;
        let signature = match std::fs::read_to_string(signature_file(&self.file)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(anyhow!("cannot read {}: {error}", in_full(&signature_file(&self.file))))),
        };
        let signed = if signature.is_some() { ", with its signature" } else { "" };
        let pinned = push(&oci, &rules, component, interfaces, signature).map_err(|error| {
            let exit = match &error {
                FetchError::NotAnArtifact(_) | FetchError::Setup(_) | FetchError::TooLong { .. } => Exit::Failed,
                _ => Exit::Unreachable,
            };
            CommandError::new(exit, anyhow!("{file} isn't pushed: {oci} {error}; {}", error.remedy()))
        })?;
        tell_done(
            format_args!("{file} is in the registry{signed}: {pinned}"),
            &serde_json::json!({ "file": file.to_string(), "pinned": pinned.clone(), "signed": !signed.is_empty() }),
        );
        Ok(())
    }
}

fn parse(text: &str) -> Result<RemoteAddress, CommandError> {
    RemoteAddress::parse(text).map_err(|expected| usage(&format!("this address isn't right, expected {expected}")))
}

fn usage(text: &str) -> CommandError {
    CommandError::new(Exit::Usage, anyhow!("{text}"))
}
