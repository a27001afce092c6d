//! Reads a plugin's configuration: makes a value of the plugin's own type from the JSON text that the host passes.
//!
//! Guarantees: an error begins with the path of the key (`rules[0].regex: …`), so that the operator finds the place in
//! the host's TOML file, where JSON's line numbers would mean nothing.

use serde::de::DeserializeOwned;

/// Reads the text that the host passes to `configure`.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // The text is first read into a value, because an error about the text would name a line and a column that the
    // operator never sees.
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("the configuration is not JSON: {error}"))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let message = in_plain_words(error.inner().to_string());
        match error.path().to_string().as_str() {
            "." => message,
            path => format!("{path}: {message}"),
        }
    })
}

/// Replaces serde's names for types, such as Rust's `u64`, by words that an operator knows.
fn in_plain_words(message: String) -> String {
    let words = [
        ("f64", "a number"),
        ("f32", "a number"),
        ("i64", "a whole number"),
        ("i32", "a whole number"),
        ("u64", "a whole number from 0 on"),
        ("u32", "a whole number from 0 on"),
        ("usize", "a whole number from 0 on"),
        ("a boolean", "true or false"),
        ("a sequence", "a list"),
        ("a map", "a table"),
    ];
    for (term, plain) in words {
        if let Some(start) = message.strip_suffix(term).filter(|start| start.ends_with("expected ")) {
            return format!("{start}{plain}");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        #[allow(dead_code, reason = "only its reading is tested")]
        size: u64,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        rules: Vec<Rule>,
    }

    #[test]
    fn errors_name_the_key_and_what_would_be_right() {
        let error = |text: &str| parse::<Config>(text).unwrap_err();
        assert_eq!(parse::<Config>(r#"{"rules": [{"size": 1}]}"#).unwrap().rules.len(), 1);
        assert_eq!(error("{}"), "missing field `rules`");
        assert_eq!(error(r#"{"rules": [], "x": 1}"#), "x: unknown field `x`, expected `rules`");
        assert_eq!(
            error(r#"{"rules": [{"size": 1}, {"size": "1"}]}"#),
            "rules[1].size: invalid type: string \"1\", expected a whole number from 0 on"
        );
        assert!(error("rules").starts_with("the configuration is not JSON: "));
    }
}
