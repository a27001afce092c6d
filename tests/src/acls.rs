//! Kafka's access control lists and passwords: what a test grants, revokes and changes while the host runs.
//!
//! Guarantees: when a call returns, the controller has accepted the change.

use std::ffi::{CStr, CString};

use anyhow::{Result, anyhow, bail, ensure};
use rdkafka::bindings::{
    self as native, rd_kafka_AclBinding_t, rd_kafka_AclOperation_t as Operation,
    rd_kafka_AclPermissionType_t as Permission, rd_kafka_ResourcePatternType_t as Pattern,
    rd_kafka_ResourceType_t as Resource, rd_kafka_ScramMechanism_t as Mechanism, rd_kafka_resp_err_t as ErrorCode,
};

use crate::client::KafkaClient;

/// What a principal may or may not read.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Topic(&'a str),
    Group(&'a str),
}

/// Lets `principal` (such as `User:alice`) read, which includes describing and, for a group, committing.
pub fn grant_read(kafka: &KafkaClient, principal: &str, target: Target<'_>) -> Result<()> {
    change(kafka, principal, target, Change::Create)
}

/// Takes that right away again.
pub fn revoke_read(kafka: &KafkaClient, principal: &str, target: Target<'_>) -> Result<()> {
    change(kafka, principal, target, Change::Delete)
}

/// Gives a user another password for SCRAM-SHA-512.
pub fn set_scram_password(kafka: &KafkaClient, user: &str, password: &str) -> Result<()> {
    let user = CString::new(user)?;
    let admin = kafka.admin()?;
    let client = admin.inner().native_ptr();
    // SAFETY: the texts, the client and the change outlive the calls that get them; what librdkafka made is destroyed once.
    unsafe {
        let mut change = native::rd_kafka_UserScramCredentialUpsertion_new(
            user.as_ptr(),
            Mechanism::RD_KAFKA_SCRAM_MECHANISM_SHA_512,
            4096,
            password.as_ptr(),
            password.len(),
            std::ptr::null(),
            0,
        );
        ensure!(!change.is_null(), "librdkafka takes no password for {user:?}");
        let queue = native::rd_kafka_queue_new(client);
        native::rd_kafka_AlterUserScramCredentials(client, &mut change, 1, std::ptr::null(), queue);
        let event = native::rd_kafka_queue_poll(queue, 30_000);
        let result = if event.is_null() {
            Err(anyhow!("Kafka gave no answer within 30 s"))
        } else {
            let outcome = failure(event);
            native::rd_kafka_event_destroy(event);
            outcome
        };
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_UserScramCredentialAlteration_destroy(change);
        result
    }
}

#[derive(Clone, Copy)]
enum Change {
    Create,
    Delete,
}

fn change(kafka: &KafkaClient, principal: &str, target: Target<'_>, change: Change) -> Result<()> {
    let (kind, name) = match target {
        Target::Topic(name) => (Resource::RD_KAFKA_RESOURCE_TOPIC, name),
        Target::Group(name) => (Resource::RD_KAFKA_RESOURCE_GROUP, name),
    };
    let (name, principal, host) = (CString::new(name)?, CString::new(principal)?, CString::new("*")?);
    let admin = kafka.admin()?;
    let client = admin.inner().native_ptr();
    // SAFETY: the texts, the client and the binding outlive the calls that get them; what librdkafka made is destroyed once.
    unsafe {
        let make: unsafe extern "C" fn(_, _, _, _, _, _, _, _, _) -> *mut rd_kafka_AclBinding_t = match change {
            Change::Create => native::rd_kafka_AclBinding_new,
            Change::Delete => native::rd_kafka_AclBindingFilter_new,
        };
        let mut binding = make(
            kind,
            name.as_ptr(),
            Pattern::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
            principal.as_ptr(),
            host.as_ptr(),
            Operation::RD_KAFKA_ACL_OPERATION_READ,
            Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
            std::ptr::null_mut(),
            0,
        );
        ensure!(!binding.is_null(), "librdkafka takes no access rule for {name:?} and {principal:?}");
        let queue = native::rd_kafka_queue_new(client);
        match change {
            Change::Create => native::rd_kafka_CreateAcls(client, &mut binding, 1, std::ptr::null(), queue),
            Change::Delete => native::rd_kafka_DeleteAcls(client, &mut binding, 1, std::ptr::null(), queue),
        }
        let event = native::rd_kafka_queue_poll(queue, 30_000);
        let result = if event.is_null() {
            Err(anyhow!("Kafka gave no answer within 30 s"))
        } else {
            let outcome = match change {
                Change::Create => created(event),
                Change::Delete => failure(event),
            };
            native::rd_kafka_event_destroy(event);
            outcome
        };
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AclBinding_destroy(binding);
        result
    }
}

/// # Safety
///
/// `event` is a live event of librdkafka.
unsafe fn failure(event: *mut native::rd_kafka_event_t) -> Result<()> {
    // SAFETY: the event is live, and its text is copied.
    unsafe {
        if native::rd_kafka_event_error(event) != ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
            bail!("{}", CStr::from_ptr(native::rd_kafka_event_error_string(event)).to_string_lossy());
        }
    }
    Ok(())
}

/// # Safety
///
/// `event` is a live event of librdkafka.
unsafe fn created(event: *mut native::rd_kafka_event_t) -> Result<()> {
    // SAFETY: the event is live, it owns its results, and texts are copied.
    unsafe {
        failure(event)?;
        let result = native::rd_kafka_event_CreateAcls_result(event);
        ensure!(!result.is_null(), "another event than an answer to the access rule");
        let mut count = 0;
        let results = native::rd_kafka_CreateAcls_result_acls(result, &mut count);
        for at in 0..count {
            let error = native::rd_kafka_acl_result_error(*results.add(at));
            if !error.is_null() {
                bail!("{}", CStr::from_ptr(native::rd_kafka_error_string(error)).to_string_lossy());
            }
        }
    }
    Ok(())
}
