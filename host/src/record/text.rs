//! Makes text from plugins and producers safe to show in logs, terminals and web pages.
//!
//! Guarantees: [`one_line`] returns one line of bounded length; showing it moves no cursor, changes no colour and
//! reverses no writing direction.

/// The text as one line of at most `bytes` bytes, followed by how many bytes were cut off, if any. Control characters,
/// invisible format characters and line separators are escaped.
pub fn one_line(text: &str, bytes: usize) -> String {
    let mut line = String::with_capacity(text.len().min(bytes));
    for (at, c) in text.char_indices() {
        let end = line.len();
        match c {
            '\t' => line.push(c),
            c if c.is_control() || is_invisible(c) => line.extend(c.escape_default()),
            c => line.push(c),
        }
        if line.len() > bytes {
            line.truncate(end);
            line.push_str(&format!(" … ({} more bytes)", text.len() - at));
            break;
        }
    }
    line
}

/// The longest beginning of `text` that has at most `bytes` bytes.
pub fn clip(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Unicode's format characters (Cf) and its line and paragraph separators (Zl, Zp).
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\r\nb\u{1b}[0m\tc", 100), "a\\r\\nb\\u{1b}[0m\tc");
        let long = one_line(&"é".repeat(100), 100);
        assert!(long.starts_with("éé") && long.ends_with(" … (100 more bytes)"), "{long}");
        assert_eq!(one_line("\0\0\0", 12), "\\u{0}\\u{0} … (1 more bytes)", "what escaping adds counts");
    }

    #[test]
    fn what_reverses_or_breaks_a_line_is_escaped() {
        assert_eq!(one_line("a\u{202e}b\u{2028}c\u{85}d\u{feff}", 100), "a\\u{202e}b\\u{2028}c\\u{85}d\\u{feff}");
        assert_eq!(one_line("grüße — こんにちは", 100), "grüße — こんにちは");
    }
}
