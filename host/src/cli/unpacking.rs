//! Tells `native/unpack.c`, which is linked into the binary, how much a batch may become.

use reduct_sink::config::Pipelines;

/// What a batch of these pipelines may unpack to: the largest of their `receive.message.max.bytes`, which is librdkafka's own bound for a
/// response and for batches of zstd.
pub fn limit(pipelines: &Pipelines) {
    let most = pipelines.all().iter().map(|config| config.kafka.most_received()).max();
    if let Some(most) = most {
        set(most);
    }
}

#[cfg(all(target_os = "linux", not(test)))]
#[expect(unsafe_code, reason = "the function is written in C")]
fn set(bytes: usize) {
    unsafe extern "C" {
        fn reduct_sink_limit_unpacked(bytes: usize);
    }
    // SAFETY: it stores a number atomically.
    unsafe { reduct_sink_limit_unpacked(bytes) }
}

/// Elsewhere librdkafka's own functions are linked.
#[cfg(not(all(target_os = "linux", not(test))))]
fn set(_: usize) {}
