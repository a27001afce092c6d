//! The forms of single values: pure functions of a text. `None`, or an error that says what would be right, means that the
//! text doesn't have the form.

use regex::Regex;
use url::Url;

/// `host:port` pairs, with librdkafka's own `protocol://` in front where it is given. Answers with the list without blanks.
pub fn brokers(text: &str) -> Option<String> {
    let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
    brokers.iter().all(|broker| is_broker(broker)).then(|| brokers.join(","))
}

fn is_broker(broker: &str) -> bool {
    const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
    let address = match broker.split_once("://") {
        Some((protocol, address)) if PROTOCOLS.contains(&protocol.to_lowercase().as_str()) => address,
        Some(_) => return false,
        None => broker,
    };
    // An IPv6 address stands in brackets, so the last colon outside of them begins the port.
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or_else(|| if host.contains(':') { "" } else { host });
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let port_is_right = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    !host.is_empty() && host.chars().all(legal) && port_is_right
}

/// A name that Kafka's brokers take for a member of a group.
pub fn member(name: &str) -> Option<String> {
    (!name.is_empty() && is_name(name, 200)).then(|| name.to_owned())
}

/// Whether Kafka takes this for the name of a topic or a member.
fn is_name(name: &str, most: usize) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= most && name.chars().all(legal) && name != "." && name != ".."
}

/// A topic's name, or a pattern that librdkafka understands as we do. `Err` says what would be right.
pub fn topic(topic: &str) -> Result<(), String> {
    if topic.starts_with('^') {
        return pattern(topic);
    }
    if is_name(topic, 249) {
        Ok(())
    } else if topic.contains(',') {
        Err("one topic's name; write several as a list in the file, as `--topic A --topic B`, or with commas in \
             REDUCT_SINK_TOPICS"
            .into())
    } else {
        Err("a topic's name: up to 249 letters, digits, `.`, `_` and `-`; a pattern begins with ^".into())
    }
}

/// Whether a topic is the one that is read, or one of those that the pattern matches.
pub fn topic_is_read(topic: &str, read: &str) -> bool {
    topic == read || (read.starts_with('^') && Regex::new(read).is_ok_and(|pattern| pattern.is_match(topic)))
}

/// librdkafka reads patterns as POSIX extended regular expressions, where much of what other dialects offer silently
/// means something else (`\d` is the letter d). So only what means the same in both is let through.
fn pattern(pattern: &str) -> Result<(), String> {
    let mut in_brackets = false;
    let mut characters = pattern.chars().peekable();
    while let Some(c) = characters.next() {
        let next = characters.peek().copied();
        match (c, next) {
            ('\\', Some(escaped)) if in_brackets || escaped.is_alphanumeric() => {
                return Err(format!(
                    "a pattern of POSIX extended regular expressions, which have no `\\{escaped}` here; \
                     write [0-9], [A-Za-z0-9_] or [.] instead"
                ));
            }
            ('\\', Some(_)) => drop(characters.next()),
            ('[', Some(':')) if in_brackets => (),
            ('[', _) if in_brackets => return Err("a pattern without `[` inside brackets".into()),
            ('[', _) => {
                in_brackets = true;
                // A `]` that comes first, or after a `^`, is one of the characters to POSIX and an error to others.
                characters.next_if_eq(&'^');
                if characters.peek() == Some(&']') {
                    return Err("a pattern without `]` as the first character inside brackets".into());
                }
            }
            (':', Some(']')) if in_brackets => drop(characters.next()),
            (']', _) => in_brackets = false,
            ('&', Some('&')) | ('~', Some('~')) | ('-', Some('-')) if in_brackets => {
                return Err(format!("a pattern without `{c}{c}` inside brackets"));
            }
            ('(', Some('?')) => return Err("a pattern without `(?`".into()),
            ('*' | '+' | '?' | '}', Some('?' | '+' | '*')) if !in_brackets => {
                return Err("a pattern without `?`, `+` or `*` right after a repetition".into());
            }
            _ => (),
        }
    }
    Regex::new(pattern).map(drop).map_err(|error| {
        let reason = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
        format!("a regular expression: {}", reason.trim_start_matches("error: "))
    })
}

/// The address of a ReductStore as reduct-rs can take it, without a slash at its end.
pub fn url(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let usable = matches!(url.scheme(), "http" | "https") && url.has_host() && plain && url.fragment().is_none();
    usable.then(|| url.as_str().trim_end_matches('/').to_owned())
}

pub fn bucket(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.chars().all(legal).then(|| name.to_owned())
}

/// What can stand in a header of HTTP.
pub fn token(text: &str) -> Option<String> {
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())).then(|| text.to_owned())
}

pub fn plugin_name(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.chars().all(legal).then(|| name.to_owned())
}

/// Whether the text looks like a public key of minisign: 42 bytes in base64, of which the first two name the algorithm.
pub fn is_minisign_key(text: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() == 56 && text.starts_with("RW") && text.bytes().all(base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_with_ports() {
        for right in ["a:9092", "a", "a:1,b:2", "[::1]:9092", "[::1]", "SASL_SSL://k.example.org:9093", "10.0.0.1:9092"]
        {
            assert_eq!(brokers(right).as_deref(), Some(right));
        }
        assert_eq!(brokers("a:1 , b:2").as_deref(), Some("a:1,b:2"));
        for wrong in ["", "a:", "a:0", "a:65536", "a:b", ":9092", "a,,b", "http://a:9092", "a b:1", "::1:9092"] {
            assert_eq!(brokers(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn patterns_mean_the_same_to_librdkafka() {
        for right in ["^sensor-.*", "^(a|b)[.]c$", "^a\\.b", "^[[:alpha:]]+$", "^[^-]+-x", "^a{1,3}$", "^.*[]"] {
            assert_eq!(topic(right).is_ok(), right != "^.*[]", "{right}");
        }
        for wrong in ["^a\\d", "^(?i)a", "^a*?", "^a(", "^[a", "^[a&&b]", "^[[a]]", "^[a\\.]", "^[]a]"] {
            assert!(topic(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn topics_are_what_kafka_allows() {
        for right in ["a", "a.b_c-1", &"x".repeat(249)] {
            assert!(topic(right).is_ok(), "{right}");
        }
        for wrong in [".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(topic(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_that_reduct_rs_would_panic_on_are_refused() {
        assert_eq!(url("http://127.0.0.1:8383/").as_deref(), Some("http://127.0.0.1:8383"));
        assert_eq!(url("https://a.example/prefix").as_deref(), Some("https://a.example/prefix"));
        for wrong in
            ["127.0.0.1:8383", "localhost:8383", "mailto:a@b", "http://", "http://u:p@a", "http://a?b", "http://a#b"]
        {
            assert_eq!(url(wrong), None, "{wrong}");
        }
    }
}
