"""Tests without WebAssembly: python3 -m unittest"""

import json
import unittest

import contract
from contract import Header, Message

import app


def decide(message: Message, **settings):
    transformer = app.Transformer()
    transformer.configure(json.dumps(settings))
    contract.record.payload = b"x" * message.payload_size
    return transformer.transform(message)


class Test(unittest.TestCase):
    def test_heartbeats_are_dropped(self):
        verdict = decide(Message(headers=[Header("type", b"heartbeat")]))
        self.assertIsInstance(verdict, contract.types.Verdict_Drop)

    def test_sizes_become_labels(self):
        for size, expected in ((4, "small"), (5, "large")):
            verdict = decide(Message(payload_size=size), large_bytes=5)
            [label] = verdict.value.labels
            self.assertEqual((label.name, label.value), ("size_class", expected))

    def test_an_unknown_key_is_refused(self):
        with self.assertRaises(contract.Err) as refused:
            decide(Message(), large=5)
        self.assertIn("large_bytes", refused.exception.value)
