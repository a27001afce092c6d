"""Drops records of one type, and labels the others by their size."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import host
from wit_world.imports.types import Change, LabelChange, Message, Verdict, Verdict_Change, Verdict_Drop

DEFAULTS = {"drop": "heartbeat", "large_bytes": 1000}

# What `configure` read. It is kept here, because each call gets a new Transformer.
settings = DEFAULTS


class Transformer(exports.Transformer):
    def configure(self, config: str) -> None:
        global settings
        given = json.loads(config)
        for key, value in given.items():
            if key not in DEFAULTS:
                raise Err(f"{key}: unknown key, expected one of {', '.join(DEFAULTS)}")
            if type(value) is not type(DEFAULTS[key]):
                raise Err(f"{key}: found {value!r}, expected something like {DEFAULTS[key]!r}")
        settings = DEFAULTS | given
        host.log(host.Level.DEBUG, f"dropping records of type {settings['drop']!r}")

    def transform(self, message: Message) -> Verdict:
        kind = next((header.value for header in message.headers if header.key == "type"), None)
        if kind == settings["drop"].encode():
            return Verdict_Drop()
        size_class = "large" if message.payload_size >= settings["large_bytes"] else "small"
        # Entry, time, labels, content type, payload; None leaves a field as it is.
        return Verdict_Change(Change(None, None, [LabelChange("size_class", size_class)], None, None))
