// Drops records of one type, and labels the others by their size.

import { log } from "reduct-sink:transform/host@0.1.0";
import type { Message, Verdict } from "reduct-sink:transform/types@0.1.0";

const defaults = { drop: "heartbeat", large_bytes: 1000 };
type Settings = typeof defaults;
let settings: Settings = defaults;

export const transformer = {
  configure(config: string): void {
    const given: Record<string, unknown> = JSON.parse(config);
    for (const [key, value] of Object.entries(given)) {
      if (!(key in defaults)) {
        throw `${key}: unknown key, expected one of ${Object.keys(defaults).join(", ")}`;
      }
      const example = defaults[key as keyof Settings];
      if (typeof value !== typeof example) {
        throw `${key}: found ${JSON.stringify(value)}, expected something like ${JSON.stringify(example)}`;
      }
    }
    settings = { ...defaults, ...(given as Partial<Settings>) };
    log("debug", `dropping records of type ${settings.drop}`);
  },

  transform(message: Message): Verdict {
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
function header(message: Message, key: string): Uint8Array | undefined {
  return message.headers.find((header) => header.key === key)?.value ?? undefined;
}

// The text of these bytes; undefined if they aren't UTF-8. QuickJS has no TextDecoder.
function text(bytes: Uint8Array | undefined): string | undefined {
  try {
    return bytes && decodeURIComponent(escape(String.fromCharCode(...bytes)));
  } catch {
    return undefined;
  }
}
