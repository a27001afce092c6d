//! The guard: code that `plugin build` puts around a plugin in JavaScript, TypeScript or Python, so that the cause of a
//! failure reaches the operator. Without it an exception would end the instance with a trap that has no text.
//!
//! Guarantees: the author's lines keep their numbers; a reason names the line of the file that the author wrote, also
//! if that is TypeScript.

use anyhow::{Context, bail};
use serde::Deserialize;

const JAVASCRIPT: &str = include_str!("templates/javascript/guard.js");

/// The Python module that wraps the author's `app.py`.
pub(super) const PYTHON: &str = include_str!("templates/python/guard.py");
/// The name of that module.
pub(super) const PYTHON_MODULE: &str = "reduct_sink_guard";

/// The author's script with the guard around it. `file` is the name of the file that the author wrote; `map` is the
/// source map if the script was compiled from that file.
pub(super) fn javascript(script: &str, file: &str, map: Option<&str>) -> anyhow::Result<String> {
    let (_, guard) = JAVASCRIPT.split_once("//@before\n").context("the guard has no part before")?;
    let (before, after) = guard.split_once("//@after\n").context("the guard has no part behind")?;
    // The guard's first part is joined to one line, so that the author's lines keep their numbers.
    let before: Vec<&str> = before.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    let lines = match map {
        Some(map) => serde_json::to_string(&source_lines(map)?)?,
        None => "null".into(),
    };
    let after = after.replace("{{file}}", file).replace("{{lines}}", &lines);
    let after = after.replace("{{last_line}}", &script.lines().count().to_string());
    Ok(format!("{} {script}\n{after}", before.join(" ")))
}

/// The one field of a source map that is needed here.
#[derive(Deserialize)]
struct SourceMap {
    mappings: String,
}

/// The line of the source for each line of the script, both counted from 1. See ECMA-426 for the format.
fn source_lines(map: &str) -> anyhow::Result<Vec<i64>> {
    let SourceMap { mappings } = serde_json::from_str(map).context("the source map can't be read")?;
    let mut line = 1;
    let mut lines = Vec::new();
    for segments in mappings.split(';') {
        let mut first = None;
        for segment in segments.split(',').filter(|segment| !segment.is_empty()) {
            // A segment has the script's column, the source's number, and the source's line and column, each as the
            // difference from the segment before.
            line += numbers(segment)?.get(2).unwrap_or(&0);
            first.get_or_insert(line);
        }
        lines.push(first.unwrap_or(line));
    }
    Ok(lines)
}

/// A segment's numbers: base64 digits of five bits each, least first, with a bit that says whether more follow.
fn numbers(segment: &str) -> anyhow::Result<Vec<i64>> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut numbers, mut number, mut shift) = (Vec::new(), 0_i64, 0);
    for digit in segment.chars() {
        let Some(value) = DIGITS.find(digit).filter(|_| shift < 60) else {
            bail!("the source map has an invalid segment: {segment:?}");
        };
        number |= i64::try_from(value & 31)? << shift;
        shift += 5;
        if value & 32 == 0 {
            // The lowest bit is the sign.
            numbers.push(if number & 1 == 1 { -(number >> 1) } else { number >> 1 });
            (number, shift) = (0, 0);
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_lines_keep_their_numbers() {
        let guarded = javascript("first();\nsecond();\n", "plugin.js", None).unwrap();
        let lines: Vec<&str> = guarded.lines().collect();
        assert!(lines[0].ends_with(" first();"), "{}", lines[0]);
        assert_eq!(lines[1], "second();");
        assert!(guarded.contains("const file = \"plugin.js\";") && guarded.contains("const lastLine = 2;"));
        assert!(!guarded.contains("{{"), "a placeholder is left");
    }

    #[test]
    fn a_source_map_gives_the_line_of_the_source() {
        // Line 1 comes from line 3, line 2 from nowhere, line 3 from lines 5 and 6, line 4 from line 2.
        let lines = source_lines(r#"{"version": 3, "mappings": "AAEA;;AAEA,CACA;AAJA"}"#).unwrap();
        assert_eq!(lines, [3, 3, 5, 2]);
        assert_eq!(numbers("AAgBC").unwrap(), [0, 0, 16, 1]);
        assert_eq!(numbers("hB").unwrap(), [-16]);
        assert!(source_lines("{}").is_err() && source_lines(r#"{"mappings": "!"}"#).is_err());
    }
}
