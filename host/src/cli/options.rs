//! The flags that make up a configuration, for every command that needs one.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use reduct_sink::config::{self, Config, ConfigLocation, Flag, Key, KeyFlag, Pipelines, Sources};

use super::{CommandError, Exit, unpacking};

/// A valid configuration.
#[derive(Debug)]
pub struct LoadedConfig {
    pub pipelines: Pipelines,
    /// What the configuration risks, which nobody has reported yet.
    pub warnings: Vec<String>,
    /// What it came from, to be read again.
    pub sources: Sources,
}

impl LoadedConfig {
    /// For a command that has no better place for warnings than the log.
    pub fn with_warnings_logged(self) -> (Pipelines, Sources) {
        log(&self.warnings);
        (self.pipelines, self.sources)
    }

    /// The only pipeline, for a command that serves one.
    pub fn only(self) -> Result<Config, CommandError> {
        let (pipelines, _) = self.with_warnings_logged();
        pipelines.only().map_err(|problem| CommandError::new(Exit::Usage, anyhow::Error::msg(problem)))
    }
}

fn log(warnings: &[String]) {
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// Names the configuration file, too.
const VARIABLE: &str = "REDUCT_SINK_CONFIG";

/// Flags win over the environment (REDUCT_SINK_BROKERS, …), the environment over the file.
#[derive(Debug, Default, Args)]
pub struct ConfigFlags {
    /// Configuration file in TOML [env: REDUCT_SINK_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only this pipeline of a file with [pipelines] [default: all]
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    #[command(flatten)]
    keys: KeyFlags,
    /// Run no plugin at all
    #[arg(long, conflicts_with = "plugin")]
    no_plugins: bool,
}

/// The flags of the key table.
#[derive(Debug, Default)]
struct KeyFlags(Vec<Flag>);

impl Args for KeyFlags {
    fn augment_args(command: Command) -> Command {
        let with_flag = config::keys().filter_map(|key| Some((key, key.flag?)));
        with_flag.fold(command, |command, (key, flag)| command.arg(argument(key, flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let set = |key: &'static Key| {
            let flag = key.flag?;
            let values: Vec<String> = if flag.value.is_empty() {
                matches.get_flag(id(flag)).then(|| "true".into()).into_iter().collect()
            } else {
                matches.get_many(id(flag)).into_iter().flatten().cloned().collect()
            };
            (!values.is_empty()).then(|| Flag::new(key.path, values))
        };
        Ok(Self(config::keys().filter_map(set).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(key: &'static Key, flag: KeyFlag) -> Arg {
    // A flag without a value is off by default, which goes without saying.
    let default = key.preset.literal().filter(|_| !flag.value.is_empty());
    let default = default.map_or(String::new(), |literal| format!(" [default: {}]", literal.trim_matches('"')));
    let env = key.env.map_or(String::new(), |env| format!(" [env: {}{env}]", config::PREFIX));
    let repeatable = if flag.is_repeatable { " (repeatable)" } else { "" };
    let help = format!("{}{repeatable}{env}{default}", key.summary().replace('`', ""));
    let argument = Arg::new(id(flag)).long(id(flag)).help(help);
    match flag.value {
        "" => argument.action(ArgAction::SetTrue),
        value => argument.value_name(value).action(if flag.is_repeatable { ArgAction::Append } else { ArgAction::Set }),
    }
}

fn id(flag: KeyFlag) -> &'static str {
    flag.name.trim_start_matches('-')
}

/// The configuration file that the variable names. An empty variable counts as none.
pub fn file_by_variable() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl ConfigFlags {
    /// The only pipeline that is wanted.
    pub fn pipeline(&self) -> Option<&str> {
        self.pipeline.as_deref()
    }

    /// The file that the flag or the variable names.
    pub fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(file_by_variable)
    }

    /// For a command that only reads Kafka: what the configuration says of ReductStore doesn't matter.
    pub fn reading_only(config: Option<PathBuf>, pipeline: Option<String>, mut flags: Vec<Flag>) -> Self {
        flags.retain(|flag| !flag.values.is_empty());
        flags.push(Flag { is_fallback: true, ..Flag::new("store.bucket", vec!["none".into()]) });
        flags.push(Flag { is_fallback: true, ..Flag::new("plugins", Vec::new()) });
        Self { config, pipeline, keys: KeyFlags(flags), no_plugins: false }
    }

    /// The validated configuration. If it isn't valid, its warnings are logged before the error, because they may explain it.
    pub fn load(self) -> Result<LoadedConfig, CommandError> {
        let by_flag = self.config.clone().map(|path| (path, ConfigLocation::Flag("--config")));
        let by_variable = || {
            let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
            Some((path.into(), ConfigLocation::Environment(VARIABLE.into())))
        };
        let file = by_flag.or_else(by_variable);
        let environment = std::env::vars_os().collect();
        let pipeline = self.pipeline.clone();
        let sources = Sources { file, environment, flags: self.flags(), pipeline };
        let config::LoadOutcome { warnings, config } = config::load(sources.clone());
        match config {
            Ok(pipelines) => {
                unpacking::limit(&pipelines);
                Ok(LoadedConfig { pipelines, warnings, sources })
            }
            Err(problems) => {
                log(&warnings);
                Err(CommandError::of(problems))
            }
        }
    }

    fn flags(self) -> Vec<Flag> {
        let mut flags = self.keys.0;
        if self.no_plugins {
            flags.push(Flag::new("plugins", Vec::new()));
        }
        flags
    }
}
