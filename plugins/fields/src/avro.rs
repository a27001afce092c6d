//! Reads Avro payloads: one value, whose schema isn't part of the payload.
//!
//! Guarantees: the payload is read to its end, so that a payload of another schema is noticed if its bytes don't fit;
//! values that aren't needed are skipped; the reader's recursion is bounded, and it never loops more often than the
//! payload has bytes.

use crate::avro_schema::{AvroSchema, AvroType, TypeId};
use crate::extract::{Found, Tree};
use crate::value::{Stamp, Value};

/// How deep values may be nested.
const MOST_DEEP: usize = 64;

/// The values at the tree's paths.
pub fn read(bytes: &[u8], schema: &AvroSchema, tree: &Tree, slots: usize) -> Result<Found, String> {
    let mut found = Found::new(slots);
    let mut reader = DatumReader { bytes, at: 0, schema };
    let read = reader.value(schema.root, Some(tree), &mut found, 0);
    match read {
        Ok(_) if reader.at < bytes.len() => {
            let left = bytes.len() - reader.at;
            Err(format!("the payload isn't of this Avro schema: {left} bytes are left behind its end"))
        }
        Ok(_) => Ok(found),
        Err(problem) => Err(format!("the payload isn't of this Avro schema: {problem} at byte {}", reader.at)),
    }
}

struct DatumReader<'b> {
    bytes: &'b [u8],
    at: usize,
    schema: &'b AvroSchema,
}

type Read<T> = Result<T, &'static str>;

impl<'b> DatumReader<'b> {
    /// Reads the next value and keeps what the tree needs of it. Returns the value if it is a number, for a field that
    /// is a time.
    fn value(&mut self, of: TypeId, tree: Option<&Tree>, found: &mut Found, depth: usize) -> Read<Option<i64>> {
        if depth > MOST_DEEP {
            return Err("it is nested in more than 64 levels");
        }
        let schema = self.schema;
        let slot = tree.and_then(|tree| tree.slot);
        let value = match schema.get(of) {
            AvroType::Null => Value::Null,
            AvroType::Boolean => match self.take(1)? {
                [0] => Value::Boolean(false),
                [1] => Value::Boolean(true),
                _ => return Err("a boolean is neither 0 nor 1"),
            },
            AvroType::Integer => {
                let number = self.long()?;
                if let Some(slot) = slot {
                    found.set(slot, Value::Number(number.to_string()));
                }
                return Ok(Some(number));
            }
            AvroType::Float => {
                let bytes = self.take(4)?.try_into().map_err(|_| "it ends too early")?;
                Value::of_float(f32::from_le_bytes(bytes))
            }
            AvroType::Double => {
                let bytes = self.take(8)?.try_into().map_err(|_| "it ends too early")?;
                Value::of_float(f64::from_le_bytes(bytes))
            }
            AvroType::Bytes => {
                let bytes = self.delimited()?;
                if slot.is_some() { Value::Bytes(bytes.into()) } else { Value::Null }
            }
            AvroType::Text => {
                let bytes = self.delimited()?;
                if slot.is_some() { Value::of_text(bytes) } else { Value::Null }
            }
            AvroType::Fixed(size) => Value::Bytes(self.take(*size)?.into()),
            AvroType::Enum(symbols) => {
                let at = usize::try_from(self.long()?).map_err(|_| "a symbol's number is negative")?;
                Value::Text(symbols.get(at).ok_or("an enum has no symbol of this number")?.clone())
            }
            AvroType::Decimal { scale, fixed } => {
                let bytes = match fixed {
                    Some(size) => self.take(*size)?,
                    None => self.delimited()?,
                };
                decimal(bytes, *scale)
            }
            AvroType::Union(variants) => {
                let at = usize::try_from(self.long()?).map_err(|_| "a variant's number is negative")?;
                let variant = *variants.get(at).ok_or("a union has no variant of this number")?;
                return self.value(variant, tree, found, depth + 1);
            }
            AvroType::Array(items) => {
                if let Some(slot) = slot {
                    found.set(slot, Value::Other("a list"));
                }
                self.array(*items, tree, found, depth + 1)?;
                return Ok(None);
            }
            AvroType::Map(values) => {
                if let Some(slot) = slot {
                    found.set(slot, Value::Other("a map"));
                }
                self.map(*values, tree, found, depth + 1)?;
                return Ok(None);
            }
            AvroType::Record(fields) => {
                let stamp = self.record(fields, tree, found, depth + 1)?;
                if let Some(slot) = slot {
                    let is_stamp = tree.is_some_and(|tree| tree.is_stamp);
                    let other = Value::Other("a record");
                    found.set(slot, stamp.filter(|_| is_stamp).map_or(other, Value::Stamp));
                }
                return Ok(None);
            }
        };
        if let Some(slot) = slot {
            found.set(slot, value);
        }
        Ok(None)
    }

    fn record(
        &mut self,
        fields: &[(String, TypeId)],
        tree: Option<&Tree>,
        found: &mut Found,
        depth: usize,
    ) -> Read<Option<Stamp>> {
        let (mut seconds, mut nanoseconds) = (None, None);
        for (name, of) in fields {
            let child = tree.and_then(|tree| tree.keys.iter().find(|(key, _)| key == name)).map(|(_, child)| child);
            let number = self.value(*of, child, found, depth)?;
            match name.as_str() {
                "sec" | "secs" | "seconds" => seconds = number,
                "nanosec" | "nsecs" | "nsec" | "nanos" => nanoseconds = number,
                _ => {}
            }
        }
        Ok(seconds.zip(nanoseconds).map(|(sec, nanosec)| Stamp { sec, nanosec }))
    }

    fn array(&mut self, items: TypeId, tree: Option<&Tree>, found: &mut Found, depth: usize) -> Read<()> {
        let wanted = tree.map_or(&[][..], |tree| &tree.items);
        let mut place = 0;
        self.blocks(wanted.is_empty(), |this| {
            let child = wanted.iter().find(|(item, _)| *item == place).map(|(_, child)| child);
            place += 1;
            this.value(items, child, found, depth).map(|_| ())
        })
    }

    fn map(&mut self, values: TypeId, tree: Option<&Tree>, found: &mut Found, depth: usize) -> Read<()> {
        let wanted = tree.map_or(&[][..], |tree| &tree.keys);
        self.blocks(wanted.is_empty(), |this| {
            let key = this.delimited()?;
            let child = wanted.iter().find(|(name, _)| name.as_bytes() == key).map(|(_, child)| child);
            this.value(values, child, found, depth).map(|_| ())
        })
    }

    /// Reads the items of an array or a map, block by block.
    fn blocks(&mut self, may_skip: bool, mut item: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                let length = self.length()?;
                if may_skip {
                    self.take(length)?;
                    continue;
                }
            }
            for _ in 0..count.unsigned_abs() {
                let before = self.at;
                item(self)?;
                // Items without bytes, such as nulls, could be any number of items.
                if self.at == before {
                    break;
                }
            }
        }
    }

    fn take(&mut self, length: usize) -> Read<&'b [u8]> {
        let end = self.at.checked_add(length).ok_or("it ends too early")?;
        let taken = self.bytes.get(self.at..end).ok_or("it ends too early")?;
        self.at = end;
        Ok(taken)
    }

    fn length(&mut self) -> Read<usize> {
        usize::try_from(self.long()?).map_err(|_| "a length is negative")
    }

    fn delimited(&mut self) -> Read<&'b [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    /// Reads a number of up to ten bytes with seven bits each, the lowest bits first. The lowest bit of all is the
    /// sign.
    fn long(&mut self) -> Read<i64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or("it ends too early")?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err("a number is too long")
    }
}

/// A decimal: a whole number in two's complement, the highest byte first, whose last `scale` digits stand after the
/// point.
fn decimal(bytes: &[u8], scale: u32) -> Value {
    if bytes.len() > 16 {
        return Value::Other("a decimal of more than 16 bytes");
    }
    let sign = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let number = bytes.iter().fold(if sign { -1 } else { 0 }, |number: i128, byte| number << 8 | i128::from(*byte));
    let (sign, digits) = (if number < 0 { "-" } else { "" }, number.unsigned_abs().to_string());
    let scale = scale as usize;
    let digits = format!("{}{digits}", "0".repeat((scale + 1).saturating_sub(digits.len())));
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if fraction.is_empty() { "" } else { "." };
    Value::Number(format!("{sign}{whole}{point}{fraction}"))
}
