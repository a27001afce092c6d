//! `reduct-sink` reads Kafka, hands each record to a chain of WebAssembly plugins, and writes what they decide to ReductStore.
//! `host/docs/architecture.md` follows one record and one plugin swap through these modules.
//!
//! # A record's path
//!
//! ```text
//!  Kafka ─▶ consumer ─▶ pipeline::worker ─▶ chain ─▶ sink::writer ─▶ ReductStore
//!              ▲              │             (plugins)     │     └─▶ dead_letters
//!              │              ▼                           ▼
//!              │        flow::PartitionState ◀── AckHandle: written and read back
//!              └─────── commit of the offset
//! ```
//!
//! Imports point down: `cli` → `pipeline` → `consumer`, `sink`, `dead_letters`, `recovery`, `health`, `rollout`, `devkit` → `chain`, `kafka` →
//! `plugin`, `flow` → `config`, `record`. `wasmtime` is known only to [`plugin`], `rdkafka` only to [`kafka`] and [`consumer`], `reduct_rs`
//! only to [`sink`]; [`flow`] and [`record`] are values without network or file I/O. `host/tests/structure.rs` checks the imports.
//!
//! # The threads and tasks that live longer than one request
//!
//! | thread or task | owns | waits for | ends |
//! |---|---|---|---|
//! | the polling thread: main, or with several pipelines a thread `pipeline-NAME` for each | the consumer: assignments, seeks, all commits except the last one | Kafka's group events, 100 ms at most; seeks; in a revocation records in flight and the commit | after a stop or a failure, when all records are acknowledged or `limits.shutdown` is over |
//! | `signals` | SIGTERM and SIGINT ([`health::stop_signals`]) | signals | with the process |
//! | `worker-N` (`limits.workers`) | readers of its partitions, one chain of plugin instances | records, room in the budget | when the polling thread stops it |
//! | `sink` (tokio threads) | the tasks below | I/O | with the pipeline |
//! | a writer task for each active entry | what it knows of the entry; its one request | records for the entry, answers of the store | when the entry was idle for a while |
//! | the recovery task | the store's last known start | one second at a time | with the host |
//! | `kafka-questions` | the questions to the brokers before a partition can be read, and every five seconds that for the topics' ids | answers of the brokers | with the consumer |
//! | `kafka-unreadable` (only with `kafka.on_unreadable = "skip"`) | the search for the end of a batch that can't be read | answers of the brokers | when the end is found, or the brokers don't answer |
//! | the supervisor, a thread | what is known of each partition's progress | five seconds at a time | with the host |
//! | `status` | the HTTP listener and the Unix socket, on a runtime of its own | requests | with the process |
//! | `log` | the queue of log lines | lines | with the process |
//! | `dead-letters` (only with `dead_letters.topic`) | the transactional producers | dead letters, answers of Kafka | when the sink ends |
//! | `suspensions` | when this process was last known to run (to notice a suspension) | 200 ms at a time | with the pipeline's run |
//! | `rollout` | the rollout of plugins: watched files, trials, bake windows | file events, requests to promote or roll back | with the pipeline |
//! | `plugin-loader` | the order to load a changed file, or the plugins of a changed configuration | `plugin-prepare` | when the versions are ready or refused |
//! | `plugin-prepare` | one version that is read, checked, compiled in a child process, and started | the compiler, the plugin | when the version is ready or refused |
//! | `replay` | a replay of the dead letters, or a dry run of one | dead letters, answers of the store | when all were looked at, or with the host |
//! | `replay-questions` | the questions and commits of a replay to the brokers | answers of the brokers | with the replay; a stop waits a second at most for a commit, and for no question |
//! | `plugin-trial` | the shadow of a candidate | sampled records | when the trial is decided |
//! | `plugin-ticker` | the clock of the deadlines of calls | one tick at a time | with the process |
//! | `plugin-tag` | the question which digest a registry's tag means now | the registry | when it is answered |
//! | `plugin-host-calls` | what WASI does for plugins: files, timers, HTTP | files, servers | with the version, or the process |
//! | `leaving` | the last commit, and the consumer after it | answers of the brokers | when the group was left, or the process ends |
//!
//! # Glossary
//!
//! - **acknowledge**: to say that a record is done: written and read back (with `store.verify_writes = false` only written), dropped by a
//!   plugin, in the dead letters, or skipped because the configuration says so. Of a dead letter that is sent again: that nothing more is
//!   done with it now, also where the store refused it. ReductStore *answers* a request, and Kafka *accepts* a record.
//! - **active**: the version of a plugin that decides about records now.
//! - **bake window**: the time after a swap in which the new version is watched, and rolled back if it does worse.
//! - **block**: a file of an entry in ReductStore that holds some hundred records; an *open* block is still written to.
//! - **budget**: how many records and bytes may be in flight; reading stops above it.
//! - **chain**: the plugins in their order; each worker has instances of its own.
//! - **commit gate**: closed from a failure of the store until the recovery has looked at the store's uptime; meanwhile only what is
//!   *committable while closed* is committed, and after a removal nothing. A partition that owes a re-read commits the begin of that re-read
//!   in either case, so that its next owner does it.
//! - **commit metadata**: the text that is committed to Kafka beside an offset, for the next owner of the partition.
//! - **committable while closed**: acknowledged before a look at the store's uptime that showed no restart, or committed already: a later
//!   failure of the store doesn't concern it.
//! - **dead letter**: a record that could not be handled, kept with the reason.
//! - **dry run**: a replay, or a run over the records that are in the topics now, that tells what would become of each record and changes nothing.
//! - **durable offset**: the offset below which everything had been acknowledged when the store was last known to run; `durable` in the
//!   commit metadata. A crash can take records below it that are still in an open block: a re-read begins a margin before it, of two
//!   blocks' worth of records.
//! - **entry**: ReductStore's name for a series of records in a bucket.
//! - **generation**: a number that grows: of a `PartitionState`, so that a writer notices a newer one; of the chain, so that a worker
//!   notices a swap; and Kafka's own, of a consumer group, which grows at each rebalance.
//! - **head**: a record of the store without its payload: timestamp, size and labels.
//! - **host**: in documents a running reduct-sink; in the code one run of one pipeline, which has its partitions and workers.
//! - **hidden record**: a finished one that no query shows, because an unfinished one stands at the same microsecond.
//! - **identity**: topic, partition, offset, and the position within a split: which Kafka record a stored record was made of.
//! - **late record**: its time is older than that of the entry's newest record.
//! - **late request**: one of a killed host that reaches the store after the next owner has begun.
//! - **line table**: which line of its author's source each place in a component's code comes from; `plugin build` makes it.
//! - **live record**: one that a worker of this host reads from its topic now, unlike a dead letter that a replay sends again.
//! - **occupied timestamp**: a microsecond of an entry at which the store already has a record.
//! - **owed**: a re-read that has to happen, by this owner of the partition or by the next one.
//! - **parked**: kept by a writer, because the store takes neither the record nor its dead letter now.
//! - **pause**: a time in which the host doesn't read some or all topics because the operator asked for it (`reduct-sink pause`). Two
//!   others: the key `plugins.breaker.pause` says how long a circuit breaker stays open, and in [`consumer`] librdkafka doesn't fetch from a
//!   partition while a batch of it can't be read. See *suspension*.
//! - **pipeline**: topics, chain and bucket that belong together. A process has one without a name, or several, each in its slot.
//! - **probe**: a call to a plugin whose circuit breaker is open, to see whether it still fails; also a request to `/livez` or `/readyz`; in
//!   [`consumer`] a seek of an idle partition to its next offset, to learn whether any record stands before the end that Kafka named.
//! - **re-read**: to read records from Kafka again that were read before, because the store may have lost them.
//! - **repair**: to remove an unfinished record from the store and write it again.
//! - **shadow trial**: a new version that gets live records beside the active one, and whose answers are discarded.
//! - **source**: the topic and partition that records are read from, as in the label `kafka.source`; in the code a
//!   [`record::TopicPartition`]. What a configuration or a plugin is read from is a [`config::Sources`] or [`config::PluginSource`].
//! - **stage**: a plugin's position in the chain.
//! - **stale**: belonging to a `PartitionState` that has ended; a stale record is not written any more.
//! - **suspension**: a time in which the process or its machine stood still (SIGSTOP, a laptop that sleeps). See *pause*.
//! - **tap**: a sample of records on their way with what each plugin made of them, for somebody who watches.
//! - **turn**: what a writer does between two looks at its inbox: it places, sends and reads back what waits.
//! - **unfinished record**: one whose request was cut off. No query shows it, and its microsecond stays taken.
//! - **verdict**: what a plugin decided: keep, drop, change or split. A reject, a retry, a trap or an exceeded limit is a *failure*.

#![warn(missing_docs)]

pub mod chain;
pub mod config;
pub mod consumer;
pub mod dead_letters;
pub mod devkit;
pub mod flow;
pub mod health;
pub mod kafka;
pub mod pipeline;
pub mod plugin;
pub mod record;
pub mod recovery;
pub mod rollout;
pub mod sink;
