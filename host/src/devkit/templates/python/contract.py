"""The contract's modules, as far as tests without WebAssembly need them.

The functions of `host` return what `record` holds; a test may set it.
"""

import sys
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any, Union


def module(name: str, **contents: Any) -> ModuleType:
    made = sys.modules[name] = ModuleType(name)
    made.__dict__.update(contents)
    return made


class Err(Exception):
    def __init__(self, value: Any = None) -> None:
        super().__init__(value)
        self.value = value


class Level(Enum):
    ERROR, WARN, INFO, DEBUG = range(4)


@dataclass
class Header:
    key: str
    value: bytes | None = None


@dataclass
class Message:
    topic: str = "topic"
    partition: int = 0
    offset: int = 0
    timestamp: int = 1_700_000_000_000_000
    key: bytes | None = None
    headers: list[Header] = field(default_factory=list)
    payload_size: int = 0


def with_value(name: str) -> type:
    return make_dataclass(name, ["value"])


types = module(
    "wit_world.imports.types",
    Header=Header,
    Message=Message,
    LabelChange=make_dataclass("LabelChange", ["name", "value"]),
    Change=make_dataclass("Change", ["entry", "timestamp", "labels", "content_type", "payload"]),
    Verdict_Keep=make_dataclass("Verdict_Keep", []),
    Verdict_Drop=make_dataclass("Verdict_Drop", []),
    Verdict_Change=with_value("Verdict_Change"),
    Verdict_Split=with_value("Verdict_Split"),
    Failure_Reject=with_value("Failure_Reject"),
    Failure_Retry=with_value("Failure_Retry"),
    Verdict=Any,
    Failure=Any,
)
record = SimpleNamespace(payload=b"", entry="topic", labels=[], content_type="")
host = module(
    "wit_world.imports.host",
    Level=Level,
    log=lambda level, text: None,
    payload=lambda: record.payload,
    read=lambda offset, length: record.payload[offset : offset + length],
    entry=lambda: record.entry,
    labels=lambda: record.labels,
    content_type=lambda: record.content_type,
)
module("componentize_py_types", Err=Err, Result=Union)
exports = module("wit_world.exports", Transformer=object)
imports = module("wit_world.imports", host=host, types=types)
module("wit_world", exports=exports, imports=imports)
