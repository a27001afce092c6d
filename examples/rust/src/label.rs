use reduct_sink_plugin::{Change, Failure, Verdict};

/// The fields of the payload that the transform uses.
#[derive(serde::Deserialize)]
struct Frame {
    camera: String,
    line: Option<i64>,
    ok: Option<bool>,
}

pub fn label(payload: &[u8]) -> Result<Verdict, Failure> {
    let frame: Frame = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload isn't the JSON that is expected: {error}"))?;
    let mut change = Change::new().entry(format!("cameras/{}", frame.camera)).content_type("application/json");
    if let Some(line) = frame.line {
        change = change.set_label("line", line.to_string());
    }
    if let Some(ok) = frame.ok {
        change = change.set_label("ok", ok.to_string());
    }
    Ok(change.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_the_entry_and_labels() {
        let expected = Change::new().entry("cameras/left").content_type("application/json").set_label("line", "7");
        assert_eq!(label(br#"{"camera": "left", "line": 7}"#), Ok(expected.into()));
        assert!(label(b"no JSON").is_err());
    }
}
