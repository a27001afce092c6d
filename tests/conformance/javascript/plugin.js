// The conformance guest in JavaScript; ../README.md says what it does.
import * as host from "reduct-sink:transform/host@0.1.0";
let prefix = "";
let calls = 0;
const nothing = new Uint8Array(0);
const untouched = new Set(["keep", "log"]);
const commands = {
    keep() { },
    part() { },
    parts() { },
    change() { },
    drop() { },
    entry(change, text) { change.entry = text(); },
    timestamp(change, text) { change.timestamp = Number(text()); },
    "content-type"(change, text) { change.contentType = text(); },
    payload(change, _, value) { change.payload = value; },
    fill(change, text) { change.payload = new Uint8Array(Number(text())).fill(120); },
    label(change, text) {
        const at = text().indexOf("=");
        change.labels.push({ name: text().slice(0, at), value: text().slice(at + 1) });
    },
    unlabel(change, text) { change.labels.push({ name: text() }); },
    labels(change, text) {
        for (let n = 0; n < Number(text()); n++)
            change.labels.push({ name: `l${n}`, value: "v" });
    },
    reject(_, text) { throw { tag: "reject", val: text() }; },
    retry(_, text) { throw { tag: "retry", val: text() }; },
    trap() { throw new Error("trapped as told"); },
    loop() { for (;;)
        ; },
    grow() {
        const hoard = [];
        for (;;)
            hoard.push(new Uint8Array(1 << 20));
    },
    log(_, text) { host.log("info", text()); },
    tell(change, text, _, message) { append(change, tell(text(), message)); },
    read(change, text) {
        const [offset, length] = text().split(" ").map(Number);
        append(change, host.read(offset, length));
    },
};
const known = new Map(Object.entries(commands));
export const transformer = {
    configure(config) {
        const options = JSON.parse(config);
        if (options.trap)
            throw new Error("trapped as told");
        if (options.refuse !== undefined)
            throw options.refuse;
        prefix = options.prefix ?? "";
    },
    transform(message) {
        calls++;
        let changes = [{ labels: [] }];
        let split = false, touched = false, dropped = false;
        for (const { key, value: given } of message.headers) {
            // Null, not undefined, is what QuickJS has for none.
            const value = given ?? nothing;
            if (!key.startsWith(prefix))
                continue;
            const command = key.slice(prefix.length);
            if (command === "part" || command === "parts") {
                if (!split)
                    changes = [];
                split = true;
                const count = command === "part" ? 1 : Number(decode(value));
                for (let n = 0; n < count; n++)
                    changes.push({ labels: [] });
            }
            touched ||= !untouched.has(command);
            dropped ||= command === "drop";
            const change = changes.at(-1) ?? { labels: [] };
            const run = known.get(command);
            if (run)
                run(change, () => decode(value), value, message);
            else
                change.labels.push({ name: command, value: decode(value) });
        }
        if (dropped)
            return { tag: "drop" };
        if (split)
            return { tag: "split", val: changes };
        return touched ? { tag: "change", val: changes[0] } : { tag: "keep" };
    },
};
function tell(what, message) {
    switch (what) {
        case "topic": return encode(message.topic);
        case "partition": return encode(String(message.partition));
        case "offset": return encode(String(message.offset));
        case "timestamp": return encode(String(message.timestamp));
        case "payload-size": return encode(String(message.payloadSize));
        case "payload": return host.payload();
        case "entry": return encode(host.entry());
        case "content-type": return encode(host.contentType());
        case "count": return encode(String(calls));
        case "key": return message.key == null ? encode("none") : concat([encode("some:"), message.key]);
        case "headers":
            return concat(message.headers.flatMap(({ key, value }) => [encode(key), ...(value == null ? [] : [encode("="), value]), encode("\n")]));
        case "labels": return encode(host.labels().map(({ name, value }) => `${name}=${value}\n`).join(""));
        default: throw new Error(`there is no ${what} to tell`);
    }
}
function append(change, bytes) {
    change.payload = concat([change.payload ?? nothing, bytes]);
}
function concat(pieces) {
    const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
        whole.set(piece, at);
        at += piece.length;
    }
    return whole;
}
// QuickJS has no TextEncoder and no TextDecoder. This throws where the bytes aren't UTF-8.
function decode(bytes) {
    let text = "";
    for (let at = 0; at < bytes.length; at += 4096) {
        const piece = bytes.length <= 4096 ? bytes : bytes.subarray(at, at + 4096);
        text += String.fromCharCode.apply(null, piece);
    }
    return /[\x80-\xff]/.test(text) ? decodeURIComponent(escape(text)) : text;
}
function encode(text) {
    return Uint8Array.from(unescape(encodeURIComponent(text)), (c) => c.charCodeAt(0));
}
