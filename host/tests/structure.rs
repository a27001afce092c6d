//! Checks the rules about the structure and the words of the code, which `.github/CONTRIBUTING.md` explains.
//!
//! Guarantees: each violation is reported with its file and line and with the rule that it breaks; a rule that finds
//! nothing to check fails, so that a moved folder cannot switch a rule off.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is an answer")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, iter};

use regex::Regex;

/// The folders of `host/src` in layers. A folder may import from its own layer, without cycles, and from the layers
/// below.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["pipeline"],
    &["consumer", "sink", "dead_letters", "recovery", "health", "rollout", "devkit"],
    &["chain", "kafka"],
    &["plugin", "flow"],
    &["config", "record"],
];

/// Only these folders may use each client library, so that it can be replaced in one place.
const LIBRARIES: &[(&str, &[&str])] =
    &[("wasmtime", &["plugin"]), ("rdkafka", &["kafka", "consumer"]), ("reduct_rs", &["sink"])];

/// Words and phrases that make a sentence hard to understand, each with a better one.
const WORDS: &[(&str, &str)] = &[
    ("so many", "this many, or the number"),
    ("so long", "this long, or the duration"),
    ("whoever", "a noun: the operator, the reader, the plugin"),
    ("anew", "again"),
    ("moot", "stale"),
    ("told of", "reported"),
    ("of before", "previous, or earlier"),
    ("in the midst", "during"),
];

const MAX_LINES: usize = 500;
const MAX_MODULES: usize = 15;

#[test]
fn imports_point_down_and_have_no_cycles() {
    let sources = sources();
    let layer = |folder: &str| LAYERS.iter().position(|layer| layer.contains(&folder));
    let mut problems = Vec::new();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in &sources {
        let Some(folder) = source.folder() else { continue };
        let Some(own) = layer(folder) else {
            problems.push(format!("{}: folder {folder} is in no layer of LAYERS", source.name));
            continue;
        };
        for (line, imported) in source.imports() {
            let Some(other) = layer(imported) else { continue };
            if other < own {
                problems.push(format!("{}:{line}: {folder} imports {imported}, which is above it", source.name));
            } else if imported != folder {
                edges.entry(folder).or_default().insert(imported);
            }
        }
    }
    problems.extend(cycles(&edges).into_iter().map(|cycle| format!("these folders import each other: {cycle}")));
    assert!(edges.len() > 5, "imports of {} folders only were found", edges.len());
    report(problems);
}

#[test]
fn client_libraries_are_known_to_few_folders() {
    let (sources, mut problems) = (sources(), Vec::new());
    for (library, allowed) in LIBRARIES {
        let used = Regex::new(&format!(r"(?-u)\b(?:use {library}\b|{library}(?:_\w+)?::)")).unwrap();
        let mut users = 0;
        for source in sources.iter().filter(|source| source.text.contains(library)) {
            for (line, text) in source.code() {
                if used.is_match(text) {
                    users += 1;
                    if !source.folder().is_some_and(|folder| allowed.contains(&folder)) {
                        problems.push(format!(
                            "{}:{line}: only {} may use {library}",
                            source.name,
                            allowed.join(" and ")
                        ));
                    }
                }
            }
        }
        assert!(users > 0, "nothing uses {library}");
    }
    report(problems);
}

#[test]
fn modules_are_few_and_are_folders() {
    let mut problems = Vec::new();
    let mut folders = 0;
    for entry in fs::read_dir(root().join("host/src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            folders += 1;
        } else if !["main.rs", "lib.rs"].contains(&name.as_str()) {
            problems.push(format!("host/src/{name}: a module is a folder"));
        }
    }
    if folders > MAX_MODULES {
        problems.push(format!("host/src has {folders} folders; at most {MAX_MODULES} are allowed"));
    }
    assert!(folders > 5, "only {folders} folders were found");
    report(problems);
}

#[test]
fn files_are_short() {
    let files = repository(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(files.len() > 100, "only {} files were found", files.len());
    let too_long = |(name, text): &(String, String)| {
        let lines = text.lines().count();
        (lines > MAX_LINES).then(|| format!("{name}: {lines} lines; at most {MAX_LINES} are allowed"))
    };
    report(files.iter().filter_map(too_long).collect());
}

#[test]
fn each_file_begins_with_what_it_is_for() {
    let headless = |source: &Source| !source.text.starts_with("//! ");
    let problem = |source: Source| format!("{}: begin with `//! ` and what the file is for", source.name);
    report(sources().into_iter().filter(headless).map(problem).collect());
}

/// A reader who meets a type's name a second time may confuse it with the type that they know.
#[test]
fn each_type_name_is_used_once() {
    // An indented `type` belongs to a trait.
    let definition = Regex::new(
        r"(?-u)^(?:type|\s*(?:pub(?:\([a-z :]*\))? )?(?:struct|enum|trait)|pub(?:\([a-z :]*\))? type) (\w+)",
    )
    .unwrap();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for (line, text) in source.code() {
            if let Some(name) = definition.captures(text) {
                places.entry(name[1].to_owned()).or_default().push(format!("{}:{line}", source.name));
            }
        }
    }
    assert!(places.len() > 100, "only {} types were found", places.len());
    places.retain(|_, places| places.len() > 1);
    report(
        places
            .iter()
            .map(|(name, places)| format!("{}: {name} is defined more than once", places.join(", ")))
            .collect(),
    );
}

/// A reader trusts a function whose name begins with `is_` or `has_` to answer a question and to do nothing else.
#[test]
fn questions_have_no_side_effects() {
    let question = Regex::new(r"(?-u)\bfn ((?:is|has)_\w+)").unwrap();
    let act =
        Regex::new(r"(?-u)&mut self|\.(?:store|swap|fetch_\w+|send|notify_\w+)\(|\b(?:error|warn|info|debug|trace)!\(")
            .unwrap();
    let mut problems = Vec::new();
    let mut found = 0;
    for source in sources() {
        for name in question.captures_iter(&source.text) {
            found += 1;
            let (start, name) = (name.get(0).unwrap().start(), &name[1]);
            if let Some(act) = act.find(function(&source.text[start..])) {
                let line = source.text[..start].lines().count() + 1;
                problems.push(format!("{}:{line}: {name} contains {:?}", source.name, act.as_str()));
            }
        }
    }
    assert!(found > 10, "only {found} questions were found");
    report(problems);
}

#[test]
fn words_are_those_that_a_stranger_understands() {
    let is_text = |path: &Path| match path.extension() {
        Some(extension) => {
            ["rs", "md", "toml", "sh", "wit", "py", "yml", "yaml"].iter().any(|known| extension == *known)
        }
        None => fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!")),
    };
    let files = repository(is_text);
    assert!(files.len() > 200, "only {} files were found", files.len());
    // A phrase may continue on the next line, after the mark of a comment.
    let gap = r"(?:[ \t]+|[ \t]*\n[ \t]*(?://[/!]?|#|\*)?[ \t]*)";
    let phrases: Vec<String> = WORDS.iter().map(|(words, _)| format!("({})", words.replace(' ', gap))).collect();
    // All at once, because each search goes over every file.
    let pattern = Regex::new(&format!(r"(?i)(?-u)\b(?:{})\b", phrases.join("|"))).unwrap();
    let mut problems = Vec::new();
    for (name, text) in files.iter().filter(|(name, _)| name != "host/tests/structure.rs") {
        for found in pattern.captures_iter(text) {
            let start = found.get(0).unwrap().start();
            let line = text[..start].lines().count().max(1);
            let which = (0..WORDS.len()).find(|which| found.get(which + 1).is_some()).unwrap();
            let (words, better) = WORDS[which];
            problems.push(format!("{name}:{line}: {words:?}; write {better}"));
        }
    }
    report(problems);
}

/// Each promise in the tables of `.github/SECURITY.md` names the tests that hold it, and all of these exist.
#[test]
fn the_tests_that_security_names_are_there() {
    let tests = files_with_tests();
    let runner = fs::read_to_string(root().join("tests/run")).unwrap();
    let security = fs::read_to_string(root().join(".github/SECURITY.md")).unwrap();
    let name = Regex::new("`([^`]+)`").unwrap();
    let (mut problems, mut found) = (Vec::new(), 0);
    for row in security.lines().filter(|line| line.starts_with("| ") && !line.contains("| held by |")) {
        let holders = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = name.captures_iter(holders).map(|name| name.get(1).unwrap().as_str()).collect();
        // A reader of the bucket can't reach the host: there is nothing to test.
        if names.is_empty() && !["\u{2013}", "see the next table"].contains(&holders) {
            problems.push(format!("no test holds the row {row}"));
        }
        for name in names {
            found += 1;
            if !is_test(name, &tests) && !runner.contains(&format!("suite_{name}()")) {
                problems.push(format!(".github/SECURITY.md names {name}, and there is no such test"));
            }
        }
    }
    assert!(found > 40, "only {found} names were found");
    report(problems);
}

/// A file below `host` or `tests`, and the names of the tests in it.
struct TestFile {
    path: String,
    text: String,
    tests: Vec<String>,
}

fn files_with_tests() -> Vec<TestFile> {
    let test =
        Regex::new(r"#\[(?:tokio::)?test[^\]]*\][ \n]*(?:#\[[^\]]*\][ \n]*)*(?:async )?fn ((?-u:\w)+)\(").unwrap();
    let files = repository(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let files = files.into_iter().filter(|(path, _)| path.starts_with("host/") || path.starts_with("tests/"));
    let file = |(path, text): (String, String)| {
        let tests = test.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        TestFile { path, text, tests }
    };
    files.map(file).collect()
}

/// Whether `name` is a test, a file or a folder with tests, a fuzz target or a plugin of the suite `hostile`. All but the last part of
/// `a::b::c` are files or folders.
fn is_test(name: &str, files: &[TestFile]) -> bool {
    let (place, last) = name.rsplit_once("::").unwrap_or(("", name));
    let folder = place.rsplit("::").next().unwrap();
    let (file, module) = (format!("/{last}.rs"), format!("/{last}/"));
    files.iter().any(|TestFile { path, text, tests }| {
        let is_in_place =
            folder.is_empty() || path.contains(&format!("/{folder}/")) || path.ends_with(&format!("/{folder}.rs"));
        let is_hostile = || path.starts_with("tests/suites/hostile/") && text.contains(&format!("\"{last}\""));
        let is_there = || tests.iter().any(|test| test == last) || path.ends_with(&file) || path.contains(&module);
        is_in_place && (is_there() || is_hostile())
    })
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The cycles of imports, each as `a → b → a`.
fn cycles(edges: &BTreeMap<&str, BTreeSet<&str>>) -> BTreeSet<String> {
    fn walk<'a>(path: &mut Vec<&'a str>, edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, found: &mut BTreeSet<String>) {
        let here = path[path.len() - 1];
        for &next in edges.get(here).into_iter().flatten() {
            if next == path[0] {
                found.insert(path.iter().copied().chain(iter::once(next)).collect::<Vec<_>>().join(" → "));
            } else if !path.contains(&next) && next > path[0] {
                path.push(next);
                walk(path, edges, found);
                path.pop();
            }
        }
    }
    let mut found = BTreeSet::new();
    for &start in edges.keys() {
        walk(&mut vec![start], edges, &mut found);
    }
    found
}

/// A function's text from its signature to its closing brace.
fn function(text: &str) -> &str {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => return &text[..at],
            '}' => depth -= 1,
            // The function has no body.
            ';' if depth == 0 => return &text[..at],
            _ => {}
        }
    }
    text
}

/// A Rust file below `host/src`.
struct Source {
    /// Its path from the repository's root.
    name: String,
    text: String,
}

impl Source {
    /// The folder of `host/src` that it is in; `None` for `main.rs` and `lib.rs`.
    fn folder(&self) -> Option<&str> {
        let (folder, _) = self.name.strip_prefix("host/src/")?.split_once('/')?;
        Some(folder)
    }

    /// Its lines of code, without comment lines, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The folders that follow `crate::`, with the numbers of their lines.
    fn imports(&self) -> Vec<(usize, &str)> {
        let mut imports = Vec::new();
        for (line, text) in self.code() {
            for (at, prefix) in text.match_indices("crate::") {
                // `$crate::` and `pub(in crate::…)` count as paths; a name that ends in `crate` doesn't.
                if text[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
                    continue;
                }
                let path = &text[at + prefix.len()..];
                let names = match path.strip_prefix('{') {
                    Some(_) => group(&self.text, line, at + prefix.len()),
                    None => vec![first_name(path)],
                };
                imports.extend(names.into_iter().map(|name| (line, name)));
            }
        }
        imports
    }
}

/// The first name of each path in a group `{a::b, c}`, which begins in this line and column.
fn group(text: &str, line: usize, column: usize) -> Vec<&str> {
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>() + column;
    let mut names = Vec::new();
    let mut depth = 0;
    for (at, letter) in text[start..].char_indices() {
        match letter {
            '{' | ',' => {
                depth += usize::from(letter == '{');
                if depth == 1 {
                    names.push(first_name(text[start + at + 1..].trim_start()));
                }
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

fn first_name(path: &str) -> &str {
    path.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

fn sources() -> Vec<Source> {
    let files = repository(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let sources = files.into_iter().filter(|(name, _)| name.starts_with("host/src/") && !name.contains("/templates/"));
    let sources: Vec<Source> = sources.map(|(name, text)| Source { name, text }).collect();
    assert!(sources.len() > 50, "only {} sources were found", sources.len());
    sources
}

/// The repository's own files that `wanted` accepts: their paths from its root, and their texts.
fn repository(wanted: impl Fn(&Path) -> bool) -> Vec<(String, String)> {
    const GENERATED: &[&str] = &["target", "node_modules", ".venv", ".git", "dist", "build", "bindings", "__pycache__"];
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let is_link = path.symlink_metadata().unwrap().is_symlink();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() {
                if !is_link && !GENERATED.contains(&name.as_ref()) {
                    folders.push(path);
                }
            } else if !is_link && wanted(&path) {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                files.push((name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
            }
        }
    }
    files.sort();
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
