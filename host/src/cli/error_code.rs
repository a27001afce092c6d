//! The stable names of what can end a command, for scripts: finer than the exit codes.
//!
//! Guarantees: each error of a type that a command can meet has one code whichever command it comes from; a code has one exit
//! code, one meaning and one remedy, and the table in `host/docs/configuration.md` is this one (a test compares them).

use reduct_sink::config::ConfigProblems;
use reduct_sink::consumer::ConsumerError;
use reduct_sink::dead_letters::replay::ReplayError;
use reduct_sink::devkit::build::BuildError;
use reduct_sink::devkit::dry_run::DryRunError;
use reduct_sink::kafka::check::TopicError;
use reduct_sink::kafka::error::KafkaCheckError;
use reduct_sink::kafka::group::GroupError;
use reduct_sink::kafka::peek::PeekError;
use reduct_sink::pipeline::RunError;
use reduct_sink::plugin::{LoadError, LoadProblem};
use reduct_sink::sink::AttachmentError;
use reduct_sink::sink::check::StoreCheckError;
use reduct_sink::sink::store::StoreError;

use super::exit::Exit;

macro_rules! codes {
    ($($variant:ident $name:literal $exit:ident $meaning:literal $remedy:literal)+) => {
        /// What ended a command.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant,)+
        }

        impl ErrorCode {
            /// All of them, in the order of the documents.
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As it stands in `--json` output.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            pub fn exit(self) -> Exit {
                match self { $(Self::$variant => Exit::$exit,)+ }
            }

            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// What to do, where the error itself knows nothing better.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)+ }
            }
        }
    };
}

codes! {
    Failed "failed" Failed "it failed while running" "see the message"
    Output "output" Failed "the output can't be written" "check the disk, and who reads the output"
    HostRefuses "host.refuses" Failed "the running host refuses what it was asked for" "see its message; acting needs the host's user or its token"
    HostAnswer "host.answer" Failed "what answers isn't a reduct-sink of this version" "check --status, and the host's version"
    HostFailed "host.failed" Failed "the host couldn't go on" "see its log; what wasn't committed is read again"
    GroupInUse "group.in-use" Failed "hosts of the group run, which must not write beside a replay" "stop every reduct-sink of the group"
    LettersLeft "replay.left" Failed "dead letters still fail, or were left when the replay was stopped" "see the reasons; correct the plugin and replay again"
    BuildFailed "plugin.build" Failed "a command of the plugin's build failed" "see what it said"
    TestFailed "plugin.test" Failed "a fixture's result isn't the expected one" "correct the plugin, or accept the results with --update"
    NoRecords "kafka.no-records" Failed "the topic has no record there" "check --from and the topic"
    Usage "usage" Usage "something that was named on the command line isn't right" "see the message"
    CommandLine "command-line" Usage "a flag or a command is wrong" "see --help"
    Config "config" Usage "the configuration is wrong; `problems` lists everything" "correct each of `problems` at its place"
    KafkaProperty "kafka.property" Usage "librdkafka refuses a property" "correct kafka.properties"
    StoreClient "store.client" Usage "the client of ReductStore can't be set up" "check store.tls and store.url"
    Attachment "attachment" Usage "a file of [[attachments]] can't be used" "correct its path"
    StatusAddress "status.address" Usage "status.listen can't be listened on" "set status.listen to a free address, or to \"\" for none"
    EntryName "store.entry" Usage "an entry's name can't be made" "set store.entry"
    Toolchain "plugin.toolchain" Usage "the tools of the plugin's language aren't installed" "install what the message names"
    Plugin "plugin" Plugin "a plugin isn't right" "see the message"
    PluginMissing "plugin.missing" Plugin "the plugin's file isn't there or can't be read" "check `path` and the file's permissions"
    PluginSize "plugin.size" Plugin "the plugin's file is too large" "strip it, or raise `limits.file_size`"
    PluginDigest "plugin.sha256" Plugin "the file isn't the one that `sha256` names" "put the file back, or change `sha256`"
    PluginSignature "plugin.signature" Plugin "no key of `trust.signed_by` has signed the file" "sign it with minisign"
    PluginFile "plugin.file" Plugin "the file is no component, or not all of one" "give the file that the plugin's build made"
    PluginCompile "plugin.compile" Plugin "the component can't be compiled within its limits" "build it again with a current toolchain"
    PluginContract "plugin.contract" Plugin "the component wasn't built for this host's contract" "build it against the released WIT"
    PluginGrant "plugin.grant" Plugin "the plugin can't be given what it is granted" "correct its `grants`"
    PluginStart "plugin.start" Plugin "the plugin fails when it is started" "the plugin's author has to fix it"
    PluginAddress "plugin.address" Plugin "what the plugin's address leads to isn't what was asked for" "check the address and its digest"
    PluginConfig "plugin.config" Plugin "the plugin refuses its configuration" "change the plugin's `config`"
    Unreachable "unreachable" Unreachable "a server can't be reached, or refuses" "see the message"
    KafkaUnreachable "kafka.unreachable" Unreachable "no broker answers" "check kafka.brokers, and that Kafka runs and can be reached from here"
    KafkaRefuses "kafka.refuses" Unreachable "the brokers refuse the credentials" "check security.protocol, the SASL and the SSL settings"
    KafkaTopic "kafka.topic" Unreachable "a topic isn't there, or can't be read" "create it, correct kafka.topics, or allow DESCRIBE and READ"
    KafkaGroup "kafka.group" Unreachable "the consumer group can't be used" "allow READ on the group"
    KafkaLetters "kafka.dead-letters" Unreachable "the dead letters' topic can't be read" "check dead_letters.topic"
    StoreUnreachable "store.unreachable" Unreachable "ReductStore doesn't answer" "check store.url, and that ReductStore runs and can be reached from here"
    StoreOther "store.other" Unreachable "what answers isn't a ReductStore that can be written to" "check store.url"
    StoreToken "store.token" Unreachable "ReductStore wants a token, or refuses it" "check store.token, store.token_file or REDUCT_SINK_TOKEN"
    StoreDenied "store.denied" Unreachable "the token lacks a right" "give it read and write access to the bucket"
    StoreVersion "store.version" Unreachable "ReductStore is too old" "update the server"
    StoreAnswer "store.answer" Unreachable "ReductStore answers with an error" "see its message"
    PluginRegistry "plugin.registry" Unreachable "a plugin's registry or web server doesn't answer, or refuses" "check the address, the network and `docker login`"
    HostUnreachable "host.unreachable" Unreachable "no host answers at --status" "check that it runs, and that its status.listen is this"
}

/// For errors that have no type of their own.
impl From<Exit> for ErrorCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Failed => Self::Failed,
            Exit::Usage => Self::Usage,
            Exit::Plugin => Self::Plugin,
            Exit::Unreachable => Self::Unreachable,
        }
    }
}

impl From<&ConfigProblems> for ErrorCode {
    fn from(_: &ConfigProblems) -> Self {
        Self::Config
    }
}

impl From<&LoadError> for ErrorCode {
    fn from(error: &LoadError) -> Self {
        Self::from(&error.problem)
    }
}

impl From<&LoadProblem> for ErrorCode {
    fn from(problem: &LoadProblem) -> Self {
        use LoadProblem as P;
        match problem {
            P::NotFound | P::Unreadable(_) => Self::PluginMissing,
            // Another time it may answer.
            P::Fetch(error) if error.is_no_answer() => Self::PluginRegistry,
            P::Fetch(_) => Self::PluginAddress,
            P::TooLarge { .. } => Self::PluginSize,
            P::OtherDigest { .. } => Self::PluginDigest,
            P::Signature(_) => Self::PluginSignature,
            P::Empty | P::CoreModule | P::Text | P::NotWasm(_) | P::Truncated(_) => Self::PluginFile,
            P::Compile(_) | P::TooCostly(_) => Self::PluginCompile,
            P::OtherVersion { .. } | P::WrongWorld { .. } | P::WrongShape(_) | P::UnknownImports(_) => {
                Self::PluginContract
            }
            P::Grant(_) => Self::PluginGrant,
            P::StartTrapped(_) | P::ConfigureTrapped(_) | P::StartTimedOut | P::Host(_) => Self::PluginStart,
            P::ConfigureRefused(_) => Self::PluginConfig,
        }
    }
}

impl From<&KafkaCheckError> for ErrorCode {
    fn from(error: &KafkaCheckError) -> Self {
        match error {
            KafkaCheckError::Property(_) => Self::KafkaProperty,
            KafkaCheckError::Unreachable { .. } => Self::KafkaUnreachable,
            KafkaCheckError::Refused { .. } => Self::KafkaRefuses,
            KafkaCheckError::Group { error, .. } => Self::from(error),
            KafkaCheckError::Letters { .. } => Self::KafkaLetters,
        }
    }
}

impl From<&TopicError> for ErrorCode {
    fn from(_: &TopicError) -> Self {
        Self::KafkaTopic
    }
}

impl From<&GroupError> for ErrorCode {
    fn from(_: &GroupError) -> Self {
        Self::KafkaGroup
    }
}

impl From<&StoreCheckError> for ErrorCode {
    fn from(error: &StoreCheckError) -> Self {
        match error {
            StoreCheckError::Client(_) => Self::StoreClient,
            StoreCheckError::Unreachable { .. } | StoreCheckError::Timeout { .. } => Self::StoreUnreachable,
            StoreCheckError::NotAStore { .. } | StoreCheckError::Redirected(_) => Self::StoreOther,
            StoreCheckError::NoToken | StoreCheckError::BadToken(_) => Self::StoreToken,
            StoreCheckError::Denied { .. } | StoreCheckError::MayNotCreate { .. } => Self::StoreDenied,
            StoreCheckError::TooOld { .. } => Self::StoreVersion,
            StoreCheckError::Store(_) => Self::StoreAnswer,
        }
    }
}

impl From<&StoreError> for ErrorCode {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::StoreUnreachable,
            StoreError::Unauthorized(_) => Self::StoreToken,
            StoreError::Denied(_) => Self::StoreDenied,
            StoreError::Unsupported(_) => Self::StoreVersion,
            _ => Self::StoreAnswer,
        }
    }
}

impl From<&AttachmentError> for ErrorCode {
    fn from(_: &AttachmentError) -> Self {
        Self::Attachment
    }
}

impl From<&ConsumerError> for ErrorCode {
    fn from(error: &ConsumerError) -> Self {
        match error {
            ConsumerError::Configuration(_) => Self::KafkaProperty,
            ConsumerError::Away(error) => Self::from(error),
            ConsumerError::Subscribe { .. } => Self::KafkaTopic,
            ConsumerError::Thread(_) => Self::Unreachable,
        }
    }
}

impl From<&RunError> for ErrorCode {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::Plugin(error) => Self::from(error),
            RunError::Kafka(error) => Self::from(error),
            RunError::Store { error, .. } => Self::from(error),
            RunError::Attachment(error) => Self::from(error),
            // What has to be corrected first.
            RunError::Several(failures) => {
                failures.iter().map(Self::from).min_by_key(|code| code.exit()).unwrap_or(Self::HostFailed)
            }
            RunError::Failed(_) => Self::HostFailed,
        }
    }
}

impl From<&PeekError> for ErrorCode {
    fn from(error: &PeekError) -> Self {
        match error {
            PeekError::Kafka(error) => Self::from(error),
            PeekError::Topic { error, .. } => Self::from(error),
            _ => Self::Unreachable,
        }
    }
}

impl From<&DryRunError> for ErrorCode {
    fn from(error: &DryRunError) -> Self {
        match error {
            DryRunError::Plugin(error) => Self::from(error),
            DryRunError::Kafka(error) => Self::from(error),
            DryRunError::Failed(_) => Self::Failed,
        }
    }
}

impl From<&ReplayError> for ErrorCode {
    fn from(error: &ReplayError) -> Self {
        match error {
            ReplayError::Plugin(error) => Self::from(error),
            ReplayError::Kafka(error) => Self::from(error),
            ReplayError::Discard | ReplayError::SharedEntries => Self::Usage,
            ReplayError::Attachment(error) => Self::from(error),
            ReplayError::Store { error, .. } => Self::from(error),
            ReplayError::Members { .. } | ReplayError::NotAlone { .. } => Self::GroupInUse,
            ReplayError::Stopped | ReplayError::Failed(_) => Self::Failed,
        }
    }
}

impl From<&BuildError> for ErrorCode {
    fn from(error: &BuildError) -> Self {
        match error {
            BuildError::Missing { .. } => Self::Toolchain,
            BuildError::Command(_) => Self::BuildFailed,
            BuildError::Other(_) => Self::Failed,
        }
    }
}

/// For errors that pass through layers that don't know them.
impl From<&anyhow::Error> for ErrorCode {
    fn from(error: &anyhow::Error) -> Self {
        if let Some(error) = error.downcast_ref::<LoadError>() {
            Self::from(error)
        } else if let Some(error) = error.downcast_ref::<PeekError>() {
            Self::from(error)
        } else {
            Self::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    /// With `UPDATE_GOLDEN=1` in the environment the table is written.
    #[test]
    fn the_documents_have_the_table() {
        const BEGIN: &str = "| code | exit | meaning | remedy |\n|---|---|---|---|\n";
        let row = |code: &ErrorCode| {
            format!("| `{}` | {} | {} | {} |\n", code.name(), code.exit() as u8, code.meaning(), code.remedy())
        };
        let table: String = ErrorCode::ALL.iter().map(row).collect();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let text = std::fs::read_to_string(&file).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the head of the table");
        let old: String = rest.split_inclusive('\n').take_while(|line| line.starts_with('|')).collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let after = rest.strip_prefix(&*old).unwrap();
            return std::fs::write(&file, format!("{before}{BEGIN}{table}{after}")).unwrap();
        }
        assert_eq!(old, table, "with UPDATE_GOLDEN=1 the document gets the table");
    }

    #[test]
    fn each_code_has_a_name_of_its_own() {
        let names: HashSet<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }
}
