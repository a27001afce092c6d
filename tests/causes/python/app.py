"""Ten mistakes; ../README.md says what the comments mean."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import Change, LabelChange, Message, Verdict_Change


class Transformer(exports.Transformer):
    def configure(self, config: str) -> None:
        pass

    def transform(self, message: Message):
        name = message.headers[0].value.decode()
        print("making the mistake", name)
        return globals()[name](message)


def missing_key(message):
    return {}["device"]  #= missing_key: KeyError: 'device'


def added_text(message):
    return 1 + "a"  #= added_text: TypeError: unsupported operand type(s) for +: 'int' and 'str'


def unknown_attribute(message):
    return message.camera  #= unknown_attribute: AttributeError: 'Message' object has no attribute 'camera'


def no_number(message):
    return int("x")  #= no_number: ValueError: invalid literal for int() with base 10: 'x'


def no_json(message):
    return json.loads("{")  #= no_json: JSONDecodeError: Expecting property name enclosed in double quotes


def late_import(message):
    import colorsys  #= late_import: ModuleNotFoundError: No module named 'colorsys'; imports belong to the top of the file

    return colorsys


def assertion(message):
    assert message.offset < 0, "no offset is negative"  #= assertion: AssertionError: no offset is negative


def returned_nothing(message):
    pass  #~ returned_nothing: TypeError: transform returned None, expected one of Verdict_Keep, Verdict_Drop


def number_as_label(message):
    return Verdict_Change(Change(None, None, [LabelChange("temp", 23.65)], None, None))  #~ number_as_label: TypeError: value.labels[0].value of the verdict is float 23.65, expected a str or None


def wrong_error(message):
    raise Err("not a Failure_Reject")  #~ wrong_error: not a Failure_Reject
