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
    // 64-bit numbers: Number() makes one of whatever the engine hands over; exact up to 2^53.
    const sizeClass = Number(message.payloadSize) >= settings.large_bytes ? "large" : "small";
    // What isn't named stays as it is.
    return { tag: "change", val: { labels: [{ name: "size_class", value: sizeClass }] } };
  },
};

// The bytes of the first header of that key; undefined where there is none, or its value is null.
function header(message: Message, key: string): Uint8Array | undefined {
  return message.headers.find((header) => header.key === key)?.value ?? undefined;
}

// Headers are bytes, and QuickJS has no TextDecoder. Undefined where they aren't UTF-8.
function text(bytes: Uint8Array | undefined): string | undefined {
  try {
    return bytes && decodeURIComponent(escape(String.fromCharCode(...bytes)));
  } catch {
    return undefined;
  }
}
