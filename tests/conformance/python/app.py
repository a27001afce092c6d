"""The conformance guest in Python; ../README.md says what it does."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import host
from wit_world.imports.types import (
    Change,
    Failure_Reject,
    Failure_Retry,
    LabelChange,
    Verdict_Change,
    Verdict_Drop,
    Verdict_Keep,
    Verdict_Split,
)

# Kept here, because each call gets a new Transformer.
prefix = ""
calls = 0


class Transformer(exports.Transformer):
    def configure(self, config):
        global prefix
        options = json.loads(config)
        assert not options.get("trap"), "trapped as told"
        if "refuse" in options:
            raise Err(options["refuse"])
        prefix = options.get("prefix", "")

    def transform(self, message):
        global calls
        calls += 1
        changes = [empty()]
        split = touched = dropped = False
        for header in message.headers:
            if not header.key.startswith(prefix):
                continue
            command = header.key[len(prefix) :]
            value = header.value or b""
            if command in ("part", "parts") and not split:
                split, changes = True, []
            if command == "part":
                changes.append(empty())
            elif command == "parts":
                changes.extend(empty() for _ in range(int(value)))
            touched = touched or command not in ("keep", "log")
            change = changes[-1] if changes else empty()
            if command in ("keep", "part", "parts", "change"):
                pass
            elif command == "drop":
                dropped = True
            elif command == "entry":
                change.entry = value.decode()
            elif command == "timestamp":
                change.timestamp = int(value)
            elif command == "content-type":
                change.content_type = value.decode()
            elif command == "payload":
                change.payload = value
            elif command == "fill":
                change.payload = b"x" * int(value)
            elif command == "label":
                change.labels.append(LabelChange(*value.decode().split("=", 1)))
            elif command == "unlabel":
                change.labels.append(LabelChange(value.decode(), None))
            elif command == "labels":
                change.labels.extend(LabelChange(f"l{n}", "v") for n in range(int(value)))
            elif command == "reject":
                raise Err(Failure_Reject(value.decode()))
            elif command == "retry":
                raise Err(Failure_Retry(value.decode()))
            elif command == "trap":
                raise RuntimeError("trapped as told")
            elif command == "loop":
                while True:
                    pass
            elif command == "grow":
                hoard = []
                while True:
                    hoard.append(bytearray(1 << 20))
            elif command == "log":
                host.log(host.Level.INFO, value.decode())
            elif command == "tell":
                change.payload = (change.payload or b"") + self.tell(value.decode(), message)
            elif command == "read":
                offset, length = map(int, value.split())
                change.payload = (change.payload or b"") + host.read(offset, length)
            else:
                change.labels.append(LabelChange(command, value.decode()))
        if dropped:
            return Verdict_Drop()
        if split:
            return Verdict_Split(changes)
        return Verdict_Change(changes[0]) if touched else Verdict_Keep()

    def tell(self, what, message):
        if what in ("topic", "partition", "offset", "timestamp", "payload-size"):
            return str(getattr(message, what.replace("-", "_"))).encode()
        if what == "payload":
            return host.payload()
        if what == "entry":
            return host.entry().encode()
        if what == "content-type":
            return host.content_type().encode()
        if what == "count":
            return str(calls).encode()
        if what == "key":
            return b"none" if message.key is None else b"some:" + message.key
        if what == "headers":
            lines = (h.key.encode() + (b"" if h.value is None else b"=" + h.value) for h in message.headers)
            return b"".join(line + b"\n" for line in lines)
        if what == "labels":
            return "".join(f"{label.name}={label.value}\n" for label in host.labels()).encode()
        raise RuntimeError(f"there is no {what} to tell")


def empty():
    return Change(None, None, [], None, None)
