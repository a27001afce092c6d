use reduct_sink_plugin::{Change, Failure, Verdict};
use serde::de::IgnoredAny;

pub fn split(payload: &[u8]) -> Result<Verdict, Failure> {
    let mut parts = Vec::new();
    for (number, line) in (1..).zip(payload.split(|byte| *byte == b'\n')) {
        if line.is_empty() {
            continue;
        }
        serde_json::from_slice::<IgnoredAny>(line)
            .map_err(|error| format!("line {number} of the payload isn't JSON: {error}"))?;
        parts.push(Change::new().set_label("part", parts.len().to_string()).payload(line));
    }
    Ok(if parts.is_empty() { Verdict::Drop } else { Verdict::Split(parts) })
}
