//! Files that somebody else may have put where they are.
//!
//! Guarantees: opening and reading end, whatever stands at the path: a pipe that nobody writes to and a device without an end
//! are refused; a small file is read up to a bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The most bytes of a small file: a certificate, a password, a signature.
const MOST: u64 = 1 << 20;

/// Opens a regular file for reading.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Without it opening a pipe waits for somebody who writes.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// What a small regular file holds.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // It may grow while it is read.
    open_regular(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST { Err(io::Error::other(format!("it has more than {MOST} bytes"))) } else { Ok(bytes) }
}

/// The same, of a text.
pub fn read_small_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_small(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it isn't UTF-8"))
}
