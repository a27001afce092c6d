//! `reduct-sink plugin verify`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use reduct_sink::config::{PluginConfig, in_full};
use reduct_sink::plugin::{Runtime, is_public_key, verify};

use super::registry::RegistryOptions;
use super::{CommandError, ErrorCode, Exit, failed, tell_done};

#[derive(Debug, Args)]
pub struct Verify {
    /// The component, whose signature is FILE.minisig; or an address such as oci://HOST/NAME:TAG
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A public key of minisign that may have signed it: the second line of the .pub file; repeatable
    #[arg(long = "key", value_name = "KEY", required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    registry: RegistryOptions,
}

impl Verify {
    pub fn execute(self) -> Result<(), CommandError> {
        if let Some(wrong) = self.keys.iter().find(|key| !is_public_key(key)) {
            return Err(CommandError::new(Exit::Usage, anyhow::anyhow!("{wrong:?} isn't a public key of minisign")));
        }
        if let Some(plugin) = self.registry.plugin(&self.file)? {
            let plugin = PluginConfig { signed_by: self.keys, ..plugin };
            let file = self.file.display();
            let runtime = Runtime::new().map_err(failed)?;
            let (pinned, signed) = runtime.verify(&plugin).map_err(|problem| {
                CommandError::new(ErrorCode::from(&problem), anyhow::anyhow!("{file} {problem}; {}", problem.remedy()))
            })?;
            tell_done(
                format_args!("{pinned} is {signed}"),
                &serde_json::json!({ "file": pinned.clone(), "signed": signed.to_string() }),
            );
            return Ok(());
        }
        let file = in_full(&self.file);
        let component = std::fs::read(&self.file).with_context(|| format!("cannot read {file}")).map_err(failed)?;
        match verify(&component, &self.file, &self.keys) {
            Ok(signed) => {
                tell_done(
                    format_args!("{file} is {signed}"),
                    &serde_json::json!({ "file": file.to_string(), "signed": signed.to_string() }),
                );
                Ok(())
            }
            Err(error) => Err(CommandError::new(ErrorCode::PluginSignature, anyhow::anyhow!("{file} {error}"))),
        }
    }
}
