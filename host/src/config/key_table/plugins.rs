//! The rows of `[[plugins]]`. A reload takes all of them over, so none needs a restart.

use std::time::Duration;

use super::Preset::{Absent, Derived};
use super::{GB, GIB, HOUR, KB, Key, MB, MIB, Preset, SECOND, Section, TB, Takes, words};
use crate::config::{FailurePolicy, InstancesFor, Mode, WhileOpen};

const DAY: Duration = HOUR.saturating_mul(24);
const TENTH: Duration = Duration::from_millis(100);

pub(super) const SECTIONS: &[Section] = &[
    section(
        "plugins",
        "The chain, in order. Without any, the built-in passthrough runs alone, as here; `plugins = []` at the top of the \
         file runs no plugin.",
    ),
    section(
        "plugins.limits",
        "What one call may answer and log. A call that exceeds a limit is a failure, and the plugin's instance is replaced.",
    ),
    section("plugins.recycle", "When a fresh instance replaces one that works."),
    optional("plugins.breaker", "What happens while a plugin fails on everything. Without `then` nothing does."),
    section("plugins.grants", "What the plugin may reach beside the record."),
    optional("plugins.when", "Which records the plugin is asked about: all conditions must hold."),
    section("plugins.trial", "A new version sees live records beside the active one before it takes over."),
    section("plugins.bake", "After a new version took over: past these bounds the host rolls back by itself."),
];

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "plugins",
        Takes::Plugins,
        Absent,
        "A component that each record goes through, instead of the file's chain; several form a chain in this order.",
    )
        .example("\"relabel.wasm\"")
        .env("PLUGINS")
        .repeatable_flag("--plugin", "FILE"),
    Key::new(
        "plugins.builtin",
        Takes::Text("`passthrough`"),
        Absent,
        "A plugin that is part of the host: the passthrough, which changes nothing.",
    )
    .example("\"passthrough\""),
    Key::new(
        "plugins.path",
        Takes::Path("a component, or the address of one"),
        Absent,
        "The component's file, or an address that the host fetches it from: `oci://HOST/NAME@sha256:DIGEST`, where DIGEST is \
         that of the manifest, or `https://HOST/PATH#sha256=DIGEST`, where it is that of the file.",
    )
    .example("\"relabel.wasm\"")
    .excludes("plugins.builtin"),
    Key::new(
        "plugins.follow",
        Takes::Duration { min: SECOND, max: DAY },
        Absent,
        "How often the host asks the registry what the tag in `path` means (`oci://HOST/NAME:TAG`). What it comes to mean is \
         fetched, tried and taken over as a changed file is. Without `follow` an address needs a digest.",
    )
    .example("\"1m\"")
    .excludes("plugins.builtin"),
    Key::new(
        "plugins.name",
        Takes::Text("small letters, digits and `-`; unique in the chain"),
        Derived("the file's name without its extension, in small letters, with `-` for what isn't a letter or digit"),
        "The plugin's name in logs, labels and commands.",
    )
    .example("\"passthrough\""),
    Key::new(
        "plugins.sha256",
        Takes::Text("64 hexadecimal digits"),
        Absent,
        "The digest of the only file that is loaded, at the start and in a swap. Another is refused with both digests in \
         the message.",
    )
    .example("\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"")
    .excludes("plugins.builtin"),
    Key::new(
        "plugins.on_failure",
        Takes::Choice(words::<FailurePolicy>),
        Preset::Text("dead-letter"),
        "What becomes of a record on which the plugin failed. `skip` leaves it unwritten and counts it, `pass` goes on as if \
         the plugin weren't there, `stop` stops the host without committing the record.",
    ),
    Key::new(
        "plugins.attempts",
        Takes::Number { min: 1, max: 1000 },
        Preset::Number(10),
        "How often a record is handed to a plugin that answers `retry`. Between two attempts its partition waits for 50 ms at \
         first and 5 s at most; after the last attempt it is a failure.",
    ),
    Key::new(
        "plugins.instances",
        Takes::Choice(words::<InstancesFor>),
        Preset::Text("shared"),
        "Whether an instance is asked about records of all topics, or each topic has an instance of its own: then the plugin \
         can't carry data of one topic into the records of another.",
    ),
    Key::new(
        "plugins.timeout",
        Takes::Duration { min: Duration::from_millis(1), max: SECOND.saturating_mul(300) },
        Preset::Duration(SECOND),
        "How long one call may take.",
    ),
    Key::new(
        "plugins.memory",
        Takes::Size { min: MB, max: 4 * GIB },
        Preset::Size(256 * MB),
        "How much memory one instance may use.",
    ),
    Key::new(
        "plugins.config",
        Takes::Table("any TOML"),
        Absent,
        "The plugin's own configuration: any TOML, handed to it as JSON. Times become texts; `nan` and `inf` are refused.",
    )
    .example("{ set = { site = \"hall-3\" } }"),
    Key::new(
        "plugins.limits.outputs",
        Takes::Number { min: 1, max: 1024 },
        Preset::Number(1024),
        "How many parts one record may be split into.",
    ),
    Key::new(
        "plugins.limits.labels",
        Takes::Number { min: 0, max: 256 },
        Preset::Number(256),
        "How many label changes one output may have.",
    ),
    Key::new(
        "plugins.limits.verdict",
        Takes::Size { min: KB, max: 64 * MIB },
        Preset::Size(64 * MIB),
        "How many bytes one verdict may have, payloads included. Where a plugin before it split a record, its verdicts on all \
         parts count together.",
    ),
    Key::new(
        "plugins.limits.log_lines",
        Takes::Number { min: 1, max: 1_000_000 },
        Preset::Number(10_000),
        "How many lines one call may log. Lines are cut at 4096 bytes.",
    ),
    Key::new(
        "plugins.limits.log_rate",
        Takes::Number { min: 0, max: 100_000 },
        Preset::Number(100),
        "How many lines a second are logged, over all calls. Further lines are left out and counted; that is no failure.",
    ),
    Key::new(
        "plugins.limits.entries",
        Takes::Texts("entry names with `*` for anything and `{topic}` for the topic's own name"),
        Derived("`[\"{topic}\", \"{topic}/*\"]`; any where `store.entry` puts a folder in front of `{name}`: `{topic}/` or one of yours, such as `plant/`"),
        "The entries that the plugin may choose, before the template of `store.entry` is applied. Another choice is a failure. \
         `[\"*\"]` allows any, also those that another sink writes in the same bucket.",
    )
    .example("[\"images/*\", \"{topic}/*\"]"),
    Key::new(
        "plugins.limits.http_connections",
        Takes::Number { min: 1, max: 1000 },
        Preset::Number(16),
        "How many HTTP connections the plugin may have at a time, over all workers; a version in its trial or bake \
         window has as many of its own. A request above it gets the error `connection-limit-reached`.",
    ),
    Key::new(
        "plugins.limits.http_size",
        Takes::Size { min: KB, max: GB },
        Preset::Size(16 * MB),
        "How many bytes one HTTP request may send, and how many its answer may have. A connection that exceeds it is closed.",
    ),
    Key::new(
        "plugins.limits.file_size",
        Takes::Size { min: KB, max: GB },
        Preset::Size(64 * MIB),
        "How large the component's file may be. It is checked before anything is compiled.",
    ),
    Key::new(
        "plugins.recycle.calls",
        Takes::Number { min: 1, max: 1_000_000_000_000 },
        Preset::Number(1_000_000),
        "After how many calls an instance is replaced.",
    ),
    Key::new(
        "plugins.recycle.memory",
        Takes::Size { min: MB, max: 4 * GIB },
        Derived("three quarters of the way from what the instance had at its start to `memory`"),
        "Above how much memory an instance is replaced.",
    )
    .example("\"192MB\""),
    Key::new(
        "plugins.breaker.then",
        Takes::Choice(words::<WhileOpen>),
        Absent,
        "What becomes of records while the breaker is open and the plugin isn't called: as under `on_failure`, or `wait`, \
         where their partitions wait.",
    )
    .example("\"wait\""),
    Key::new(
        "plugins.breaker.failures",
        Takes::Number { min: 1, max: 1_000_000 },
        Preset::Number(100),
        "After how many failed calls in a row the breaker opens, over all partitions. `retry` answers count.",
    ),
    Key::new(
        "plugins.breaker.pause",
        Takes::Duration { min: TENTH, max: HOUR },
        Preset::Duration(SECOND.saturating_mul(30)),
        "How long the breaker stays open before one record is tried. If the plugin succeeds, the breaker closes; if not, \
         that record gets `on_failure`.",
    ),
    Key::new("plugins.grants.clocks", Takes::Boolean, Preset::Boolean(false), "Lets the plugin read the host's clocks."),
    Key::new(
        "plugins.grants.random",
        Takes::Boolean,
        Preset::Boolean(false),
        "Lets the plugin use the system's randomness.",
    ),
    Key::new(
        "plugins.grants.environment",
        Takes::TableOrNames("a table of texts, or a list of names"),
        Absent,
        "The plugin's environment: a table of texts, or a list of names whose values are the host's own.",
    )
    .example("{ SITE = \"hall-3\" }"),
    Key::new(
        "plugins.grants.directories",
        Takes::Tables("`{ path, guest, writable }`"),
        Absent,
        "Folders that the plugin may read, and with `writable = true` also write. `path` is relative to the configuration \
         file's folder, `guest` is what the plugin calls it. A folder in which the configuration file, a file of secrets or the \
         cache lies is refused, and so are `/proc`, `/dev` and one that is reached through a folder that a plugin may write.",
    )
    .example("[{ path = \"models\", guest = \"/models\", writable = false }]"),
    Key::new(
        "plugins.grants.http",
        Takes::Texts("`host:port` or `https://host:port`"),
        Absent,
        "Hosts with their ports to which the plugin may send HTTP requests; with `https://` in front, by HTTPS only. A name \
         that leads to an address that isn't public is refused, unless `http_networks` has it. An address that stands here \
         itself is allowed, and so is `localhost`. A request ends within the plugin's `timeout`, counted from its start.",
    )
    .example("[\"https://example.com:443\"]"),
    Key::new(
        "plugins.grants.http_networks",
        Takes::Texts("networks or addresses"),
        Absent,
        "Networks that aren't public (private, loopback, link-local, where clouds keep their metadata) in which the names of \
         `http` may lie.",
    )
    .example("[\"10.0.0.0/8\"]"),
    Key::new(
        "plugins.grants.http_ca",
        Takes::Path("a PEM file"),
        Absent,
        "Certificate authorities that HTTPS trusts beside the public ones.",
    )
    .example("\"registry-ca.pem\""),
    Key::new(
        "plugins.when.topics",
        Takes::Texts("names of topics, or patterns that begin with `^`"),
        Derived("all"),
        "Topics of which the plugin is asked.",
    )
    .example("[\"camera\", \"^line-[0-9]+$\"]"),
    Key::new(
        "plugins.when.headers",
        Takes::Table("a text (equal), `true` (present) or `false` (absent) for each header"),
        Derived("all"),
        "Headers that the record must have: a text must be equal, `true` means present, `false` absent. Of several headers \
         of one key, one that is equal suffices.",
    )
    .example("{ kind = \"image\", debug = false }"),
    Key::new(
        "plugins.when.min_size",
        Takes::Size { min: 1, max: TB },
        Absent,
        "The smallest payload that the plugin is asked about.",
    )
    .example("1"),
    Key::new(
        "plugins.when.max_size",
        Takes::Size { min: 0, max: TB },
        Absent,
        "The largest payload that the plugin is asked about.",
    )
    .example("\"2MB\""),
    Key::new(
        "plugins.trial.mode",
        Takes::Choice(words::<Mode>),
        Preset::Text("off"),
        "Whether a new version is tried first: not at all, with the host deciding by the bounds below, or with a person \
         deciding by `reduct-sink plugin promote` and `rollback`.",
    ),
    Key::new(
        "plugins.trial.records",
        Takes::Number { min: 1, max: 1_000_000_000 },
        Preset::Number(1000),
        "After how many sampled records the trial ends.",
    ),
    Key::new(
        "plugins.trial.within",
        Takes::Duration { min: TENTH, max: DAY },
        Preset::Duration(SECOND.saturating_mul(60)),
        "After how long the trial ends if there were fewer records.",
    ),
    Key::new(
        "plugins.trial.every",
        Takes::Number { min: 1, max: 1_000_000 },
        Preset::Number(10),
        "One record of how many is sampled.",
    ),
    Key::new(
        "plugins.trial.max_failures",
        Takes::Share,
        Preset::Share(50),
        "On which share of the records the new version may fail beyond what the active one fails on.",
    ),
    Key::new(
        "plugins.trial.max_slowdown",
        Takes::Number { min: 2, max: 1_000_000 },
        Preset::Number(10),
        "How many times as long as the active version's the new version's median call may take. A median under 100 µs is \
         never too slow.",
    ),
    Key::new(
        "plugins.bake.mode",
        Takes::Choice(words::<Mode>),
        Preset::Text("auto"),
        "Whether a new version that fails or is slow is rolled back: never, by the host, or by a person.",
    ),
    Key::new(
        "plugins.bake.window",
        Takes::Duration { min: TENTH, max: DAY },
        Preset::Duration(SECOND.saturating_mul(60)),
        "For how long the new version is compared with the previous one.",
    ),
    Key::new(
        "plugins.bake.max_failures",
        Takes::Share,
        Preset::Share(50),
        "On which share of the records the new version may fail beyond what the previous one failed on. Failures are \
         counted against at least 1000 records.",
    ),
    Key::new(
        "plugins.bake.max_slowdown",
        Takes::Number { min: 2, max: 1_000_000 },
        Preset::Number(10),
        "How many times as long as the previous version's the new version's median call may take.",
    ),
];

const fn section(path: &'static str, doc: &'static str) -> Section {
    Section { path, doc, is_optional: false, example: "" }
}

const fn optional(path: &'static str, doc: &'static str) -> Section {
    Section { path, doc, is_optional: true, example: "" }
}
