"""Reads records by reduct-py as a plan asks, and prints one line of JSON for each record that a question returned.

A plan is a JSON file: the store's url and bucket, an entry, and a list of questions, each with an id and one of
range [start, stop], when (a condition over the whole entry), single (a timestamp) or wildcard (a pattern of entries).
"""

import asyncio
import hashlib
import json
import sys

from reduct import Client


async def answer(bucket, entry, question):
    found = []
    if "single" in question:
        async with bucket.read(entry, timestamp=question["single"]) as record:
            found.append(await told(record))
        return found
    entry = question.get("wildcard", entry)
    options = {}
    if "range" in question:
        options["start"], options["stop"] = question["range"]
    if "when" in question:
        options["when"] = question["when"]
    async for record in bucket.query(entry, **options):
        found.append(await told(record))
    return found


async def told(record):
    payload = await record.read_all()
    return {"entry": record.entry, "time": record.timestamp, "labels": record.labels, "type": record.content_type,
            "size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


async def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    async with Client(plan["url"]) as client:
        bucket = await client.get_bucket(plan["bucket"])
        turns = asyncio.Semaphore(8)

        async def ask(question):
            async with turns:
                found = await answer(bucket, plan["entry"], question)
            print(json.dumps({"id": question["id"], "records": found}))

        await asyncio.gather(*(ask(question) for question in plan["questions"]))


asyncio.run(main())
