//! The rows of `[store]` and `[[attachments]]`.

use std::time::Duration;

use super::Preset::{Absent, Derived, Required};
use super::{GB, HOUR, KB, Key, MB, Preset, SECOND, TB, Takes, same, words};
use crate::config::QuotaType;

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "store.url",
        Takes::Text("http:// or https://, a host, a port and perhaps a path"),
        Preset::Text("http://127.0.0.1:8383"),
        "ReductStore's address.",
    )
    .env("URL")
    .flag("--url", "URL")
    .restart(same!(store.url)),
    Key::new(
        "store.bucket",
        Takes::Text("letters, digits, `-` and `_`"),
        Required,
        "The bucket to write to. It is created if it doesn't exist.",
    )
    .example("\"kafka\"")
    .env("BUCKET")
    .flag("--bucket", "NAME")
    .restart(same!(store.bucket)),
    Key::new(
        "store.token",
        Takes::Text("one line of visible ASCII characters"),
        Absent,
        "The access token; other users of the machine can see a command line, so the variable or `token_file` are better \
         places. The token needs read and write access to the bucket, and full access if the bucket is to be created.",
    )
    .example("\"reduct-sink-2f1c\"")
    .env("TOKEN")
    .flag("--token", "TOKEN")
    // A token from the same file needs no restart: the file is read again when the store refuses the old token.
    .restart(|old, new| {
        old.store.token == new.store.token
            || (old.store.token_file.is_some() && old.store.token_file == new.store.token_file)
    }),
    Key::new(
        "store.token_file",
        Takes::Path("a file that holds the token alone"),
        Absent,
        "A file that holds the access token alone. It is read again when the store refuses the token. If a token and a file \
         come from different layers, the upper one counts.",
    )
    .example("\"token\"")
    .env("TOKEN_FILE")
    .excludes("store.token")
    .restart(same!(store.token_file)),
    Key::new(
        "store.entry",
        Takes::Text("a template with `{name}`, `{topic}` and `{partition}`"),
        Derived("`{name}` for a topic of one partition, `{name}/{partition}` for more"),
        "The entry's name: `{name}` is what a plugin chose, or else the topic. By default no two partitions share an entry; \
         where several topics are read, a name that a plugin chose is followed by `/{topic}`.",
    )
    .example("\"{name}/{partition}\"")
    .env("ENTRY")
    .flag("--entry", "TEMPLATE")
    .restart(same!(store.entry)),
    Key::new(
        "store.shared_entries",
        Takes::Boolean,
        Preset::Boolean(false),
        "Lets several hosts run although `entry` puts records of several partitions into one entry. Two hosts must not \
         write one entry: set this only if your keys tie each entry to one partition.",
    )
    .env("SHARED_ENTRIES")
    .restart(same!(store.shared_entries)),
    Key::new(
        "store.timeout",
        Takes::Duration { min: Duration::from_millis(100), max: HOUR },
        Preset::Duration(SECOND.saturating_mul(30)),
        "How long a request without a payload may take, from end to end; a larger one up to 64 times as long.",
    )
    .env("TIMEOUT")
    .restart(same!(store.timeout)),
    Key::new(
        "store.batch_records",
        Takes::Number { min: 1, max: 85 },
        Preset::Number(80),
        "How many records one request writes at most.",
    )
    .env("BATCH_RECORDS")
    .restart(same!(store.batch_records)),
    Key::new(
        "store.batch_bytes",
        Takes::Size { min: KB, max: GB },
        Preset::Size(8 * MB),
        "How many bytes one request writes at most; a larger record is sent alone.",
    )
    .env("BATCH_BYTES")
    .restart(same!(store.batch_bytes)),
    Key::new(
        "store.verify_writes",
        Takes::Boolean,
        Preset::Boolean(true),
        "Reads records back before they count as written. The server answers 200 before a record is finished, and only logs \
         it if that fails afterwards, as on a full disk: with `false` such records are lost.",
    )
    .env("VERIFY_WRITES")
    .restart(same!(store.verify_writes)),
    Key::new(
        "store.discard",
        Takes::Boolean,
        Preset::Boolean(false),
        "Writes nothing and counts every record as written, to measure the host itself.",
    )
    .env("DISCARD")
    .flag("--discard", "")
    .restart(same!(store.discard)),
    Key::new(
        "store.content_types",
        Takes::Table("a content type for each topic; `*` stands for the topics that aren't listed"),
        Absent,
        "The content types of topics whose records have no header `content-type`. A plugin's choice comes before the header, \
         and the header before this.",
    )
    .example("{ camera = \"image/jpeg\", \"*\" = \"application/json\" }")
    .restart(same!(store.content_types)),
    Key::new(
        "store.tls.ca",
        Takes::Path("a PEM file"),
        Absent,
        "A PEM file of further certificate authorities.",
    )
    .example("\"ca.pem\"")
    .env("TLS_CA")
    .restart(same!(store.ca)),
    Key::new(
        "store.tls.verify",
        Takes::Boolean,
        Preset::Boolean(true),
        "Checks the server's certificate; `false` accepts any.",
    )
    .env("TLS_VERIFY")
    .restart(same!(store.verify_tls)),
    Key::new(
        "store.create.max_block_records",
        Takes::Number { min: 1, max: 1_000_000 },
        Preset::Number(256),
        "How many records a block holds at most. Entries of more than a million records are written faster with larger blocks.",
    )
    .env("MAX_BLOCK_RECORDS")
    .restart(same!(store.create.max_block_records)),
    Key::new(
        "store.create.max_block_size",
        Takes::Size { min: MB, max: 100 * GB },
        Preset::Size(64 * MB),
        "How many bytes a block holds at most.",
    )
    .env("MAX_BLOCK_SIZE")
    .restart(same!(store.create.max_block_bytes)),
    Key::new(
        "store.create.quota_type",
        Takes::Choice(words::<QuotaType>),
        Preset::Text("none"),
        "What happens when the bucket is full: `fifo` removes the oldest blocks, `hard` refuses to write. Both need \
         `quota_size`.",
    )
    .env("QUOTA_TYPE")
    .restart(same!(store.create.quota)),
    Key::new(
        "store.create.quota_size",
        Takes::Size { min: MB, max: 1000 * TB },
        Absent,
        "How many bytes the bucket holds at most.",
    )
    .example("\"100GB\"")
    .env("QUOTA_SIZE")
    .restart(same!(store.create.quota)),
    Key::new(
        "attachments.entry",
        Takes::Text("an entry's name, in which `*` stands for any characters"),
        Required,
        "The entries that get the attachment. Where two attachments of one key fit an entry, the later counts.",
    )
    .example("\"camera*\"")
    .restart(same!(attachments)),
    Key::new(
        "attachments.key",
        Takes::Text("up to 100 letters, digits, `$`, `_`, `.` and `-`"),
        Required,
        "The attachment's name, such as `$schema` or `$ros`, by which ReductStore's extensions find it.",
    )
    .example("\"$schema\"")
    .restart(same!(attachments)),
    Key::new(
        "attachments.file",
        Takes::Path("a file that holds JSON, of at most 8 MB"),
        Required,
        "The file that holds the attachment. It is written to an entry before the host's first record there, when the file changes, and again within \
         seconds after the entry was removed.",
    )
    .example("\"frame.schema.json\"")
    .restart(same!(attachments)),
];
