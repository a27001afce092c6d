//! The rows of `[kafka]`.

use super::Preset::{Absent, Derived, Required};
use super::{Key, Preset, Takes, same, words};
use crate::config::{OnUnreadable, StartPolicy};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "kafka.brokers",
        Takes::Text("host:port pairs, separated by commas"),
        Required,
        "Kafka's brokers: host:port pairs, separated by commas.",
    )
    .example("\"127.0.0.1:9092\"")
    .env("BROKERS")
    .flag("--brokers", "HOST:PORT,…")
    .restart(same!(kafka.brokers)),
    Key::new(
        "kafka.topics",
        Takes::Texts("names of topics, or patterns that begin with `^`"),
        Required,
        "Topics to read; one that begins with `^` is a pattern. A pattern matches none of Kafka's own topics (`__consumer_offsets` and the like). librdkafka matches patterns as POSIX extended regular \
         expressions, so what would mean something else there (`\\d`, `(?i)`, `.*?`) is refused: write `[0-9]` for a digit.",
    )
    .example("[\"camera\"]")
    .env("TOPICS")
    .repeatable_flag("--topic", "TOPIC")
    .restart(same!(kafka.topics)),
    Key::new(
        "kafka.group",
        Takes::Text("a name"),
        Derived("`reduct-sink-` and the bucket's name"),
        "The consumer group. Hosts of one group share the partitions, so two pipelines must not use one group.",
    )
    .example("\"reduct-sink-kafka\"")
    .env("GROUP")
    .flag("--group", "NAME")
    .restart(same!(kafka.group)),
    Key::new(
        "kafka.member",
        Takes::Text("a name, `machine` or `none`"),
        Preset::Text("none"),
        "What the host is called in its group. A host that is killed and started again under the same name gets its partitions \
         back at once; without a name the group waits for `session.timeout.ms` first. `machine`: the first name that no other process of \
         this machine has. Give a name where a host comes back on another machine under a name of its own, as in a StatefulSet. \
         No two hosts of a group may have one name: the one that was there first loses it, says so, and goes on without a name.",
    )
    .example("\"sink-0\"")
    .env("MEMBER")
    .restart(same!(kafka.member)),
    Key::new(
        "kafka.start",
        Takes::Choice(words::<StartPolicy>),
        Preset::Text("earliest"),
        "Where a partition begins that has no committed offset, or whose committed offset the broker no longer has. \
         `fail` stops the host with an error.",
    )
    .env("START")
    .flag("--start", "POLICY")
    .restart(same!(kafka.start)),
    Key::new(
        "kafka.on_unreadable",
        Takes::Choice(words::<OnUnreadable>),
        Preset::Text("wait"),
        "What happens at a batch of records that can't be read, because its checksum is wrong or it can't be decompressed. \
         `wait`: the partition waits, `/health` says at which offset, and the batch is fetched again every 10 s. `stop`: the \
         host stops with an error. `skip`: the host goes on behind the batch, whose records are not written; it tells their \
         offsets in the log, in `/health` and in the metrics. With the others nothing behind the batch is read before it.",
    )
    .env("ON_UNREADABLE")
    .restart(same!(kafka.on_unreadable)),
    Key::new(
        "kafka.properties",
        Takes::Properties,
        Absent,
        "A property of librdkafka. Properties that the host must own are refused. Relative paths of certificates and keys are \
         relative to the configuration file's folder. Other users of the machine can see a command line, so passwords belong \
         into the file, as `{ file = … }` or `{ env = … }`.",
    )
    .repeatable_flag("--property", "NAME=VALUE")
    .restart(|old, new| old.kafka.lasting_properties() == new.kafka.lasting_properties()),
];
