// Replaces the host's module in tests without WebAssembly. Its functions return what globalThis.record holds, which a
// test may set.
import { register } from "node:module";

globalThis.record = { payload: new Uint8Array(0), entry: "topic", labels: [], contentType: "" };

const host = `
  export const log = () => {};
  export const payload = () => record.payload;
  export const read = (offset, length) => record.payload.slice(offset, offset + length);
  export const entry = () => record.entry;
  export const labels = () => record.labels;
  export const contentType = () => record.contentType;
`;
const url = (text) => `data:text/javascript,${encodeURIComponent(text)}`;
register(
  url(`export const resolve = (name, context, next) =>
    name.startsWith("reduct-sink:") ? { url: ${JSON.stringify(url(host))}, shortCircuit: true } : next(name, context);`),
);
