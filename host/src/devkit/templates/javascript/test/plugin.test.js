// Tests without WebAssembly: npm test
import assert from "node:assert/strict";
import test from "node:test";

import { transformer } from "{{script}}";

const bytes = (text) => new TextEncoder().encode(text);

function decide(message, settings = {}) {
  transformer.configure(JSON.stringify(settings));
  return transformer.transform({ topic: "topic", partition: 0, offset: 0, headers: [], payloadSize: 0, ...message });
}

test("heartbeats are dropped", () => {
  assert.deepEqual(decide({ headers: [{ key: "type", value: bytes("heartbeat") }] }), { tag: "drop" });
});

test("sizes become labels", () => {
  for (const [payloadSize, value] of [[4, "small"], [5, "large"]]) {
    const verdict = decide({ payloadSize }, { large_bytes: 5 });
    assert.deepEqual(verdict.val.labels, [{ name: "size_class", value }]);
  }
});

test("an unknown key is refused", () => {
  assert.throws(() => decide({}, { large: 5 }), (refused) => String(refused).includes("large_bytes"));
});
