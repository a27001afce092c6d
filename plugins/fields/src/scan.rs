//! Finds the end of a JSON value without parsing the value.
//!
//! Guarantees: sixteen bytes are examined at once, so that skipping long lists and texts is cheap; of a skipped value
//! only the quotes and the number of brackets are checked.

/// How many bytes are examined at once.
const BLOCK: usize = 16;

/// The position after the last byte of the value that begins at `start`. `None`: the value doesn't end in these bytes,
/// or no value begins at `start`.
pub fn end_of_value(bytes: &[u8], start: usize) -> Option<usize> {
    match bytes.get(start)? {
        b'"' => end_of_text(bytes, start),
        b'{' | b'[' => end_of_container(bytes, start),
        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
            let rest = bytes.get(start..)?;
            rest.iter().position(is_end).map(|length| start + length)
        }
        _ => None,
    }
}

#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
fn end_of_text(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        let marks = block::quotes_and_backslashes(&block_at(bytes, at)?);
        if marks == 0 {
            at += BLOCK;
            continue;
        }
        at += marks.trailing_zeros() as usize;
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            // The byte after a backslash doesn't end the text.
            _ => at += 2,
        }
    }
}

#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
fn end_of_container(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0);
    'blocks: loop {
        let block::Marks { quotes, opening, closing } = block::marks(&block_at(bytes, at)?);
        // There are too few closing brackets in this block to close the container, in whatever order they come.
        if quotes == 0 && closing.count_ones() < depth {
            depth = depth + opening.count_ones() - closing.count_ones();
            at += BLOCK;
            continue;
        }
        let mut marks = quotes | opening | closing;
        while marks != 0 {
            let place = marks.trailing_zeros();
            let mark = 1 << place;
            if quotes & mark != 0 {
                at = end_of_text(bytes, at + place as usize)?;
                continue 'blocks;
            }
            if opening & mark != 0 {
                depth += 1;
            } else {
                depth -= 1;
                if depth == 0 {
                    return Some(at + place as usize + 1);
                }
            }
            marks &= marks - 1;
        }
        at += BLOCK;
    }
}

/// The block of bytes from `at` on, filled up with spaces; `None`: there are no bytes at `at`.
fn block_at(bytes: &[u8], at: usize) -> Option<[u8; BLOCK]> {
    if let Some(Ok(block)) = bytes.get(at..at + BLOCK).map(TryInto::try_into) {
        return Some(block);
    }
    let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
    let mut block = [b' '; BLOCK];
    block.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    Some(block)
}

/// Finds which bytes of a block are quotes, brackets and so on, as bit sets: bit 0 stands for the first byte.
mod block {
    use super::BLOCK;

    pub struct Marks {
        pub quotes: u16,
        /// `{` and `[`
        pub opening: u16,
        /// `}` and `]`
        pub closing: u16,
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub use portable::{marks, quotes_and_backslashes};
    #[cfg(target_arch = "wasm32")]
    pub use simd::{marks, quotes_and_backslashes};

    /// The portable way, for the unit tests on the developer's machine.
    #[cfg(not(target_arch = "wasm32"))]
    mod portable {
        use super::{BLOCK, Marks};

        pub fn marks(block: &[u8; BLOCK]) -> Marks {
            let bits = |kind: &[u8]| bits(block, kind);
            Marks { quotes: bits(b"\""), opening: bits(b"{["), closing: bits(b"}]") }
        }

        pub fn quotes_and_backslashes(block: &[u8; BLOCK]) -> u16 {
            bits(block, b"\"\\")
        }

        fn bits(block: &[u8; BLOCK], kind: &[u8]) -> u16 {
            block.iter().rev().fold(0, |bits, byte| bits << 1 | u16::from(kind.contains(byte)))
        }
    }

    /// The way with WebAssembly's vector instructions. The attribute enables them for this function; without it the
    /// compiler would call a function for each of them.
    #[cfg(target_arch = "wasm32")]
    mod simd {
        use core::arch::wasm32::{i64x2, u8x16_bitmask, u8x16_eq, u8x16_splat, v128, v128_or};

        use super::{BLOCK, Marks};

        #[inline]
        #[target_feature(enable = "simd128")]
        pub fn marks(block: &[u8; BLOCK]) -> Marks {
            let block = vector(block);
            // A curly bracket differs from the square one by this bit.
            let curly = v128_or(block, u8x16_splat(b'{' ^ b'['));
            Marks {
                quotes: u8x16_bitmask(u8x16_eq(block, u8x16_splat(b'"'))),
                opening: u8x16_bitmask(u8x16_eq(curly, u8x16_splat(b'{'))),
                closing: u8x16_bitmask(u8x16_eq(curly, u8x16_splat(b'}'))),
            }
        }

        #[inline]
        #[target_feature(enable = "simd128")]
        pub fn quotes_and_backslashes(block: &[u8; BLOCK]) -> u16 {
            let block = vector(block);
            let quotes = u8x16_eq(block, u8x16_splat(b'"'));
            u8x16_bitmask(v128_or(quotes, u8x16_eq(block, u8x16_splat(b'\\'))))
        }

        #[inline]
        #[target_feature(enable = "simd128")]
        fn vector(block: &[u8; BLOCK]) -> v128 {
            let number = u128::from_le_bytes(*block);
            i64x2(number as i64, (number >> 64) as i64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these values is tested after a filling of any length and before another value.
    #[test]
    fn a_value_ends_where_it_ends() {
        for value in [
            "1",
            "-1.5e7",
            "true",
            "null",
            "\"\"",
            "\"text\"",
            "\"a \\\" b \\\\\"",
            "\"[{\"",
            "\"a text that is longer than a block: \\\\ \\\" }]\"",
            "[]",
            "{}",
            "[[], [[]], {}]",
            "{\"a\": [1, 2, {\"b\": \"]}\"}], \"c\": \"\\\"\"}",
            "[[1.25, 2.5], [3.75, 4.0], [5.25, 6.5], [7.75, 8.0], [[[[[[[[[[1]]]]]]]]]]]",
        ] {
            for fill in 0..40 {
                let text = format!("{}{value}, 7]}}", " ".repeat(fill));
                assert_eq!(end_of_value(text.as_bytes(), fill), Some(fill + value.len()), "{value} {fill}");
                for length in 1..value.len() {
                    let cut = &text.as_bytes()[..fill + length];
                    assert_eq!(end_of_value(cut, fill), None, "{value} {fill} {length}");
                }
            }
        }
        for no_value in ["", "}", "x", ",", ":"] {
            assert_eq!(end_of_value(no_value.as_bytes(), 0), None, "{no_value}");
        }
    }
}
