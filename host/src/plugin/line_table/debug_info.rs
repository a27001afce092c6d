//! From a compiler's debug information (DWARF) to a line table.
//!
//! Guarantees: a module whose debug information can't be read is left as it is, without a table; the code that the module
//! runs stays the same, byte by byte.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian};
use wasmparser::{Parser, Payload};

use super::{Row, SECTION, encode, number};

/// Folders beside the author's source whose code isn't the author's: generated, installed, or of the SDK.
const OTHERS: [&str; 8] = ["bindings", "build", "sdk", "target", "wit", ".venv", "node_modules", ".zig-cache"];

/// What a section begins with that isn't needed any more when the table is made.
const NAMES: &str = "name";
const DEBUG: &str = ".debug_";

type Sections<'a> = BTreeMap<&'a str, &'a [u8]>;

/// A core module with a table of the lines in `folder`, made of its debug information, which is left out, as the names of
/// functions are. A module without debug information stays as it is.
pub fn with_line_table(core: &[u8], folder: &Path) -> Vec<u8> {
    let Some((sections, code_bytes, rest)) = read(core) else { return core.to_vec() };
    let Some((files, rows)) = lines(&sections, code_bytes, folder) else { return core.to_vec() };
    if rows.is_empty() { rest } else { with_section(rest, SECTION, &encode(&files, &rows)) }
}

/// Appends a custom section.
pub(super) fn with_section(mut module: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    number(&mut content, name.len() as u32);
    content.extend(name.as_bytes());
    content.extend(data);
    module.push(0);
    number(&mut module, content.len() as u32);
    module.extend(content);
    module
}

/// The debug sections, the size of the code section's content, and the module without debug sections and names. `None`: it
/// has no debug information.
fn read(core: &[u8]) -> Option<(Sections<'_>, u64, Vec<u8>)> {
    let mut sections = Sections::new();
    let (mut code_bytes, mut rest, mut copied) = (0, Vec::new(), 0);
    let mut end_of_last = 0;
    for payload in Parser::new(0).parse_all(core) {
        match payload.ok()? {
            Payload::CodeSectionStart { range, .. } => {
                code_bytes = u64::try_from(range.end - range.start).ok()?;
                end_of_last = range.end;
            }
            Payload::CustomSection(section) if section.name().starts_with(DEBUG) || section.name() == NAMES => {
                let end = section.range().end;
                // The section's number and size are in front of its range, behind the section before it.
                rest.extend(core.get(copied..end_of_last)?);
                (copied, end_of_last) = (end, end);
                if section.name() != NAMES {
                    sections.insert(section.name(), section.data());
                }
            }
            other => {
                if let Some((_, range)) = other.as_section() {
                    end_of_last = range.end;
                } else if let Payload::Version { range, .. } = other {
                    end_of_last = range.end;
                }
            }
        }
    }
    rest.extend(core.get(copied..)?);
    (!sections.is_empty()).then_some((sections, code_bytes, rest))
}

/// The author's files, and the rows of the table. `None`: the debug information can't be read.
fn lines(sections: &Sections<'_>, code_bytes: u64, folder: &Path) -> Option<(Vec<String>, Vec<Row>)> {
    let section = |name: &str| sections.get(name).copied().unwrap_or_default();
    let dwarf = Dwarf::load(|id| Ok::<_, addr2line::gimli::Error>(EndianSlice::new(section(id.name()), LittleEndian)));
    let context = Context::from_dwarf(dwarf.ok()?).ok()?;
    let mut ranges: Vec<(u64, u64)> = context
        .find_location_range(0, code_bytes)
        .ok()?
        .map(|(start, size, _)| (start, start.saturating_add(size)))
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    let (mut files, mut rows) = (Vec::new(), Vec::<Row>::new());
    let mut push = |start: u64, file, line| {
        let same = |row: &Row| (row.file, row.line) == (file, line);
        match (u32::try_from(start), rows.last()) {
            (Ok(start), None) if file != 0 => rows.push(Row { start, file, line }),
            (Ok(start), Some(last)) if !same(last) && last.start <= start => rows.push(Row { start, file, line }),
            _ => {}
        }
    };
    for (at, (start, end)) in ranges.iter().enumerate() {
        let (file, line) = match author_line(&context, *start, folder) {
            Some((file, line)) => (number_of(&mut files, file), line),
            None => (0, 0),
        };
        push(*start, file, line);
        if ranges.get(at + 1).is_none_or(|(next, _)| next > end) {
            push(*end, 0, 0);
        }
    }
    Some((files, rows))
}

/// The innermost place in the author's source of the functions that were inlined here.
fn author_line(context: &Context<EndianSlice<'_, LittleEndian>>, at: u64, folder: &Path) -> Option<(String, u32)> {
    let mut frames = context.find_frames(at).skip_all_loads().ok()?;
    while let Ok(Some(frame)) = frames.next() {
        if let Some(place) = frame.location
            && let Some(file) = place.file.and_then(|file| author_file(file, folder))
            && let Some(line) = place.line.filter(|line| *line > 0)
        {
            return Some((file, line));
        }
    }
    None
}

/// The path in the author's folder; `None`: the file is somebody else's.
fn author_file(file: &str, folder: &Path) -> Option<String> {
    let path = Path::new(file);
    let path = if path.is_absolute() { path.strip_prefix(folder).ok()? } else { path };
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let path = parts.join("/");
    // A library's own relative path would look like one of the folder.
    (!OTHERS.contains(parts.first()?) && folder.join(&path).is_file()).then_some(path)
}

/// The file's place in the list, plus one.
fn number_of(files: &mut Vec<String>, file: String) -> u32 {
    let at = files.iter().position(|known| *known == file).unwrap_or_else(|| {
        files.push(file);
        files.len() - 1
    });
    at as u32 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_authors_in_the_folder_and_not_in_what_is_generated_there() {
        let folder = tempfile::tempdir().unwrap();
        let venv = ".venv/lib/python3.13/site-packages/ziglang/lib/std/debug.zig";
        for file in ["src/lib.rs", "plugin.zig", "json.c", "bindings/transform.c", venv] {
            let file = folder.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let file = |path: &str| author_file(&path.replace('~', folder.path().to_str().unwrap()), folder.path());
        assert_eq!(file("~/src/lib.rs").as_deref(), Some("src/lib.rs"));
        assert_eq!(file("./plugin.zig").as_deref(), Some("plugin.zig"));
        assert_eq!(file("~/src/../json.c").as_deref(), Some("json.c"));
        let venv = format!("~/{venv}");
        let library = "/rustc/59807616e1fa/library/core/src/option.rs";
        for other in ["~/bindings/transform.c", &venv, "~2/plugin.zig", library, "libc/exit.c", "../json.c", ""] {
            assert_eq!(file(other), None, "{other}");
        }
    }

    #[test]
    fn a_module_without_debug_information_stays_as_it_is() {
        let module = wat::parse_str("(module (func $named unreachable))").unwrap();
        assert_eq!(with_line_table(&module, Path::new("/")), module);
        assert_eq!(with_line_table(b"\0asm\x01\0\0\0\x0a", Path::new("/")), b"\0asm\x01\0\0\0\x0a");
    }

    #[test]
    fn debug_information_is_left_out_and_everything_else_stays() {
        let text = "(module (func $named unreachable) (@custom \"kept\" \"1\"))";
        let with_names = wat::parse_str(text).unwrap();
        let without = wat::parse_str(text.replace("$named", "")).unwrap();
        let with_debug = with_section(with_names, ".debug_info", b"");
        assert_eq!(with_line_table(&with_debug, Path::new("/")), without);
    }

    #[test]
    fn a_module_with_damaged_debug_information_stays_as_it_is() {
        let module = wat::parse_str("(module (func unreachable))").unwrap();
        let damaged = with_section(module, ".debug_info", b"\x01\x02\x03");
        assert_eq!(with_line_table(&damaged, Path::new("/")), damaged);
    }
}
