"""A plugin with three transforms, of which the configuration chooses one."""

import json

import componentize_py_types
from wit_world import exports
from wit_world.imports import host
from wit_world.imports.types import (
    Change,
    Failure_Reject,
    LabelChange,
    Message,
    Verdict,
    Verdict_Change,
    Verdict_Drop,
    Verdict_Keep,
    Verdict_Split,
)

# What `configure` read. It is kept here, because each call gets a new Transformer.
config = {"header": "", "value": ""}


class Transformer(exports.Transformer):
    def configure(self, text: str) -> None:
        """Called once, before the first record."""
        config.update(json.loads(text))
        name = config.get("transform")
        if name not in ("drop", "label", "split"):
            raise componentize_py_types.Err(f"transform: {name!r}; it can be drop, label or split")

    def transform(self, message: Message) -> Verdict:
        """Decides on one record. A ValueError rejects it: it goes to the dead letters."""
        try:
            return getattr(self, config["transform"])(message)
        except ValueError as error:
            raise componentize_py_types.Err(Failure_Reject(str(error)))

    def drop(self, message: Message) -> Verdict:
        """Drops the records that have this header with this value."""
        key, value = config["header"], config["value"].encode()
        found = any(header.key == key and header.value == value for header in message.headers)
        return Verdict_Drop() if found else Verdict_Keep()

    def label(self, message: Message) -> Verdict:
        """Turns fields of a JSON payload into the entry and labels."""
        fields = parse(host.payload(), "the payload")
        if not isinstance(fields, dict):
            raise ValueError("the payload isn't a JSON object")
        camera, line, ok = fields.get("camera"), fields.get("line"), fields.get("ok")
        labels = []
        if not isinstance(camera, str):
            raise ValueError('the payload has no text "camera"')
        if type(line) is int:
            labels.append(LabelChange("line", str(line)))
        elif line is not None:
            raise ValueError('"line" isn\'t a whole number')
        if isinstance(ok, bool):
            labels.append(LabelChange("ok", "true" if ok else "false"))
        elif ok is not None:
            raise ValueError('"ok" isn\'t true or false')
        return Verdict_Change(Change(f"cameras/{camera}", None, labels, "application/json", None))

    def split(self, message: Message) -> Verdict:
        """Makes a record of each line of JSON in the payload."""
        parts = []
        for number, line in enumerate(host.payload().split(b"\n"), 1):
            if line:
                parse(line, f"line {number} of the payload")
                label = LabelChange("part", str(len(parts)))
                parts.append(Change(None, None, [label], None, line))
        return Verdict_Split(parts) if parts else Verdict_Drop()


def parse(text: bytes, what: str):
    try:
        return json.loads(text, parse_constant=no_constant)
    except ValueError as error:
        raise ValueError(f"{what} isn't JSON: {error}")


def no_constant(name: str):
    # Python would accept NaN and Infinity, which aren't JSON.
    raise ValueError(name)
