//! What this host is called in its group (Kafka's static membership): a host that is killed and started again under the
//! same name gets its partitions back at once, because the brokers give a name's partitions to the member that has it.
//!
//! Guarantees: two hosts in one network namespace never have the same name, unless the configuration chose it: a name is held
//! with a lock of that namespace that ends with the process, however it ends. Two machines never have the same name, even if
//! one is a copy of the other: the name holds what identifies the machine's boot. Containers of one machine to which somebody
//! gave the same host name can have the same name: there the host waits until an older namesake has noticed it.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::groups::GroupInfo;
use tracing::{debug, info, warn};

use super::commit_queue::is_member;
use super::group::GroupContext;
use crate::config::{self, MemberName};
use crate::kafka::client::is_newer_protocol;

/// How many hosts of one group one machine may have with names of their own.
const MOST_ON_A_MACHINE: usize = 100;
/// How many bytes of the group's name are part of the lock's name, for which the kernel takes 107 bytes.
const GROUP_IN_LOCK: usize = 80;
/// How many bytes of the host name are part of the member's name, for which the brokers take 249 bytes.
const HOST_NAME: usize = 100;
const BOOT_ID: usize = 8;
/// Says whether the host name is the machine's own or a container's. Source: the kernel gives the first namespace of this
/// kind a fixed number (`PROC_UTS_INIT_INO`).
const NAMESPACE: &str = "/proc/self/ns/uts";
const OF_MACHINE: &str = "uts:[4026531838]";
/// How often the group is asked for its members if there is no answer, and how long each answer may take.
const ATTEMPTS: usize = 2;
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// How long telling the group that this host leaves may take.
const FAREWELL: Duration = Duration::from_millis(1500);
const POLL: Duration = Duration::from_millis(10);
const SESSION_TIMEOUT: &str = "session.timeout.ms";
/// librdkafka's default.
const DEFAULT_SESSION: Duration = Duration::from_secs(45);

/// The name of this host, for as long as the process runs.
#[derive(Debug, Default)]
pub struct Member {
    name: Option<String>,
    is_chosen: bool,
    /// Held until the process ends.
    _lock: Option<UnixListener>,
}

impl Member {
    /// The name that the configuration wants.
    pub fn new(config: &config::Kafka) -> Self {
        if is_newer_protocol(config) {
            // With it the brokers refuse a name until the session of the host that was killed is over, and librdkafka gives up.
            if let MemberName::Chosen(name) = &config.member {
                warn!(name, "kafka.member isn't used with group.protocol = \"consumer\"");
            }
            return Self::default();
        }
        match &config.member {
            MemberName::Nameless => Self::default(),
            MemberName::Chosen(name) => Self { name: Some(name.clone()), is_chosen: true, _lock: None },
            MemberName::OfMachine => Self::of_machine(&config.group),
        }
    }

    fn of_machine(group: &str) -> Self {
        let Some(machine) = machine() else {
            info!("this machine tells no host name or boot: the host has no name in its group");
            return Self::default();
        };
        for number in 0..MOST_ON_A_MACHINE {
            if let Some(lock) = lock(group, number) {
                return Self { name: Some(format!("{machine}-{number}")), is_chosen: false, _lock: Some(lock) };
            }
        }
        Self::default()
    }

    /// The name; `None`: this host has none.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether another host, on another machine or in another container, may have the same name.
    pub fn may_be_shared(&self) -> bool {
        self.is_chosen || !fs::read_link(NAMESPACE).is_ok_and(|namespace| namespace.as_os_str() == OF_MACHINE)
    }
}

/// Whether the group has a member of this name, or may have one because it doesn't answer.
pub(super) fn finds(consumer: &BaseConsumer<GroupContext>, group: &str, name: &str) -> bool {
    // The brokers make a member's id of its name and a random part.
    let prefix = format!("{name}-");
    for _ in 0..ATTEMPTS {
        match consumer.fetch_group_list(Some(group), TOLD_WITHIN) {
            Ok(groups) => {
                return groups
                    .groups()
                    .iter()
                    .flat_map(GroupInfo::members)
                    .any(|member| member.id().starts_with(&prefix));
            }
            Err(error) => debug!(%error, "the group doesn't tell its members"),
        }
    }
    true
}

/// Closing doesn't leave the group where the member has a name, nor, with a cooperative protocol, where it has no partition or is still
/// joining (librdkafka 2.12.1, `rd_kafka_cgrp_revoke_all_rejoin`): the group would wait for it until its session is over. Ending the
/// subscription first does, if the member has its id and the group is not rebalanced for longer than this waits.
pub(super) fn say_farewell(consumer: &BaseConsumer<GroupContext>) {
    let begin = Instant::now();
    consumer.unsubscribe();
    while is_member(consumer) && begin.elapsed() < FAREWELL {
        drop(consumer.poll(POLL));
    }
}

/// How long the group waits for a member that says nothing.
pub fn session(config: &config::Kafka) -> Duration {
    let set = config.properties.get(SESSION_TIMEOUT).and_then(|millis| millis.parse().ok());
    set.map_or(DEFAULT_SESSION, Duration::from_millis)
}

/// Host name and boot of this machine, in letters that Kafka takes.
fn machine() -> Option<String> {
    let read = |path, most| -> Option<String> {
        let text = fs::read_to_string(path).ok()?;
        let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        let name: String =
            text.trim().chars().map(|letter| if legal(letter) { letter } else { '_' }).take(most).collect();
        (!name.is_empty()).then_some(name)
    };
    let host = read("/proc/sys/kernel/hostname", HOST_NAME)?;
    let boot = read("/proc/sys/kernel/random/boot_id", BOOT_ID)?;
    Some(format!("{host}-{boot}"))
}

/// A name in the kernel that one process of this machine can have, and that is free when that process ends.
fn lock(group: &str, number: usize) -> Option<UnixListener> {
    let group = group.as_bytes().get(..GROUP_IN_LOCK).unwrap_or(group.as_bytes());
    let name = [b"reduct-sink/", group, format!("/{number}").as_bytes()].concat();
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_a_machine_have_names_of_their_own_and_the_next_one_gets_a_free_one() {
        let group = format!("member-{}", std::process::id());
        let [first, second] = [(); 2].map(|()| Member::of_machine(&group));
        assert!(first.name().is_some() && first.name() != second.name());
        let other_group = Member::of_machine(&format!("other-{group}"));
        assert_eq!(other_group.name(), first.name());
        let name = first.name.clone();
        drop(first);
        assert_eq!(Member::of_machine(&group).name, name, "as after a kill");
        assert!(second.name().unwrap().len() < 249);
    }

    #[test]
    fn a_long_group_has_locks_too() {
        let group = "g".repeat(249);
        assert!(lock(&group, 0).is_some_and(|_held| lock(&group, 1).is_some()));
    }
}
