"""The code that `plugin build` puts around a plugin in Python.

Guarantees: an exception or a verdict of a wrong type rejects the record; the reason has the exception's type and message, and the
author's file and line; the whole traceback is in the host's log, at level debug.
"""

import app
from componentize_py_types import Err
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

FOLDER = app.__file__.rpartition("/")[0]
VERDICTS = (Verdict_Keep, Verdict_Drop, Verdict_Change, Verdict_Split)
# The fields of a change: name, type, and how a reason names the type.
FIELDS = (
    ("entry", str, "a str"),
    ("timestamp", int, "an int of microseconds"),
    ("content_type", str, "a str"),
    ("payload", bytes, "bytes"),
)


class Transformer(app.Transformer):
    def configure(self, config):
        try:
            super().configure(config)
        except Err as error:
            raise Err(error.value if isinstance(error.value, str) else f"Err({error.value!r})")
        except Exception as error:
            raise Err(described(error))

    def transform(self, message):
        try:
            verdict = super().transform(message)
            check(verdict)
            return verdict
        except Err as error:
            if isinstance(error.value, (Failure_Reject, Failure_Retry)) and isinstance(error.value.value, str):
                raise
            reason = error.value if isinstance(error.value, str) else f"Err({error.value!r})"
            raise Err(Failure_Reject(reason))
        except Exception as error:
            raise Err(Failure_Reject(described(error)))


def described(error):
    """The exception as one line, with the author's file and line; logs the traceback."""
    calls = []
    place = ""
    at = error.__traceback__
    while at:
        code = at.tb_frame.f_code
        folder, _, file = code.co_filename.rpartition("/")
        calls.append(f"{file}:{at.tb_lineno} in {code.co_name}")
        # The place is the author's own line, even if a module of Python raised the exception.
        if folder == FOLDER or folder.startswith(FOLDER + "/"):
            place = f" ({code.co_filename.removeprefix(FOLDER + '/')}:{at.tb_lineno})"
        at = at.tb_next
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        text += "; imports belong to the top of the file, because modules can't be loaded while records flow"
    host.log(host.Level.DEBUG, f"{text}, called by {' < '.join(reversed(calls))}")
    return text + place


def check(verdict):
    if not isinstance(verdict, VERDICTS):
        names = ", ".join(kind.__name__ for kind in VERDICTS)
        raise TypeError(f"transform returned {shown(verdict)}, expected one of {names}")
    if isinstance(verdict, Verdict_Change):
        check_change(verdict.value, "value")
    elif isinstance(verdict, Verdict_Split):
        expect(isinstance(verdict.value, list), "value", verdict.value, "a list of Change")
        for number, part in enumerate(verdict.value):
            check_change(part, f"value[{number}]")


def check_change(change, what):
    expect(isinstance(change, Change), what, change, "a Change")
    for name, kind, expected in FIELDS:
        value = getattr(change, name)
        good = value is None or (isinstance(value, kind) and not isinstance(value, bool))
        expect(good, f"{what}.{name}", value, f"{expected} or None")
    expect(isinstance(change.labels, list), f"{what}.labels", change.labels, "a list of LabelChange")
    for number, label in enumerate(change.labels):
        name = f"{what}.labels[{number}]"
        expect(isinstance(label, LabelChange), name, label, "a LabelChange")
        expect(isinstance(label.name, str), f"{name}.name", label.name, "a str")
        good = label.value is None or isinstance(label.value, str)
        expect(good, f"{name}.value", label.value, "a str or None; str(…) makes one")


def expect(good, what, value, expected):
    if not good:
        raise TypeError(f"{what} of the verdict is {shown(value)}, expected {expected}")


def shown(value):
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}" if value is not None else "None"
