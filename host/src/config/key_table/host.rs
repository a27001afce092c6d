//! The sections of everything but `[[plugins]]`, and the rows of those that have no file of their own.

use super::Preset::{Absent, Derived};
use super::{GB, HOUR, KB, Key, MB, MIB, Preset, SECOND, Section, TB, Takes, same, words};
use crate::config::ControlAccess;
use crate::record::labels::{DEFAULT_MAX_BYTES, DEFAULT_MAX_COUNT};

pub(super) const SECTIONS: &[Section] = &[
    section("kafka", "Where the records come from."),
    Section {
        path: "kafka.properties",
        doc: "Any property of librdkafka, such as those of TLS and SASL. Paths of certificates and keys (`ssl.ca.location` and the \
              like) are relative to this file's folder.",
        is_optional: false,
        example: "#security.protocol = \"SASL_SSL\"\n#sasl.mechanism = \"SCRAM-SHA-512\"\n#sasl.username = \"sink\"\n",
    },
    section("store", "Where the records go."),
    section("store.tls", "Certificates of an `https://` address."),
    section("store.create", "The settings of a bucket that the host creates; an existing bucket is left as it is."),
    Section {
        path: "attachments",
        doc: "Files that ReductStore keeps beside the records of an entry, such as the schema that its extensions need to select inside \
              payloads. One table for each file.",
        is_optional: true,
        example: "",
    },
    section("labels", "Which labels a record gets."),
    section("limits", "What the host may use."),
    section("trust", "Whose plugins are loaded."),
    section("registries", "How plugins are fetched whose `path` is an address."),
    section("status", "Health, status and control over HTTP."),
    section("traces", "Spans for OpenTelemetry."),
    section("cache", "Where compiled plugins are kept."),
    section("dead_letters", "Where records go that a plugin failed on, or that ReductStore refused."),
];

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "labels.plugins",
        Takes::Boolean,
        Preset::Boolean(true),
        "Marks each record with the plugins that handled it and their digests, in the label `sink.plugins`. The built-in \
         passthrough leaves no mark. Each label costs the store time: this one takes about a tenth off the rate at 1 KB.",
    )
    .env("LABEL_PLUGINS")
    .restart(same!(labels.plugins)),
    Key::new(
        "labels.lowercase",
        Takes::Boolean,
        Preset::Boolean(true),
        "Makes capitals in headers' keys lower case in the labels' names. With `false` a header `deviceId` becomes the label \
         `deviceId`; a client that reads a single record then shows it as `deviceid` all the same.",
    )
    .env("LABEL_LOWERCASE")
    .restart(same!(labels.lowercase)),
    Key::new(
        "labels.include",
        Takes::Texts("names of labels, in which `*` stands for any run of characters"),
        Derived("all headers become labels"),
        "Only headers whose label's name matches one of these become labels. Headers that become no label aren't stored, \
         except on dead letters.",
    )
    .example("[\"device*\", \"type\"]")
    .restart(same!(labels.include)),
    Key::new(
        "labels.exclude",
        Takes::Texts("names of labels, in which `*` stands for any run of characters"),
        Derived("none"),
        "Headers whose label's name matches one of these become no labels.",
    )
    .example("[\"authorization\", \"x-trace-*\"]")
    .restart(same!(labels.exclude)),
    Key::new(
        "labels.max_bytes",
        Takes::Size { min: 4 * KB, max: 64 * KB },
        Preset::Size(DEFAULT_MAX_BYTES as u64),
        "How many bytes a record's labels may take, names and values with four bytes for each label. A record above it \
         becomes a dead letter. The default leaves what ReductStore's Python client reads of one record, 8,190 bytes, room \
         for the rest.",
    )
    .env("LABEL_MAX_BYTES")
    .restart(same!(labels.max_bytes)),
    Key::new(
        "labels.max_count",
        Takes::Number { min: 16, max: 1000 },
        Preset::Number(DEFAULT_MAX_COUNT as u64),
        "How many labels a record may have, the host's own included. A record above it becomes a dead letter. \
         ReductStore's Rust client can't read a single record with more than about 90.",
    )
    .env("LABEL_MAX_COUNT")
    .restart(same!(labels.max_count)),
    Key::new(
        "limits.in_flight_records",
        Takes::Number { min: 1, max: 100_000_000 },
        Preset::Number(32_768),
        "How many records are read and not yet acknowledged, over all partitions.",
    )
    .env("IN_FLIGHT_RECORDS")
    .restart(same!(limits.in_flight_records)),
    Key::new(
        "limits.in_flight_bytes",
        Takes::Size { min: MB, max: TB },
        Preset::Size(64 * MIB),
        "How many bytes are read and not yet acknowledged, over all partitions. A record larger than this is read alone.",
    )
    .env("IN_FLIGHT_BYTES")
    .restart(same!(limits.in_flight_bytes)),
    Key::new(
        "limits.workers",
        Takes::Number { min: 1, max: 1024 },
        Derived("the number of cores"),
        "How many threads run plugins.",
    )
    .example("2")
    .env("WORKERS")
    .restart(same!(limits.workers)),
    Key::new(
        "limits.shutdown",
        Takes::Duration { min: SECOND, max: HOUR },
        Preset::Duration(SECOND.saturating_mul(20)),
        "How long the host may take from SIGTERM to its exit.",
    )
    .env("SHUTDOWN")
    .restart(same!(limits.shutdown)),
    Key::new(
        "limits.stuck_after",
        Takes::Duration { min: SECOND, max: HOUR.saturating_mul(24) },
        Preset::Duration(SECOND.saturating_mul(60)),
        "After how long without progress a partition that has work is reported as stuck, in the log and by `/health`.",
    )
    .env("STUCK_AFTER")
    .restart(same!(limits.stuck_after)),
    Key::new(
        "limits.compile_memory",
        Takes::Size { min: 64 * MB, max: 64 * GB },
        Preset::Size(2 * GB),
        "The memory that compiling one plugin may take. Compiling happens in a process of its own.",
    )
    .env("COMPILE_MEMORY")
    .restart(same!(limits.compile_memory)),
    Key::new(
        "limits.compile_time",
        Takes::Duration { min: SECOND, max: HOUR },
        Preset::Duration(SECOND.saturating_mul(120)),
        "The processor time that compiling one plugin may take, over all threads.",
    )
    .env("COMPILE_TIME")
    .restart(same!(limits.compile_time)),
    Key::new(
        "trust.require_sha256",
        Takes::Boolean,
        Preset::Boolean(false),
        "Whether each plugin's file must be pinned by its `sha256`.",
    ),
    Key::new(
        "trust.signed_by",
        Takes::Texts("public keys of minisign"),
        Absent,
        "One of these keys must have signed each plugin's file, with the signature in FILE.minisig beside it. It is checked at \
         the start and in swaps.",
    )
    .example("[\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"]"),
    Key::new(
        "registries.ca",
        Takes::Path("a PEM file"),
        Absent,
        "Certificate authorities that are trusted beside the system's, for registries and web servers.",
    )
    .example("\"registry-ca.pem\"")
    .env("REGISTRIES_CA"),
    Key::new(
        "registries.plain_http",
        Takes::Texts("`host` or `host:port`"),
        Absent,
        "Registries and web servers that are asked without TLS. Docker's password for them goes over the network readable.",
    )
    .example("[\"localhost:5000\"]")
    .env("REGISTRIES_PLAIN_HTTP"),
    Key::new(
        "registries.timeout",
        Takes::Duration { min: SECOND, max: HOUR },
        Preset::Duration(SECOND.saturating_mul(60)),
        "How long fetching one component may take, from the first request to the last byte.",
    )
    .env("REGISTRIES_TIMEOUT"),
    Key::new(
        "status.listen",
        Takes::Text("one host:port, or `\"\"` for none"),
        Preset::Text("127.0.0.1:9640"),
        "The address of `/livez`, `/readyz`, `/health`, `/metrics` and `/status` over HTTP; `\"\"` for none.",
    )
    .env("STATUS_LISTEN")
    .flag("--status", "HOST:PORT")
    .restart(same!(status.listen)),
    Key::new(
        "status.control",
        Takes::Choice(words::<ControlAccess>),
        Preset::Text("on"),
        "Who may change the host there or see parts of records (promote, roll back, pause, resume, replay, tap): nobody (`off`), \
         or who uses the host's Unix socket, which only its own user can open, or has the token of `token_file` (`on`).",
    )
    .env("STATUS_CONTROL")
    .restart(same!(status.control)),
    Key::new(
        "status.token_file",
        Takes::Path("a file that holds a token alone"),
        Absent,
        "A file with a token. Callers who send it (`Authorization: Bearer …`) may do what otherwise needs the Unix socket.",
    )
    .example("\"status-token\"")
    .env("STATUS_TOKEN_FILE")
    .restart(same!(status.token_file)),
    Key::new(
        "status.probes_listen",
        Takes::Text("one host:port"),
        Absent,
        "A further address, which serves the probes (`/livez`, `/readyz`, `/health`) and `/metrics` alone; it needs `status.listen`.",
    )
    .example("\"0.0.0.0:9641\"")
    .env("STATUS_PROBES_LISTEN")
    .restart(same!(status.probes_listen)),
    Key::new(
        "traces.endpoint",
        Takes::Text("a URL"),
        Absent,
        "Where spans are sent to: a collector's address for OTLP over HTTP. `/v1/traces` is appended to an address without a path. \
         Without this key `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and `OTEL_EXPORTER_OTLP_ENDPOINT` count, and without those no \
         spans are made.",
    )
    .example("\"http://127.0.0.1:4318\"")
    .env("TRACES_ENDPOINT")
    .restart(same!(traces.endpoint)),
    Key::new(
        "cache.path",
        Takes::Path("a folder, or `\"\"` for none"),
        Derived("`reduct-sink/plugins` in `$XDG_CACHE_HOME`, or else in `$HOME/.cache`"),
        "The folder of compiled plugins; `\"\"` for none. The folder and the key in it must belong to the host's user, and \
         no other user may write them or read the key; otherwise the log says so and nothing is cached.",
    )
    .example("\"/var/cache/reduct-sink\"")
    .env("CACHE_PATH")
    .restart(same!(cache.folder)),
    Key::new(
        "cache.size",
        Takes::Size { min: MB, max: TB },
        Preset::Size(2 * GB),
        "How many bytes the folder may hold. The plugin that wasn't used for longest is removed first.",
    )
    .env("CACHE_SIZE")
    .restart(same!(cache.bytes)),
    Key::new(
        "dead_letters.entry",
        Takes::Text("a template with `{topic}` and `{partition}`"),
        Preset::Text("dead-letters/{topic}/{partition}"),
        "The entry of dead letters, in the same bucket.",
    )
    .env("DEAD_LETTERS_ENTRY")
    .restart(same!(dead_letters.entry)),
    Key::new(
        "dead_letters.topic",
        Takes::Text("up to 249 letters, digits, `.`, `_` and `-`"),
        Absent,
        "A topic of the same Kafka for dead letters, instead of the entry. It must not be among `kafka.topics`. The host \
         doesn't create it.",
    )
    .example("\"camera-dead-letters\"")
    .env("DEAD_LETTERS_TOPIC")
    .excludes("dead_letters.entry")
    .restart(same!(dead_letters.topic)),
];

const fn section(path: &'static str, doc: &'static str) -> Section {
    Section { path, doc, is_optional: false, example: "" }
}
