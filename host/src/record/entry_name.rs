//! Entry names: how a topic's name becomes a valid entry name, and the template that makes an entry's name for each
//! record.
//!
//! Guarantees: ReductStore accepts an [`EntryName`] (`[A-Za-z0-9_/-]+`, no empty segment, no segment over 255 bytes, at
//! most 512 bytes and 16 segments); two topics never get the same name; under the default template no two partitions
//! share an entry.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::record::TopicPartition;

/// The longest segment, in bytes: each segment becomes a path component on the server, and file systems allow this
/// much.
const MAX_SEGMENT: usize = 255;
/// The longest name, in bytes. The server's own limit is that of its file system on a whole path, which begins with the
/// folder of the server's data.
const MAX_NAME: usize = 512;
/// The most segments of a name: for `a/b/c` the server also creates the entries `a` and `a/b`.
const MAX_SEGMENTS: usize = 16;

/// A valid entry name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName(Arc<str>);

/// Why a text isn't a valid entry name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum NameError {
    #[error("entry name {0:?} is empty or has an empty segment")]
    EmptySegment(String),
    #[error(
        "entry name {name:?} has the character {found:?}; allowed are letters, digits, '_', '-', and '/' between \
         segments"
    )]
    IllegalCharacter { name: String, found: char },
    #[error("entry name {0:?} has a segment of more than {MAX_SEGMENT} bytes")]
    LongSegment(String),
    #[error("entry name {start:?}… has {bytes} bytes; at most {MAX_NAME} are allowed")]
    Long { start: String, bytes: usize },
    #[error("entry name {0:?} has more than {MAX_SEGMENTS} segments")]
    Deep(String),
}

/// A pattern for names of entries that a plugin may choose: `*` stands for any run of characters, `{topic}` for the
/// record's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPattern(String);

impl EntryPattern {
    /// Reads a pattern. `None`: besides `*` and `{topic}` it has a character that no entry name may have.
    pub fn parse(pattern: &str) -> Option<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '*');
        let rest = pattern.replace("{topic}", "");
        (!pattern.is_empty() && rest.chars().all(legal)).then(|| Self(pattern.into()))
    }

    /// Whether the entry's name matches the pattern, for a record of this topic.
    pub fn allows(&self, entry: &str, topic: &str) -> bool {
        let pattern = self.0.replace("{topic}", &topic_segment(topic));
        let mut pieces = pattern.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| entry.strip_prefix(first)) else { return false };
        let mut last = None;
        for piece in pieces {
            if let Some(middle) = last.replace(piece) {
                let Some((_, after)) = rest.split_once(middle) else { return false };
                rest = after;
            }
        }
        last.map_or(rest.is_empty(), |last: &str| rest.ends_with(last))
    }
}

/// The entries that a plugin may choose (`limits.entries`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EntriesAllowed {
    /// Any entry: the operator's template decides below which name it lies.
    #[default]
    Any,
    /// The entry with the topic's name, and entries below it.
    OfTopic,
    /// The entries that match one of these patterns.
    Listed(Vec<EntryPattern>),
}

impl EntriesAllowed {
    /// What holds if the configuration lists no entries. If the template puts the topic's name, or a name of the
    /// operator's, as a segment before a plugin's choice, any choice is allowed. Otherwise only entries of the topic
    /// are, because another one could belong to another sink.
    pub fn by_default(template: Option<&str>) -> Self {
        let Some(template) = template else { return Self::OfTopic };
        // A template without `{name}` ignores a plugin's choice.
        let Some((before, _)) = template.split_once("{name}") else { return Self::Any };
        let is_own = |segment: &str| segment == "{topic}" || !(segment.is_empty() || segment.contains('{'));
        match before.rsplit_once('/') {
            Some((folders, "")) if folders.split('/').any(is_own) => Self::Any,
            _ => Self::OfTopic,
        }
    }

    /// Whether the entry may be chosen for a record of this topic.
    pub fn allows(&self, entry: &str, topic: &str) -> bool {
        match self {
            Self::Any => true,
            Self::OfTopic => {
                let below = entry.strip_prefix(topic_segment(topic).as_str());
                below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
            }
            Self::Listed(patterns) => patterns.iter().any(|pattern| pattern.allows(entry, topic)),
        }
    }
}

/// The text of the message that refuses a choice.
impl fmt::Display for EntriesAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any entry"),
            Self::OfTopic => f.write_str("{topic} and {topic}/*"),
            Self::Listed(patterns) if patterns.is_empty() => f.write_str("none"),
            Self::Listed(patterns) => {
                let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(", "))
            }
        }
    }
}

impl fmt::Display for EntryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EntryName {
    /// Checks a name against the store's rules.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.len() > MAX_NAME {
            return Err(NameError::Long { start: name.chars().take(60).collect(), bytes: name.len() });
        }
        if name.split('/').count() > MAX_SEGMENTS {
            return Err(NameError::Deep(name.into()));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/');
        if let Some(found) = name.chars().find(|c| !legal(*c)) {
            return Err(NameError::IllegalCharacter { name: name.into(), found });
        }
        if name.split('/').any(str::is_empty) {
            return Err(NameError::EmptySegment(name.into()));
        }
        if name.split('/').any(|segment| segment.len() > MAX_SEGMENT) {
            return Err(NameError::LongSegment(name.into()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic's name as one segment of an entry name. `.` is the one character that Kafka allows and ReductStore doesn't:
/// it becomes `_2E`, and so that no other topic can end up there, a literal `_2E` becomes `_5F2E` and `_5F` becomes
/// `_5F5F`.
pub fn topic_segment(topic: &str) -> String {
    let mut segment = String::with_capacity(topic.len() + 8);
    let mut rest = topic;
    while let Some(c) = rest.chars().next() {
        let tail = rest.split_at(c.len_utf8()).1;
        match c {
            '.' => segment.push_str("_2E"),
            '_' if tail.starts_with("2E") || tail.starts_with("5F") => segment.push_str("_5F"),
            c => segment.push(c),
        }
        rest = tail;
    }
    segment
}

/// A template for entry names, with the placeholders `{name}` (a plugin's choice, or else the topic), `{topic}` and
/// `{partition}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<TemplatePart>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Name,
    Topic,
    Partition,
}

/// Why a text isn't a valid template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum TemplateError {
    #[error("unknown placeholder {{{0}}}; there are {{name}}, {{topic}} and {{partition}}")]
    UnknownPlaceholder(String),
    #[error("a placeholder begins with '{{' and has no '}}'")]
    Unclosed,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            TemplatePart::Text(text) => f.write_str(text),
            TemplatePart::Name => f.write_str("{name}"),
            TemplatePart::Topic => f.write_str("{topic}"),
            TemplatePart::Partition => f.write_str("{partition}"),
        })
    }
}

impl Template {
    /// Checks a template and the names that it can make.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (placeholder, tail) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
            if !before.is_empty() {
                parts.push(TemplatePart::Text(before.into()));
            }
            parts.push(match placeholder {
                "name" => TemplatePart::Name,
                "topic" => TemplatePart::Topic,
                "partition" => TemplatePart::Partition,
                other => return Err(TemplateError::UnknownPlaceholder(other.into())),
            });
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(TemplatePart::Text(rest.into()));
        }
        let template = Self(parts);
        // Each value of a placeholder is valid by itself, so that rendering one example checks the template for all.
        template.render("name", &TopicPartition { topic: "topic".into(), partition: 0 })?;
        Ok(template)
    }

    /// `/{partition}` behind what there is, unless the topic has but one.
    fn by_partition(mut self, partitions: usize) -> Self {
        if partitions > 1 {
            self.0.extend([TemplatePart::Text("/".into()), TemplatePart::Partition]);
        }
        self
    }

    /// Whether records of two partitions can meet in one entry, in a topic with this number of partitions, perhaps one
    /// of several.
    pub fn shares_entries(&self, partitions: usize, several_topics: bool) -> bool {
        let by_partition = partitions <= 1 || self.0.contains(&TemplatePart::Partition);
        let by_topic = !several_topics || self.0.contains(&TemplatePart::Topic);
        !(by_partition && by_topic)
    }

    /// The entry name that the template makes of `name`, a valid entry name of one or more segments, for a record of
    /// `source`.
    pub fn render(&self, name: &str, source: &TopicPartition) -> Result<EntryName, NameError> {
        let mut entry = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Text(text) => entry.push_str(text),
                TemplatePart::Name => entry.push_str(name),
                TemplatePart::Topic => entry.push_str(&topic_segment(&source.topic)),
                TemplatePart::Partition => entry.push_str(&source.partition.to_string()),
            }
        }
        EntryName::parse(&entry)
    }
}

/// The templates of one partition's entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// For records whose entry no plugin chose: `{name}` is the topic.
    pub derived: Template,
    /// For records whose entry a plugin chose.
    pub chosen: Template,
}

impl Naming {
    /// The templates that hold if the configuration has none. They keep the entries of all partitions apart: the name
    /// is the topic, or a plugin's choice with the topic after it if the host reads several topics, and ends with
    /// `/{partition}` unless the topic has one partition.
    pub fn default_for(partitions: usize, several_topics: bool) -> Self {
        let name = Template(vec![TemplatePart::Name]);
        let chosen = match several_topics {
            true => Template(vec![TemplatePart::Name, TemplatePart::Text("/".into()), TemplatePart::Topic]),
            false => name.clone(),
        };
        Self { derived: name.by_partition(partitions), chosen: chosen.by_partition(partitions) }
    }

    /// The operator's template, for all records.
    pub fn configured(template: &Template) -> Self {
        Self { derived: template.clone(), chosen: template.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_map_to_legal_and_distinct_segments() {
        let topics =
            ["a.b", "a_2Eb", "a_5F2Eb", "a_5Fb", "a_b", "camera_01", "sensor_data", "_5F", ".", "_2E", "_", "__2E"];
        let mut seen = std::collections::BTreeMap::new();
        for topic in topics {
            let segment = topic_segment(topic);
            EntryName::parse(&segment).unwrap();
            assert_eq!(seen.insert(segment, topic), None, "{topic} shares its segment");
        }
        assert_eq!(topic_segment("camera_01"), "camera_01");
        assert_eq!(topic_segment("a.b"), "a_2Eb");
    }

    #[test]
    fn entry_names_are_checked() {
        for bad in ["", "/a", "a/", "a//b", "a.b", "ä", "a b", &"x".repeat(256)] {
            assert!(EntryName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "a/b-c_D9/0", &"x".repeat(255)] {
            EntryName::parse(good).unwrap();
        }
    }

    #[test]
    fn by_default_a_plugin_chooses_below_its_topic_or_below_what_the_operator_wrote() {
        let of_topic = EntriesAllowed::by_default(None);
        for (entry, topic, allowed) in [
            ("camera", "camera", true),
            ("camera/left", "camera", true),
            ("line_2E7/a/b", "line.7", true),
            ("camera2", "camera", false),
            ("camera2/left", "camera", false),
            ("lidar/camera", "camera", false),
            ("line.7", "line.7", false),
            ("Camera", "camera", false),
        ] {
            assert_eq!(of_topic.allows(entry, topic), allowed, "{entry} of {topic}");
        }
        for (template, any) in [
            ("{name}", false),
            ("{name}/{partition}", false),
            ("{name}-{topic}", false),
            ("{topic}-{name}", false),
            ("{topic}-all/{name}", false),
            ("{topic}/x-{name}", false),
            ("{partition}/{name}", false),
            ("{partition}/{topic}/{name}", true),
            ("plant/{name}", true),
            ("{topic}/{name}", true),
            ("plant/{name}/{partition}", true),
            ("{topic}/{partition}", true),
        ] {
            assert_eq!(EntriesAllowed::by_default(Some(template)) == EntriesAllowed::Any, any, "{template}");
        }
    }

    #[test]
    fn templates_render_and_refuse() {
        let source = TopicPartition { topic: "a.b".into(), partition: 3 };
        let rendered = |text: &str| Template::parse(text).unwrap().render("cam/left", &source).unwrap().to_string();
        assert_eq!(rendered("{name}/{partition}"), "cam/left/3");
        assert_eq!(rendered("raw-{topic}"), "raw-a_2Eb");
        let naming = |partitions, several| {
            let naming = Naming::default_for(partitions, several);
            let render = |template: Template| template.render("n", &source).unwrap().to_string();
            (render(naming.derived), render(naming.chosen))
        };
        assert_eq!(naming(1, false), ("n".into(), "n".into()));
        assert_eq!(naming(4, false), ("n/3".into(), "n/3".into()));
        assert_eq!(naming(1, true), ("n".into(), "n/a_2Eb".into()));
        assert_eq!(naming(4, true), ("n/3".into(), "n/a_2Eb/3".into()));
        for bad in ["{nam}", "{name", "{name}.x", "", "{name}//x"] {
            assert!(Template::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_template_tells_whether_entries_are_shared() {
        let shares =
            |text: &str, partitions, several| Template::parse(text).unwrap().shares_entries(partitions, several);
        assert!(!shares("{name}", 1, false));
        assert!(shares("{name}", 2, false) && shares("{name}", 1, true));
        assert!(!shares("{name}/{partition}", 2, false));
        assert!(shares("{name}/{partition}", 2, true));
        assert!(!shares("{name}/{topic}-{partition}", 2, true));
    }
}
