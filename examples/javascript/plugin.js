// A plugin with three transforms, of which the configuration chooses one.

import { payload } from "reduct-sink:transform/host@0.1.0";

let decide;

const transforms = {
  // Drops the records that have this header with this value.
  drop({ header, value }) {
    const bytes = encode(value);
    return (message) => {
      const found = message.headers.some((h) => h.key === header && h.value && equal(h.value, bytes));
      return { tag: found ? "drop" : "keep" };
    };
  },

  // Turns fields of a JSON payload into the entry and labels.
  label() {
    return () => {
      const { camera, line, ok } = Object(parse(payload(), "the payload"));
      const labels = [];
      if (typeof camera !== "string") reject('the payload has no text "camera"');
      if (Number.isSafeInteger(line)) labels.push({ name: "line", value: String(line) });
      else if (line != null) reject('"line" isn\'t a whole number');
      if (typeof ok === "boolean") labels.push({ name: "ok", value: String(ok) });
      else if (ok != null) reject('"ok" isn\'t true or false');
      return { tag: "change", val: { entry: `cameras/${camera}`, labels, contentType: "application/json" } };
    };
  },

  // Makes a record of each line of JSON in the payload.
  split() {
    return () => {
      const parts = [];
      lines(payload()).forEach((line, index) => {
        if (line.length === 0) return;
        parse(line, `line ${index + 1} of the payload`);
        parts.push({ labels: [{ name: "part", value: String(parts.length) }], payload: line });
      });
      return parts.length ? { tag: "split", val: parts } : { tag: "drop" };
    };
  },
};

export const transformer = {
  // Called once, before the first record. The operator sees what it throws as the error.
  configure(text) {
    const config = JSON.parse(text);
    if (!Object.hasOwn(transforms, config.transform ?? ""))
      throw `transform: ${config.transform}; it can be drop, label or split`;
    decide = transforms[config.transform](config);
  },

  // Decides about one record.
  transform: (message) => decide(message),
};

// Rejects the record, which then goes to the dead letters.
function reject(reason) {
  throw { tag: "reject", val: reason };
}

function parse(bytes, what) {
  try {
    return JSON.parse(decode(bytes));
  } catch (error) {
    reject(`${what} isn't JSON: ${error}`);
  }
}

function lines(bytes) {
  const lines = [];
  let start = 0;
  for (let end; (end = bytes.indexOf(10, start)) >= 0; start = end + 1) lines.push(bytes.slice(start, end));
  lines.push(bytes.slice(start));
  return lines;
}

function equal(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

// Makes text of UTF-8 bytes, and throws if they aren't UTF-8. QuickJS has no TextDecoder, and no TextEncoder for the
// way back.
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
