"""What the tutorial "How to Use ReductStore as a Data Sink for Kafka" leads its reader to, in our own words: the
benchmark's peer (e). One record is one write request; the entry is the topic, the time is now, the headers are the
labels; offsets are committed automatically. Runs until it is ended.

    tutorial_consumer.py BROKERS TOPIC GROUP URL BUCKET
"""

import asyncio
import sys

from confluent_kafka import Consumer, KafkaError
from reduct import Client


async def sink(brokers: str, topic: str, group: str, url: str, bucket_name: str) -> None:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, "auto.offset.reset": "earliest"})
    async with Client(url) as client:
        bucket = await client.create_bucket(bucket_name, exist_ok=True)
        consumer.subscribe([topic])
        try:
            while True:
                message = consumer.poll(0)
                if message is None:
                    await asyncio.sleep(1)
                    continue
                if message.error():
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        continue
                    print(message.error())
                    break
                payload = message.value()
                labels = {key: value.decode("utf-8") for key, value in message.headers() or []}
                await bucket.write(topic, payload, labels=labels)
                print(f"{len(payload)} bytes, {labels}")
        finally:
            consumer.close()


if __name__ == "__main__":
    asyncio.run(sink(*sys.argv[1:]))
