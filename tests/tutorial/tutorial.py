"""What the reader of the tutorial does, with the tutorial's own clients.

produce: creates a topic of 4 partitions and sends random blobs of 1 to 900 KB with the headers `size` and `type`; a
line of JSON for each acknowledged one goes to the manifest.
verify: reads all of it back from ReductStore and compares it with the manifest.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from reduct import Client

PARTITIONS = 4


def produce(args):
    admin = AdminClient({"bootstrap.servers": args.brokers})
    for future in admin.create_topics([NewTopic(args.topic, PARTITIONS, 1)]).values():
        future.result(timeout=30)

    producer = Producer({"bootstrap.servers": args.brokers})
    failures = []
    with open(args.manifest, "w", encoding="utf-8") as manifest:

        def delivered(payload, kind):
            digest = hashlib.sha256(payload).hexdigest()

            def note(error, message):
                if error is not None:
                    failures.append(str(error))
                    return
                line = {"partition": message.partition(), "offset": message.offset(), "sha256": digest,
                        "size": len(payload), "type": kind}
                manifest.write(json.dumps(line) + "\n")

            return note

        for number in range(args.count):
            payload = os.urandom(random.randint(1_000, 900_000))
            kind = "binary" if number % 4 else "snapshot"
            # A dictionary in the tutorial; here with a key in camelCase and one that repeats, too.
            headers = [("size", str(len(payload))), ("type", kind), ("deviceId", "camera 7"),
                       ("tag", "first"), ("tag", "last")]
            # Round-robin, as the tutorial has it.
            producer.produce(args.topic, payload, headers=headers, partition=number % PARTITIONS,
                             callback=delivered(payload, kind))
            producer.poll(0)
            while len(producer) > 100:
                producer.poll(0.1)
        producer.flush(60)
    if failures or len(producer):
        sys.exit(f"{len(failures)} records failed ({failures[:3]}), {len(producer)} were never acknowledged")
    print(f"produced {args.count}")


async def verify(args):
    with open(args.manifest, encoding="utf-8") as lines:
        sent = [json.loads(line) for line in lines]
    async with Client(args.url) as client:
        bucket = await client.get_bucket(args.bucket)
        # The store lists the topic's own name too, as an entry above those of the partitions, without records.
        entries = sorted(entry.name for entry in await bucket.get_entry_list() if entry.record_count)
        expect("entries", entries, [f"{args.topic}/{partition}" for partition in range(PARTITIONS)])

        # An entry at a time: where the records of several entries interleave, reduct-py 1.21.0 gives a record the
        # payload of another (it takes the bodies in the order of time, the server sends them in that of entries).
        found = []
        for entry in entries:
            async for record in bucket.query(entry):
                payload = await record.read_all()
                found.append((entry, record.timestamp, record.labels, hashlib.sha256(payload).hexdigest()))
        expect("records", len(found), len(sent))

        identities = {(labels["kafka.source"].split("@")[0], int(labels["kafka.offset"])): (entry, labels, digest)
                      for entry, _, labels, digest in found}
        expect("records that differ in their identity", len(identities), len(sent))
        for line in sent:
            source = f"{args.topic}/{line['partition']}"
            entry, labels, digest = identities[(source, line["offset"])]
            expect("entry", entry, source)
            expect("bytes", digest, line["sha256"])
            expect("label size", labels["size"], str(line["size"]))
            expect("label type", labels["type"], line["type"])
            # As they would be in the tutorial: in lower case, and the last of those that repeat.
            expect("label deviceid", labels["deviceid"], "camera 7")
            expect("label tag", labels["tag"], "last")

        # By time: the middle third of the records of one entry.
        entry = entries[0]
        times = sorted(time for name, time, _, _ in found if name == entry)
        start, stop = times[len(times) // 3], times[2 * len(times) // 3]
        by_time = [record.timestamp async for record in bucket.query(entry, start=start, stop=stop)]
        expect("records by time", by_time, [time for time in times if start <= time < stop])

        # By label over all entries, without payloads: one value, and one comparison of numbers.
        pattern = [f"{args.topic}/*"]
        snapshots = [record.labels["type"] async for record in
                     bucket.query(pattern, when={"&type": {"$eq": "snapshot"}}, head=True)]
        expect("records by type", len(snapshots), sum(line["type"] == "snapshot" for line in sent))
        devices = [record.labels["deviceid"] async for record in
                   bucket.query(pattern, when={"&deviceid": {"$eq": "camera 7"}}, head=True)]
        expect("records by device", len(devices), len(sent))
        large = [int(record.labels["size"]) async for record in
                 bucket.query(pattern, when={"&size": {"$gt": 450_000}}, head=True)]
        expect("records by size", sorted(large), sorted(line["size"] for line in sent if line["size"] > 450_000))
    print(f"verified {len(sent)}")


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: found {found}, wanted {wanted}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["produce", "verify"])
    parser.add_argument("--brokers")
    parser.add_argument("--url")
    parser.add_argument("--bucket")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    if args.command == "produce":
        produce(args)
    else:
        asyncio.run(verify(args))


if __name__ == "__main__":
    main()
