// Drops records of one type, and labels the others by their size.

import { log } from "reduct-sink:transform/host@0.1.0";

const defaults = { drop: "heartbeat", large_bytes: 1000 };
let settings = defaults;

export const transformer = {
  configure(config) {
    const given = JSON.parse(config);
    for (const [key, value] of Object.entries(given)) {
      if (!(key in defaults)) {
        throw `${key}: unknown key, expected one of ${Object.keys(defaults).join(", ")}`;
      }
      if (typeof value !== typeof defaults[key]) {
        throw `${key}: found ${JSON.stringify(value)}, expected something like ${JSON.stringify(defaults[key])}`;
      }
    }
    settings = { ...defaults, ...given };
    log("debug", `dropping records of type ${settings.drop}`);
  },

  transform(message) {
    if (text(header(message, "type")) === settings.drop) {
      return { tag: "drop" };
    }
    // The engine may pass a 64-bit number as a BigInt; Number() converts it, exactly up to 2^53.
    const sizeClass = Number(message.payloadSize) >= settings.large_bytes ? "large" : "small";
    // Fields that aren't named leave the record as it is.
    return { tag: "change", val: { labels: [{ name: "size_class", value: sizeClass }] } };
  },
};

// The bytes of the first header with that key; undefined if there is no such header, or its value is null.
function header(message, key) {
  return message.headers.find((header) => header.key === key)?.value ?? undefined;
}

// The text of these bytes; undefined if they aren't UTF-8. QuickJS has no TextDecoder.
function text(bytes) {
  try {
    return bytes && decodeURIComponent(escape(String.fromCharCode(...bytes)));
  } catch {
    return undefined;
  }
}
