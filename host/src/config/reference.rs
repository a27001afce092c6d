//! What people read about the keys, generated from the key table: the reference page and the example file.

use std::fmt::Write;

use super::key_table::{
    Change, Key, PREFIX, PROPERTY_PREFIX, Preset, Section, Takes, heading, is_of_process, keys, sections, size_text,
};
use super::validate::OWNED;

const REFERENCE_HEAD: &str = "\
# Configuration reference

Generated from the key table; don't edit it here. [configuration.md](configuration.md) explains the concepts and has an example
of each group of keys; [`examples/reduct-sink.toml`](../../examples/reduct-sink.toml) is a file with every default;
`reduct-sink config schema` prints a JSON Schema.

A change of a key marked *live* is taken over when the file changes or SIGHUP arrives; the others need a restart.

Every key can also be set for one of several pipelines, `[pipelines.NAME.kafka]` for `[kafka]` and so on, except for those marked
*process*; [configuration.md](configuration.md#several-pipelines) says how.
";

const EXAMPLE_HEAD: &str = "\
# A configuration of reduct-sink with every key, generated from the key table. A line without `#` is a default or a required
# key. A line that begins with `#` and no blank is a key without a default. A line that begins with `# ` and a key excludes
# another key. host/docs/configuration.md explains the concepts. Several pipelines in one process have their keys in
# [pipelines.NAME.kafka], [pipelines.NAME.store] and so on; what stands here then counts for all of them.
";

/// How wide the lines of the example file may be.
const WIDTH: usize = 100;

/// The reference page, as Markdown.
pub fn reference() -> String {
    let mut page = REFERENCE_HEAD.to_owned();
    for section in sections() {
        section_of_reference(&mut page, section);
    }
    page
}

fn section_of_reference(page: &mut String, section: &Section) {
    let _ = write!(page, "\n## `{}`\n\n{}\n\n", heading(section.path), section.doc);
    if section.path == "kafka.properties" {
        let properties = OWNED.iter().map(|(name, why)| format!("| `{name}` | {why} |\n")).collect::<String>();
        let _ = write!(
            page,
            "`{PROPERTY_PREFIX}SASL_PASSWORD` sets `sasl.password`, and `--property NAME=VALUE` any. These are refused:\n\n\
             | property | why |\n|---|---|\n{properties}"
        );
        return;
    }
    page.push_str("| key | value | default | set by | change |\n|---|---|---|---|---|\n");
    let of_section = || keys().filter(|key| key.section() == section.path && !is_table(key));
    for key in of_section() {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            key.path,
            escaped(&value_of(key.takes)),
            escaped(&default_of(key)),
            set_by(key),
            change_of(key),
        );
    }
    page.push('\n');
    for key in of_section() {
        let excludes = key.excludes.map_or(String::new(), |other| format!(" Excludes `{other}`."));
        let _ = writeln!(page, "- `{}`: {}{excludes}", key.name(), key.doc);
    }
}

fn change_of(key: &Key) -> String {
    let change = if matches!(key.change, Change::Live) { "live" } else { "restart" };
    if is_of_process(key.path) { format!("{change}, *process*") } else { change.into() }
}

/// Whether the key is a table of its own, with a section of its own.
fn is_table(key: &Key) -> bool {
    matches!(key.takes, Takes::Properties | Takes::Plugins)
}

fn value_of(takes: Takes) -> String {
    match takes {
        Takes::Text(which) | Takes::Path(which) | Takes::Table(which) | Takes::TableOrNames(which) => which.into(),
        Takes::Texts(which) | Takes::Tables(which) => format!("a list: {which}"),
        Takes::Boolean => "`true` or `false`".into(),
        Takes::Number { min, max } => format!("{min} to {max}"),
        Takes::Size { min, max } => format!("{} to {}", size_text(min), size_text(max)),
        Takes::Duration { min, max } => {
            format!("{} to {}", humantime::format_duration(min), humantime::format_duration(max))
        }
        Takes::Share => "0% to 100%".into(),
        Takes::Choice(words) => words().iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Takes::Properties | Takes::Plugins => String::new(),
    }
}

fn default_of(key: &Key) -> String {
    match key.preset {
        Preset::Required => "required".into(),
        Preset::Absent => "none".into(),
        Preset::Derived(words) => words.into(),
        preset => preset.literal().map_or(String::new(), |literal| format!("`{literal}`")),
    }
}

fn set_by(key: &Key) -> String {
    let env = key.env.map(|env| format!("`{PREFIX}{env}`"));
    let flag = key.flag.map(|flag| format!("`{}`{}", flag.name, if flag.is_repeatable { " (repeatable)" } else { "" }));
    env.into_iter().chain(flag).collect::<Vec<_>>().join(", ")
}

/// A `|` would end a cell of a Markdown table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The example file, as TOML.
pub fn example() -> String {
    let mut file = EXAMPLE_HEAD.to_owned();
    for section in sections() {
        file.push('\n');
        comment(&mut file, section.doc);
        let mark = if section.is_optional { "#" } else { "" };
        let _ = writeln!(file, "{mark}{}", heading(section.path));
        file.push_str(section.example);
        for key in keys().filter(|key| key.section() == section.path && !is_table(key)) {
            key_of_example(&mut file, key, section.is_optional);
        }
    }
    file
}

fn key_of_example(file: &mut String, key: &Key, in_optional_section: bool) {
    let required = if key.preset == Preset::Required { " Required." } else { "" };
    comment(file, &format!("{}.{required}", key.summary()));
    // A plugin has to come from somewhere.
    let is_set = matches!(key.preset, Preset::Required) || key.path == "plugins.builtin";
    let value = key.preset.literal().unwrap_or_else(|| key.example.into());
    let mark = match () {
        () if key.excludes.is_some() => "# ",
        () if in_optional_section || !(is_set || key.preset.literal().is_some()) => "#",
        () => "",
    };
    let _ = writeln!(file, "{mark}{} = {value}", key.name());
}

/// Text as comments of a width.
fn comment(file: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(file, "{line}");
            line = "#".into();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(file, "{line}");
}
