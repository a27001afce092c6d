//! Which line of the author's source a place in a component's code comes from.
//!
//! `plugin build` makes the table of the compiler's debug information and leaves it in a section of the core module, so that
//! a component has neither the debug information, which is many times as large, nor any path of the author's machine.
//!
//! Guarantees: the tables of a component are read in one pass over at most [`MOST_BYTES`] of them, and take some megabytes of
//! memory at most; what is malformed is no table; looking a place up is a binary search.

mod debug_info;

use std::sync::Arc;

use wasmparser::{BinaryReader, Encoding, Parser, Payload};

pub use debug_info::with_line_table;

/// The name of the section.
const SECTION: &str = "reduct-sink:lines";
/// What a section begins with.
const FORMAT: u32 = 1;
/// What a component has beyond this isn't read. The examples have some hundred bytes to two kilobytes.
const MOST_BYTES: usize = 1 << 20;
/// Tables of more files aren't read, either.
const MOST_FILES: u32 = 10_000;
/// Nor are those with a longer name of a file.
const MOST_NAME: usize = 256;

/// The lines of a component's code.
#[derive(Debug, Default)]
pub(super) struct LineTable {
    files: Vec<Arc<str>>,
    /// In the order of their starts. Each goes up to the next.
    rows: Vec<Row>,
}

/// Code that comes from one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    /// Counted from the first byte of the component.
    start: u32,
    /// The place in the list of files, plus one; 0: the code isn't the author's.
    file: u32,
    line: u32,
}

impl LineTable {
    /// The tables of all core modules of a component. Empty if it has none.
    pub fn of_component(component: &[u8]) -> Self {
        let mut table = Self::default();
        let (mut code, mut left) = (None, MOST_BYTES);
        for payload in Parser::new(0).parse_all(component) {
            match payload {
                Ok(Payload::Version { encoding: Encoding::Module, .. }) => code = None,
                Ok(Payload::CodeSectionStart { range, .. }) => code = u32::try_from(range.start).ok(),
                Ok(Payload::CustomSection(section)) if section.name() == SECTION => {
                    let data = section.data();
                    let Some(rest) = left.checked_sub(data.len()) else { break };
                    left = rest;
                    if let Some((files, rows)) = code.and_then(|code| decode(data, code).ok()) {
                        table.append(files, rows);
                    }
                }
                Ok(_) => {}
                // The compiler says what is wrong with it.
                Err(_) => break,
            }
        }
        table.rows.sort_by_key(|row| row.start);
        table
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// `FILE:LINE` of the instruction at this offset in the component; `None`: it isn't the author's.
    pub fn place(&self, offset: usize) -> Option<String> {
        let offset = u32::try_from(offset).ok()?;
        let behind = self.rows.partition_point(|row| row.start <= offset);
        let row = self.rows.get(behind.checked_sub(1)?)?;
        let file = self.files.get(usize::try_from(row.file).ok()?.checked_sub(1)?)?;
        Some(format!("{file}:{}", row.line))
    }

    fn append(&mut self, files: Vec<Arc<str>>, rows: Vec<Row>) {
        let Some(before) = u32::try_from(self.files.len()).ok().filter(|before| *before < MOST_FILES) else { return };
        let moved = |row: Row| Row { file: if row.file == 0 { 0 } else { row.file.saturating_add(before) }, ..row };
        self.rows.extend(rows.into_iter().map(moved));
        self.files.extend(files);
    }
}

/// The content of a section. The starts of its rows are counted from the first byte of the code section's content.
fn encode(files: &[String], rows: &[Row]) -> Vec<u8> {
    let mut bytes = Vec::new();
    number(&mut bytes, FORMAT);
    number(&mut bytes, files.len() as u32);
    for file in files {
        number(&mut bytes, file.len() as u32);
        bytes.extend(file.as_bytes());
    }
    let mut start = 0;
    for row in rows {
        number(&mut bytes, row.start - start);
        number(&mut bytes, row.file);
        number(&mut bytes, row.line);
        start = row.start;
    }
    bytes
}

fn decode(data: &[u8], code: u32) -> wasmparser::Result<(Vec<Arc<str>>, Vec<Row>)> {
    let mut reader = BinaryReader::new(data, 0);
    let (mut files, mut rows) = (Vec::new(), Vec::new());
    if reader.read_var_u32()? != FORMAT {
        return Ok((files, rows));
    }
    let count = reader.read_var_u32()?;
    if count > MOST_FILES {
        return Ok((files, rows));
    }
    for _ in 0..count {
        let name = reader.read_string()?;
        if name.len() > MOST_NAME {
            return Ok((Vec::new(), rows));
        }
        files.push(name.into());
    }
    let mut start = code;
    while !reader.eof() {
        start = start.saturating_add(reader.read_var_u32()?);
        rows.push(Row { start, file: reader.read_var_u32()?, line: reader.read_var_u32()? });
    }
    Ok((files, rows))
}

/// Writes a number as WebAssembly does: in LEB128.
fn number(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(section: &[u8]) -> Vec<u8> {
        let core = wat::parse_str("(module (func unreachable) (func nop))").unwrap();
        let core = debug_info::with_section(core, SECTION, section);
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        component.push(1);
        number(&mut component, core.len() as u32);
        component.extend(core);
        component
    }

    fn code_start(component: &[u8]) -> usize {
        let mut payloads = Parser::new(0).parse_all(component);
        payloads
            .find_map(|payload| match payload.unwrap() {
                Payload::CodeSectionStart { range, .. } => Some(range.start),
                _ => None,
            })
            .unwrap()
    }

    #[test]
    fn a_place_has_the_line_of_the_row_that_it_is_in() {
        let files = ["plugin.c".to_owned(), "json.c".to_owned()];
        let rows = [
            Row { start: 2, file: 1, line: 10 },
            Row { start: 5, file: 2, line: 300 },
            Row { start: 7, file: 0, line: 0 },
        ];
        let component = component(&encode(&files, &rows));
        let (table, code) = (LineTable::of_component(&component), code_start(&component));
        let places: Vec<_> = (0..9).map(|at| table.place(code + at).unwrap_or_default()).collect();
        assert_eq!(places, ["", "", "plugin.c:10", "plugin.c:10", "plugin.c:10", "json.c:300", "json.c:300", "", ""]);
    }

    #[test]
    fn what_is_no_table_is_none() {
        let whole = encode(&["plugin.c".into()], &[Row { start: 2, file: 1, line: 10 }]);
        for length in 0..whole.len() {
            let table = LineTable::of_component(&component(&whole[..length]));
            assert!(table.is_empty(), "{length} bytes: {table:?}");
        }
        assert!(LineTable::of_component(&component(&[2, 0, 1, 1, 1])).is_empty(), "another format");
        let wild = encode(&[], &[Row { start: u32::MAX, file: 7, line: u32::MAX }]);
        assert_eq!(LineTable::of_component(&component(&wild)).place(u32::MAX as usize), None, "no such file");
        assert!(LineTable::of_component(b"no component").is_empty());
        let mut large = whole.clone();
        large.resize(MOST_BYTES + 1, 1);
        assert!(LineTable::of_component(&component(&large)).is_empty(), "too large");
        let files = vec![String::new(); MOST_FILES as usize + 1];
        let many = encode(&files, &[Row { start: 2, file: 1, line: 10 }]);
        assert!(LineTable::of_component(&component(&many)).is_empty(), "too many files");
        let named = |length| encode(&["n".repeat(length)], &[Row { start: 2, file: 1, line: 10 }]);
        assert!(!LineTable::of_component(&component(&named(MOST_NAME))).is_empty());
        assert!(LineTable::of_component(&component(&named(MOST_NAME + 1))).is_empty(), "too long a name");
    }

    #[test]
    fn a_row_takes_what_is_said() {
        assert_eq!(size_of::<Row>(), 12);
    }
}
