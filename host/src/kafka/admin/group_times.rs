//! How long the brokers wait for the members of a group of the newer protocol, where they and not the members decide it.
//!
//! Guarantees: what the group itself is configured to wins over what holds for all groups; all questions together end within the time-out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::bindings::{self as ffi, rd_kafka_ResourceType_t as Resource, rd_kafka_admin_op_t as Operation};
use rdkafka::client::Client;

use super::{AskError, NativeHandle, ask, c_string, code, slice, some_broker, text, unexpected};
use crate::kafka::group::GroupTimes;

/// Session and heartbeat of one group. Source: Kafka 4.0, `GroupConfig`.
const OF_GROUP: [&str; 2] = ["consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"];
/// The same for all groups that aren't configured otherwise; brokers before Kafka 4.0 know only these.
const OF_ALL: [&str; 2] = ["group.consumer.session.timeout.ms", "group.consumer.heartbeat.interval.ms"];

/// What holds for this group. `topic`: one that is there. An error where the brokers don't say it, as without the right DESCRIBE_CONFIGS.
pub fn group_times<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> Result<GroupTimes, AskError> {
    let asked = Instant::now();
    let left = || timeout.saturating_sub(asked.elapsed());
    // Half of the time is for the other question.
    let of_group = configured(client, Resource::RD_KAFKA_RESOURCE_GROUP, group, OF_GROUP, timeout / 2);
    if let Ok(times) = of_group {
        return Ok(times);
    }
    let broker = some_broker(client, &[topic], left())?.to_string();
    configured(client, Resource::RD_KAFKA_RESOURCE_BROKER, &broker, OF_ALL, left())
}

fn configured<C: ClientContext>(
    client: &Client<C>,
    resource: Resource,
    name: &str,
    [session, heartbeat]: [&str; 2],
    timeout: Duration,
) -> Result<GroupTimes, AskError> {
    let found = describe(client, resource, name, &[session, heartbeat], timeout)?;
    let time = |name: &str| found.get(name)?.parse().ok().map(Duration::from_millis);
    let times = time(session).zip(time(heartbeat)).map(|(session, heartbeat)| GroupTimes { session, heartbeat });
    times.ok_or_else(unexpected)
}

/// The values of these properties.
fn describe<C: ClientContext>(
    client: &Client<C>,
    resource: Resource,
    name: &str,
    properties: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, String>, AskError> {
    let name = c_string(name)?;
    // SAFETY: the name is valid for the call, which copies it.
    let native = unsafe { ffi::rd_kafka_ConfigResource_new(resource, name.as_ptr()) };
    let wanted = NativeHandle::new(native, ffi::rd_kafka_ConfigResource_destroy)?;
    for property in properties {
        let property = c_string(property)?;
        // SAFETY: the resource is ours; both texts are valid for the call, which copies them. The value isn't sent.
        unsafe { ffi::rd_kafka_ConfigResource_set_config(wanted.ptr(), property.as_ptr(), c"".as_ptr()) };
    }
    let mut all = [wanted.ptr()];
    let answer = ask(client, Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout, |client, options, queue| {
        // SAFETY: all are alive during the call, which copies the resource.
        unsafe { ffi::rd_kafka_DescribeConfigs(client, all.as_mut_ptr(), all.len(), options, queue) };
    })?;
    let mut count = 0;
    // SAFETY: the event is alive until `answer` is dropped; what belongs to it is copied here.
    unsafe {
        let result = ffi::rd_kafka_event_DescribeConfigs_result(answer.ptr());
        if result.is_null() {
            return Err(unexpected());
        }
        let resources = ffi::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        let found = *slice(resources, count).first().filter(|found| !found.is_null()).ok_or_else(unexpected)?;
        if let Some(code) = code(ffi::rd_kafka_ConfigResource_error(found)) {
            return Err(AskError { code, reason: text(ffi::rd_kafka_ConfigResource_error_string(found)) });
        }
        let entries = ffi::rd_kafka_ConfigResource_configs(found, &mut count);
        let entry = |entry: &*const ffi::rd_kafka_ConfigEntry_t| {
            (text(ffi::rd_kafka_ConfigEntry_name(*entry)), text(ffi::rd_kafka_ConfigEntry_value(*entry)))
        };
        Ok(slice(entries, count).iter().map(entry).collect())
    }
}
