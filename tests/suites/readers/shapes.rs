//! Records with every kind of header, key and payload, and random ones.

use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::{Message, payload};

use super::{FIRST_MS, producers};

/// Every kind of header, key and payload: at least eighty.
pub fn shapes() -> Vec<Message> {
    let all: Vec<u8> = (0..=255).collect();
    let text = |key: &str, value: &str| Message::new("text").header(key.to_owned(), value.to_owned());
    let mut shapes = vec![
        Message::new("no headers"),
        Message::new("plain").header("load", "50 %").header("size", "5").header("type", "binary"),
        Message::new("unsorted").header("type", "binary").header("size", "5"),
        Message::new("repeated").header("tag", "floor-1").header("tag", "robot-arm"),
        Message::new("repeated, apart").header("a", "1").header("b", "x").header("a", "2").header("a", "1"),
        Message::new("repeated, null last").header("a", "1").null_header("a"),
        Message::new("null").null_header("null"),
        Message::new("empty").header("empty", ""),
        Message::new("empty key").header("", "3"),
        Message::new("empty key and value").header("", ""),
        Message::new("empty key, null").null_header(""),
        Message::new("empty keys").header("", "1").header("", "2"),
        Message::new("camelCase").header("deviceId", "a"),
        Message::new("two cases").header("deviceId", "a").header("deviceid", "b").header("DEVICEID", "c"),
        Message::new("forged").header("kafka.source", "evil/0").header("kafka.offset", "7"),
        Message::new("forged case").header("Kafka.Offset", "7").header("KAFKA.SOURCE", "evil/0"),
        Message::new("forged own").header("sink.plugins", "me").header("sink.reason", "x").header("kafka.key", "k"),
        Message::new("forged exact").header("kafka.headers", "a=1&b!").header("kafka.index", "3"),
        Message::new("forged by value").header("a", "1,kafka.offset=7").header("b", "x,y=z"),
        Message::new("forged by encoding").header("%6bafka.offset", "7").header("kafka%2eoffset", "8"),
        // The Kelvin sign and the long s become `k` and `s` where somebody lowers them by Unicode's rules.
        Message::new("forged by case").header("\u{212a}afka.offset", "7").header("\u{17f}ink.plugins", "me"),
        Message::new("bare prefixes")
            .header("kafka.", "1")
            .header("sink.", "2")
            .header("kafka", "3")
            .header("sink", "4"),
        Message::new("doubled prefixes").header("kafka.kafka.offset", "7").header("kafka..offset", "8"),
        Message::new("dots and dashes").header(".", "1").header("..", "2").header("-", "3").header("-x", "4"),
        Message::new("inherited names").header("toString", "1").header("hasOwnProperty", "2").header("prototype", "3"),
        Message::new("values like others").header("a", "true").header("b", "1e5").header("c", "NaN").header("d", "3d"),
        Message::new("two content types").header("content-type", "text/a").header("Content-Type", "text/b"),
        Message::new("at").header("@x", "1"),
        Message::new("proto").header("__proto__", "1").header("constructor", "2"),
        Message::new("numbers as names").header("0", "zero").header("1", "one").header("17", "seventeen"),
        Message::new("names like an answer's").header("x-reduct-labels", "1").header("x-reduct-entries", "2"),
        Message::new("content type").header("Content-Type", "image/jpeg"),
        Message::new("content type with quotes").header("content-type", "text/plain; charset=\"utf-8\""),
        Message::new("illegal content type").header("content-type", "a,b"),
        Message::new("looks encoded").header("v", "%41").header("w", "%null").header("a%n2", "y"),
        Message::new("broken encoding").header("k%n2", "y").header("%", "1").header("%4", "2"),
        Message::new("json").header("json", r#"{"a": "b, c"}"#),
        Message::new("bytes in keys").header(vec![0xff, 0xfe], "1").header(vec![0xc3], "2"),
        Message::new("binary value").header("trace", vec![0, 1, 2, 0xff]),
        Message::new("every byte in a value").header("all", (0..=255).collect::<Vec<u8>>()),
        Message::new("every byte in a key").header(all, "1"),
        Message::new("long value").header("long", "x".repeat(5_000)),
        Message::new("long key").header("n".repeat(3_000), "x"),
        Message::new("long capitals").header("N".repeat(1_000), "x"),
        (0..70).fold(Message::new("many"), |message, n| message.header(format!("h{n:02}"), "value")),
        (0..30).fold(Message::new("many capitals"), |message, n| message.header(format!("H{n}"), "value")),
        Message::new("no key").header("a", "1"),
        Message::new("empty record key").key(""),
        Message::new("binary record key").key(vec![0, 0xff, b'"', b',']),
        Message::new("spaces in the record key").key(" k "),
        Message::new("text record key").key("camera 7, left"),
        Message::tombstone("gone").header("why", "deleted"),
        Message { headers: vec![], ..Message::default() },
        Message::new(""),
        Message::new("").header("Empty", "x"),
        Message::new(payload(9, 16 << 20)).header("kind", "16 MiB"),
        Message::new(payload(8, 524_288)).header("Kind", "half a MiB"),
    ];
    for (key, value) in [
        ("comma", "a,b"),
        ("equals", "a=b"),
        ("both", "a=b,c=d"),
        ("quote", "a\"b"),
        ("quotes", "\"a,b\""),
        ("apostrophe", "it's"),
        ("space", "a b"),
        ("spaces", "  a  "),
        ("only spaces", "   "),
        ("tab", "a\tb"),
        ("lines", "a\r\nb"),
        ("nul", "a\0b"),
        ("del", "\u{7f}"),
        ("city", "Zürich"),
        ("emoji", "🦀"),
        ("percent", "100%"),
        ("ampersand", "a&b"),
        ("star", "a*"),
        ("bang", "a!"),
        ("backslash", "a\\b"),
        ("ä", "2"),
        ("日本", "x"),
        ("a b", "1"),
        ("a=b", "1"),
        ("a,b", "1"),
        ("a\"b", "1"),
        ("a\r\nb", "1"),
        ("a/b:c", "1"),
        ("a&b", "1"),
        ("a*", "1"),
        ("a!", "1"),
        ("trace-id", "00-4bf92f-00"),
        ("x.y_z-1", "v"),
    ] {
        shapes.push(text(key, value));
    }
    shapes.extend(producers::as_others_produce());
    shapes
}

/// The shapes with plain neighbours between and around them, a millisecond apart; the shapes have odd numbers.
pub fn records(shapes: &[Message]) -> Vec<Message> {
    let neighbour =
        |n: usize| Message::new(format!("neighbour {n}")).key(format!("key {n}")).header("n", n.to_string());
    let both = shapes.iter().enumerate().flat_map(|(n, shape)| [neighbour(n), shape.clone()]);
    let all = both.chain([neighbour(shapes.len())]).zip(FIRST_MS..);
    all.map(|(message, at)| message.timestamp_ms(at)).collect()
}

/// A record with up to six headers of odd bytes.
pub fn random(dice: &mut Dice) -> Message {
    const PIECES: [&[u8]; 22] = [
        b"%",
        b"%41",
        b"%n2",
        b"&",
        b"*",
        b"!",
        b"@",
        b"=",
        b",",
        b"\"",
        b" ",
        b"\r\n",
        b"a",
        b"A",
        b"7",
        b"\xff",
        b"_",
        b".",
        "ä".as_bytes(),
        b"kafka.",
        b"Sink.",
        b"kafka.offset",
    ];
    let mut bytes = |most: u64| -> Vec<u8> {
        let count = dice.below(most + 1);
        (0..count).flat_map(|_| PIECES[dice.below(PIECES.len() as u64) as usize].to_vec()).collect()
    };
    let mut message = Message::new("x");
    for _ in 0..bytes(6).len() % 7 {
        let (key, value) = (bytes(3), bytes(4));
        message = if value.len() % 5 == 4 { message.null_header(key) } else { message.header(key, value) };
    }
    let key = bytes(3);
    if key.len() % 3 == 0 { message } else { message.key(key) }
}
