//! Patterns: regular expressions and globs that are checked when the configuration is read.

use regex_lite::Regex;
use serde::Deserialize;

/// A regular expression that matches anywhere in a value, unless it is anchored. A value that isn't UTF-8 doesn't
/// match.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Regex);

impl Pattern {
    pub fn matches(&self, value: &[u8]) -> bool {
        std::str::from_utf8(value).is_ok_and(|text| self.0.is_match(text))
    }

    /// The text that the pattern takes from a value: `replace` with `$1` or `${name}` filled in. Without `replace` it
    /// is the first group, or the whole match if the pattern has no group. `None`: the pattern doesn't match, or the
    /// group isn't part of the match.
    pub fn extract(&self, value: &[u8], replace: Option<&str>) -> Option<String> {
        let captures = self.0.captures(std::str::from_utf8(value).ok()?)?;
        match replace {
            Some(replace) => {
                let mut text = String::new();
                captures.expand(replace, &mut text);
                Some(text)
            }
            None => {
                let group = usize::from(self.0.captures_len() > 1);
                captures.get(group).map(|found| found.as_str().into())
            }
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Regex::new(&text).map(Self).map_err(|error| format!("{text:?} is not a regular expression: {error}"))
    }
}

/// A pattern in which `*` stands for any run of characters and `?` for one; the whole value must match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Glob(String);

impl Glob {
    pub fn matches(&self, value: &[u8]) -> bool {
        let (mut pattern, mut rest) = (self.0.as_bytes(), value);
        // Where to continue if the text after the last `*` doesn't match: the pattern after the `*`, and the value one
        // character later than the last attempt.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), rest.split_first()) {
                (Some((b'*', after)), _) => {
                    retry = Some((after, rest));
                    pattern = after;
                    continue;
                }
                (Some((b'?', after)), Some((_, tail))) => {
                    (pattern, rest) = (after, skip_continuation(tail));
                    continue;
                }
                (Some((wanted, after)), Some((found, tail))) if wanted == found => {
                    (pattern, rest) = (after, tail);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match retry {
                Some((after, [_, tail @ ..])) => {
                    retry = Some((after, tail));
                    (pattern, rest) = (after, tail);
                }
                _ => return false,
            }
        }
    }

    /// Whether it stands for more than one text.
    pub fn is_plain(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Glob {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The bytes after the continuation bytes of the UTF-8 character in which `bytes` begins.
fn skip_continuation(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().take_while(|byte| **byte & 0xc0 == 0x80).count();
    bytes.get(length..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, value, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "aXbXbXc", true),
            ("?", "ä", true),
            ("?", "", false),
            ("??", "ä", false),
            ("cam-?", "cam-1", true),
            ("*.jpg", "a.jpg.jpg", true),
            ("*.jpg", "a.jpg.png", false),
            ("**a", "bba", true),
        ] {
            assert_eq!(Glob::from(glob.to_string()).matches(value.as_bytes()), expected, "{glob} {value}");
        }
        assert!(Glob::from("a*".to_string()).matches(b"a\xff"));
    }

    #[test]
    fn patterns_take_a_group_or_the_match_or_what_replace_says() {
        let pattern = |text: &str| Pattern::try_from(text.to_string()).unwrap();
        assert_eq!(pattern("[0-9]+").extract(b"cam-12", None).as_deref(), Some("12"));
        assert_eq!(pattern("cam-([0-9]+)").extract(b"cam-12", None).as_deref(), Some("12"));
        assert_eq!(pattern("(a)|b").extract(b"b", None), None);
        assert_eq!(pattern("(?<x>.)-(.)").extract(b"a-b", Some("$2/${x}")).as_deref(), Some("b/a"));
        assert_eq!(pattern("x").extract(b"a", None), None);
        assert!(!pattern(".*").matches(b"\xff"));
        assert!(Pattern::try_from("(".to_string()).unwrap_err().starts_with("\"(\" is not a regular expression: "));
    }
}
