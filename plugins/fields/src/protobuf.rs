//! Reads Protobuf payloads: one message, whose type is in a descriptor set.
//!
//! Guarantees: a message is read to its end; if a field comes twice, the last value counts, as Protobuf demands; values
//! that aren't needed are skipped; the reader's recursion is bounded.

use prost_reflect::Kind;
use prost_reflect::prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::extract::Found;
use crate::protobuf_schema::{ElementPlan, FieldPlan, MessagePlan, Shape, default_of};
use crate::value::{Stamp, Value};

/// How deep messages may be nested.
const MOST_DEEP: usize = 64;

/// The values of a message that the plan needs.
pub fn read(bytes: &[u8], plan: &MessagePlan, slots: usize) -> Result<Found, String> {
    let mut found = Found::new(slots);
    match message(bytes, plan, &mut found, 0) {
        Ok(()) => Ok(found),
        Err(problem) => Err(format!("the payload isn't a message {}: {problem}", plan.name)),
    }
}

/// The numbers by which a schema registry's prefix names the message type, and the bytes that follow. `None`: the bytes
/// are no such numbers.
pub fn message_numbers(mut bytes: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let mut number = || {
        let number = decode_varint(&mut bytes).ok()?;
        usize::try_from((number >> 1) as i64 ^ -((number & 1) as i64)).ok()
    };
    let numbers = match number()? {
        0 => vec![0],
        count if count <= MOST_DEEP => (0..count).map(|_| number()).collect::<Option<_>>()?,
        _ => return None,
    };
    Some((numbers, bytes))
}

fn message(bytes: &[u8], plan: &MessagePlan, found: &mut Found, depth: usize) -> Result<(), String> {
    if depth > MOST_DEEP {
        return Err(format!("it is nested in more than {MOST_DEEP} levels"));
    }
    for field in &plan.fields {
        if let Shape::Single(ElementPlan { slot: Some(slot), .. }, Some(default)) = &field.shape {
            found.set(*slot, default.clone());
        }
    }
    let mut counts = vec![0; plan.fields.len()];
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|error| error.to_string())?;
        let needed = plan.fields.iter().zip(&mut counts).filter(|(field, _)| field.number == number);
        let begin = rest;
        let mut is_needed = false;
        for (field, count) in needed {
            is_needed = true;
            // The field is read again from its begin, because two paths may need it, by its two names.
            rest = begin;
            one(&mut rest, wire, field, count, found, depth).map_err(|problem| format!("field {number}: {problem}"))?;
        }
        if !is_needed {
            skip_field(wire, number, &mut rest, DecodeContext::default()).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Reads the value that follows a field's key, and keeps what the plan needs of it.
fn one(
    rest: &mut &[u8],
    wire: WireType,
    field: &FieldPlan,
    count: &mut usize,
    found: &mut Found,
    depth: usize,
) -> Result<(), String> {
    match &field.shape {
        Shape::Single(plan, _) => element(rest, wire, &field.kind, Some(plan), found, depth),
        Shape::List { slot, items } => {
            if let Some(slot) = slot {
                found.put(*slot, Value::Other("a list"));
            }
            let mut item = |rest: &mut &[u8], wire: WireType| {
                let plan = items.iter().find(|(place, _)| place == count).map(|(_, plan)| plan);
                *count += 1;
                element(rest, wire, &field.kind, plan, found, depth)
            };
            let expected = wire_of(&field.kind);
            if wire == WireType::LengthDelimited && expected != WireType::LengthDelimited {
                let mut packed = delimited(rest)?;
                while !packed.is_empty() {
                    item(&mut packed, expected)?;
                }
                return Ok(());
            }
            item(rest, wire)
        }
        Shape::Map { slot, key, value, entries } => {
            if let Some(slot) = slot {
                found.put(*slot, Value::Other("a map"));
            }
            if wire != WireType::LengthDelimited {
                return Err(format!("it is written as {wire:?}, and the descriptor set says that it is a map"));
            }
            entry(delimited(rest)?, key, value, entries, found, depth)
        }
    }
}

/// Reads one entry of a map: a message whose field 1 is the key and whose field 2 is the value.
fn entry(
    bytes: &[u8],
    key: &Kind,
    value: &Kind,
    entries: &[(String, ElementPlan)],
    found: &mut Found,
    depth: usize,
) -> Result<(), String> {
    let mut name = default_of(key);
    let mut held = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|error| error.to_string())?;
        match number {
            1 => name = Some(scalar(&mut rest, wire, key)?),
            2 => {
                held = Some((rest, wire));
                skip_field(wire, number, &mut rest, DecodeContext::default()).map_err(|error| error.to_string())?;
            }
            _ => skip_field(wire, number, &mut rest, DecodeContext::default()).map_err(|error| error.to_string())?,
        }
    }
    let name = name.as_ref().and_then(Value::bytes);
    let Some((_, plan)) = entries.iter().find(|(wanted, _)| name.as_deref() == Some(wanted.as_bytes())) else {
        return Ok(());
    };
    match (held, plan.slot, default_of(value)) {
        (Some((mut rest, wire)), ..) => element(&mut rest, wire, value, Some(plan), found, depth),
        (None, Some(slot), Some(default)) => {
            found.put(slot, default);
            Ok(())
        }
        (None, ..) => Ok(()),
    }
}

/// Reads one value and keeps what the plan needs of it.
fn element(
    rest: &mut &[u8],
    wire: WireType,
    kind: &Kind,
    plan: Option<&ElementPlan>,
    found: &mut Found,
    depth: usize,
) -> Result<(), String> {
    let Kind::Message(of) = kind else {
        let value = scalar(rest, wire, kind)?;
        if let Some(slot) = plan.and_then(|plan| plan.slot) {
            found.put(slot, value);
        }
        return Ok(());
    };
    if wire == WireType::StartGroup {
        // Groups are deprecated, and no path can lead into one: they are skipped.
        return skip_field(wire, 0, rest, DecodeContext::default()).map_err(|error| error.to_string());
    }
    if wire != WireType::LengthDelimited {
        return Err(format!(
            "it is written as {wire:?}, and the descriptor set says that it is a message {}",
            of.name()
        ));
    }
    let bytes = delimited(rest)?;
    let Some(plan) = plan else { return Ok(()) };
    if let Some(slot) = plan.slot {
        let stamp = match plan.stamp {
            Some(numbers) => stamp(bytes, numbers)?,
            None => None,
        };
        found.put(slot, stamp.map_or(Value::Other("a message"), Value::Stamp));
    }
    plan.message.as_ref().map_or(Ok(()), |plan| message(bytes, plan, found, depth + 1))
}

/// Reads a time from a message with these two field numbers; a field that isn't written is 0.
fn stamp(bytes: &[u8], (seconds, nanoseconds): (u32, u32)) -> Result<Option<Stamp>, String> {
    let mut stamp = Stamp { sec: 0, nanosec: 0 };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|error| error.to_string())?;
        let value = match wire {
            WireType::Varint => decode_varint(&mut rest).map_err(|error| error.to_string())? as i64,
            WireType::ThirtyTwoBit => i64::from(u32::from_le_bytes(fixed(&mut rest)?)),
            WireType::SixtyFourBit => i64::from_le_bytes(fixed(&mut rest)?),
            _ if number == seconds || number == nanoseconds => return Ok(None),
            _ => {
                skip_field(wire, number, &mut rest, DecodeContext::default()).map_err(|error| error.to_string())?;
                continue;
            }
        };
        if number == seconds {
            stamp.sec = value;
        } else if number == nanoseconds {
            stamp.nanosec = value;
        }
    }
    Ok(Some(stamp))
}

fn scalar(rest: &mut &[u8], wire: WireType, kind: &Kind) -> Result<Value, String> {
    if wire != wire_of(kind) {
        return Err(format!("it is written as {wire:?}, and the descriptor set says that it is {kind:?}"));
    }
    let varint = |rest: &mut &[u8]| decode_varint(rest).map_err(|error| error.to_string());
    let zigzag = |number: u64| (number >> 1) as i64 ^ -((number & 1) as i64);
    let number = |text: String| Value::Number(text);
    Ok(match kind {
        Kind::Double => Value::of_float(f64::from_le_bytes(fixed(rest)?)),
        Kind::Float => Value::of_float(f32::from_le_bytes(fixed(rest)?)),
        Kind::Int32 => number((varint(rest)? as i32).to_string()),
        Kind::Int64 => number((varint(rest)? as i64).to_string()),
        Kind::Uint32 => number((varint(rest)? as u32).to_string()),
        Kind::Uint64 => number(varint(rest)?.to_string()),
        Kind::Sint32 | Kind::Sint64 => number(zigzag(varint(rest)?).to_string()),
        Kind::Fixed32 => number(u32::from_le_bytes(fixed(rest)?).to_string()),
        Kind::Fixed64 => number(u64::from_le_bytes(fixed(rest)?).to_string()),
        Kind::Sfixed32 => number(i32::from_le_bytes(fixed(rest)?).to_string()),
        Kind::Sfixed64 => number(i64::from_le_bytes(fixed(rest)?).to_string()),
        Kind::Bool => Value::Boolean(varint(rest)? != 0),
        Kind::String => Value::of_text(delimited(rest)?),
        Kind::Bytes => Value::Bytes(delimited(rest)?.into()),
        Kind::Enum(symbols) => {
            let symbol = varint(rest)? as i32;
            let name = symbols.get_value(symbol).map(|known| Value::Text(known.name().into()));
            name.unwrap_or_else(|| number(symbol.to_string()))
        }
        Kind::Message(_) => Value::Other("a message"),
    })
}

fn wire_of(kind: &Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

fn delimited<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let length = decode_varint(rest).map_err(|error| error.to_string())?;
    let length = usize::try_from(length).map_err(|_| "it ends too early")?;
    let (taken, after) = rest.split_at_checked(length).ok_or("it ends too early")?;
    *rest = after;
    Ok(taken)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or("it ends too early")?;
    *rest = after;
    Ok(*taken)
}
