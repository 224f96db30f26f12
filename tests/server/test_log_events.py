"""The events of the log: the table on the page, how values are written in text and JSON, and what a client can do to them."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import smtp_trio
from smtp_trio._cli.log_output import LogFormatter
from smtp_trio._server import log_events
from smtp_trio._server.log_events import ACCEPTED, EVENTS, HOOK_FAILED, Address, ClientText, Event, Value, as_text

PACKAGE = Path(smtp_trio.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "logging.rst"

ROW = re.compile(r"   \* - ``(\w+)``\n     - (\w+)\n     - ((?:``\w+``,? ?)+|none)\n     - \S")
SECTION = re.compile(r"^(smtp_trio\.\w+)\n~+\n", re.MULTILINE)

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"

#: An event with one field of each kind of value.
TEST = Event("test", logging.INFO, "smtp_trio.test", "a={a} b={b} c={c}")

#: What a client might send to forge a field, a line or a color.
HOSTILE = [
    "a b", "a=b", 'a"b', "a\\b", "a,b", "-", "", " ", '"', "\\", '\\"', "a\nb", "a\r\nb", "a\vb", "a\fb", "a\x1b[31mb", "a\x7fb",
    "a\0b", "a\x85b", "a\u2028b", "a\u2029b", "a\u202eb", "a\u200bb", "a\ufeffb", "a\xa0b", "a\u3000b", "a\x9b31mb", "a\U000e0001b",
    "a\udc80b", "x> to=<y", 'x" reply="250 2.0.0 Ok', "x,<y", "{a}", "%s", "2026-11-28T00:00:00.000+00:00 listening on",
]  # fmt: skip


class Collector(logging.Handler):
    """A handler that keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def record(event: Event, values: dict[str, Value], exc: BaseException | None = None) -> logging.LogRecord:
    """Return the record that an event makes."""
    handler = Collector()
    event.logger.addHandler(handler)
    try:
        level = event.logger.level
        event.logger.setLevel(logging.DEBUG)
        event.log(values, exc_info=exc)
    finally:
        event.logger.removeHandler(handler)
        event.logger.setLevel(level)
    (found,) = handler.records
    return found


def text(event: Event, values: dict[str, Value], exc: BaseException | None = None) -> str:
    return LogFormatter(as_json=False).format(record(event, values, exc))


def parsed(event: Event, values: dict[str, Value], exc: BaseException | None = None) -> dict[str, object]:
    line = LogFormatter(as_json=True).format(record(event, values, exc))
    assert line.isascii()
    assert line.isprintable()
    found: dict[str, object] = json.loads(line)
    return found


def fields_of(line: str) -> dict[str, str]:
    """Return the values in a line of text, as a program would read them: separated by spaces, in quotes if necessary."""
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"]*)', line)
    return {name: json.loads(value) if value.startswith('"') else value for name, value in found}


# --- the table --------------------------------------------------------------------------------------------------------


def test_page_lists_exactly_the_events() -> None:
    _, *parts = SECTION.split(PAGE.read_text(encoding="utf-8"))
    listed = {
        (logger, name, level, *re.findall(r"``(\w+)``", fields))
        for logger, section in zip(parts[::2], parts[1::2], strict=True)
        for name, level, fields in ROW.findall(section)
    }
    page = {(logger, name, level, *sorted(fields)) for logger, name, level, *fields in listed}
    assert page == {
        (event.logger.name, event.name, logging.getLevelName(event.level).lower(), *sorted(event.fields))
        for event in EVENTS.values()
    }


def names_used(path: Path) -> set[str]:
    """Return the names and attributes that a module uses."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


USED = {path: names_used(path) for path in PACKAGE.rglob("*.py")}


def test_every_event_is_logged_somewhere() -> None:
    constants = {name: event for name, event in vars(log_events).items() if isinstance(event, Event)}
    assert [event.name for event in constants.values()] == list(EVENTS)
    elsewhere = set().union(*(names for path, names in USED.items() if path.name != "log_events.py"))
    assert set(constants) <= elsewhere


def test_nothing_else_is_logged() -> None:
    """No other module of the package makes a logger or calls one."""
    allowed = {"log_events.py", "log_output.py"}
    assert [path for path, names in USED.items() if "getLogger" in names and path.name not in allowed] == []


@pytest.mark.parametrize("event", EVENTS.values(), ids=list(EVENTS))
def test_both_formats_have_all_fields(event: Event) -> None:
    values: dict[str, Value] = {name: f"value-{number}" for number, name in enumerate(event.fields)}
    line, found = text(event, values), parsed(event, values)
    assert {name: found[name] for name in event.fields} == values
    assert list(found)[:3] == ["time", "level", "event"]
    assert (found["event"], found["level"]) == (event.name, logging.getLevelName(event.level).lower())
    assert re.fullmatch(TIME, str(found["time"]))
    for value in values.values():
        assert str(value) in line
    assert re.match(rf"{TIME} (warning: |error: )?\S", line)
    assert ("warning: " in line or "error: " in line) == (event.level >= logging.WARNING)


@pytest.mark.parametrize("event", EVENTS.values(), ids=list(EVENTS))
def test_absent_values(event: Event) -> None:
    values: dict[str, Value] = dict.fromkeys(event.fields)
    assert {name: parsed(event, values)[name] for name in event.fields} == values
    assert text(event, values).count("-") >= len(values)


def test_field_that_is_missing_or_unknown_is_an_error() -> None:
    with pytest.raises(KeyError):
        record(TEST, {"a": "x", "b": "y"})
    with pytest.raises(AssertionError, match="test has no field d"):
        record(TEST, {"a": "x", "b": "y", "c": "z", "d": ""})


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "written", "member"),
    [
        (None, "-", None),
        ("-", '"-"', "-"),
        ("", '""', ""),
        ("mx.example", "mx.example", "mx.example"),
        ("250 Ok", '"250 Ok"', "250 Ok"),
        ("bücher", "bücher", "bücher"),
        (Address(""), "<>", ""),
        (Address("-"), "<->", "-"),
        (Address("a@b.example"), "<a@b.example>", "a@b.example"),
        (Address('"a b"@c.example'), r'"<\"a b\"@c.example>"', '"a b"@c.example'),
        (Address("prvs=1@b.example"), '"<prvs=1@b.example>"', "prvs=1@b.example"),
        (Address("用户@例え.example"), "<用户@例え.example>", "用户@例え.example"),
        ([Address("a@b"), Address("c d@e")], '<a@b>,"<c d@e>"', ["a@b", "c d@e"]),
        ([], "-", []),
        (0, "0", 0),
        (1.23456, "1.235", 1.23456),
        ("a\u2028\x7f\x1b", r'"a\u2028\u007f\u001b"', "a\u2028\x7f\x1b"),
        ("\udc80", r'"\\udc80"', r"\udc80"),
    ],
)
def test_value(value: Value, written: str, member: object) -> None:
    assert as_text(value) == written
    assert parsed(TEST, {"a": value, "b": "", "c": ""})["a"] == member


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("kind", [str, Address])
def test_value_cannot_forge_a_field_or_a_line(kind: type[str], value: str) -> None:
    values: dict[str, Value] = {"a": kind(value), "b": "1", "c": None}
    line = text(TEST, values)
    assert line.isprintable()
    expected = value.encode("utf-8", "backslashreplace").decode()
    assert fields_of(line) == {"a": expected if kind is str else f"<{expected}>", "b": "1", "c": "-"}
    assert parsed(TEST, values)["a"] == expected


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_values_can_be_read_again(first: str, second: str) -> None:
    line = text(TEST, {"a": first, "b": Address(second), "c": [Address(first)]})
    assert line.isprintable()
    found = fields_of(line.partition(" ")[2])
    assert (found["a"], found["b"]) == (first, f"<{second}>")


@pytest.mark.parametrize(("kind", "limit"), [(str, 1000), (ClientText, 256), (Address, 256)])
@pytest.mark.parametrize("char", ["x", " ", "\x1b", "ü", '"'])
def test_long_value_is_cut(kind: type[str], limit: int, char: str) -> None:
    whole, longer = kind(char * limit), kind(char * (limit + 24))
    found = parsed(TEST, {"a": whole, "b": longer, "c": [longer]})
    assert found["a"] == whole
    assert found["b"] == f"{whole}[24 more]"
    assert found["c"] == [f"{whole}[24 more]"]
    assert len(text(TEST, {"a": longer, "b": longer, "c": [longer]})) < 3 * 6 * (limit + 20)


# --- tracebacks, and records of other loggers -------------------------------------------------------------------------


def failed(message: str) -> BaseException:
    """Return an exception that was raised."""
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


FORGED = "2026-11-28T00:00:00.000+00:00 x accepted: peer=-"


def test_traceback_cannot_forge_a_line() -> None:
    """Its text may come from a client."""
    values: dict[str, Value] = {"id": "1", "peer": "p", "hook": "data", "error": "ValueError"}
    error = failed(f"x\n{FORGED}\r{FORGED}\u2028{FORGED}\x1b[2J")
    first, *rest = text(HOOK_FAILED, values, error).split("\n")
    assert first.endswith("error: 1 peer=p data hook failed: ValueError")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    found = parsed(HOOK_FAILED, values, error)
    assert FORGED in str(found["traceback"])


def test_long_traceback_is_cut() -> None:
    values: dict[str, Value] = {"id": "1", "peer": "p", "hook": "data", "error": "ValueError"}
    assert len(str(parsed(HOOK_FAILED, values, failed("x" * 10**6))["traceback"])) < 60_000


def test_record_of_another_logger() -> None:
    other = logging.LogRecord("trio", logging.WARNING, "f.py", 1, "gone:\n%s", ("\x1bü",), None)
    line = LogFormatter(as_json=False).format(other)
    assert re.fullmatch(r"\S+ warning: gone:\\n\\u001bü", line)
    found = json.loads(LogFormatter(as_json=True).format(other))
    assert found.pop("time")
    assert found == {"level": "warning", "event": "other", "logger": "trio", "message": "gone:\n\x1bü"}


def test_caller_is_that_of_the_event() -> None:
    found = record(ACCEPTED, dict.fromkeys(ACCEPTED.fields))
    assert found.name == "smtp_trio.message"
    assert found.funcName == "record"
    assert (found.event, found.fields) == ("accepted", dict.fromkeys(ACCEPTED.fields))  # type: ignore[attr-defined]


def test_nothing_is_written_below_the_level() -> None:
    logging.getLogger("smtp_trio.test").setLevel(logging.WARNING)
    try:
        TEST.log()  # would raise KeyError
    finally:
        logging.getLogger("smtp_trio.test").setLevel(logging.NOTSET)
