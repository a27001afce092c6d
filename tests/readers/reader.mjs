// Reads records by reduct-js as a plan asks: see reader.py.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Client } from "reduct-js";

const plan = JSON.parse(readFileSync(process.argv[2], "utf-8"));
const client = new Client(plan.url);
const bucket = await client.getBucket(plan.bucket);

async function told(record) {
  const payload = await record.read();
  return {
    entry: record.entry,
    time: Number(record.time),
    labels: record.labels,
    type: record.contentType,
    size: payload.length,
    sha256: createHash("sha256").update(payload).digest("hex"),
  };
}

async function answer(question) {
  if ("single" in question) {
    return [await told(await bucket.beginRead(plan.entry, BigInt(question.single)))];
  }
  const [start, stop] = "range" in question ? question.range.map(BigInt) : [undefined, undefined];
  const options = "when" in question ? { when: question.when } : undefined;
  const found = [];
  for await (const record of bucket.query(question.wildcard ?? plan.entry, start, stop, options)) {
    found.push(await told(record));
  }
  return found;
}

const questions = [...plan.questions];
async function work() {
  for (let question = questions.shift(); question; question = questions.shift()) {
    console.log(JSON.stringify({ id: question.id, records: await answer(question) }));
  }
}
await Promise.all(Array.from({ length: 8 }, work));
