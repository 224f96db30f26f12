"""``smtp-trio serve --limit NAME=VALUE``."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from attrs import fields

from smtp_trio._cli.limit_option import limit_help, limit_option, make_limits
from smtp_trio._cli.options import UsageError
from smtp_trio.protocol import Limits


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("sessions=2000", "sessions", 2000),
        ("per-peer=none", "per_peer", None),
        ("Session_Time = 1h", "session_time", 3600),
        ("memory=64M", "memory", 64 << 20),
        ("data_rate=1k", "data_rate", 1024),
        ("work=0", "work", 0),
        ("strict_lengths=yes", "strict_lengths", True),
        ("count_local=False", "count_local", False),
    ],
)
def test_value(text: str, name: str, value: Any) -> None:
    assert limit_option(text) == (name, value)
    assert getattr(make_limits([limit_option(text)]), name) == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("session=5", "unknown limit 'session'; did you mean sessions"),
        ("xyzzy=5", "the limits are sessions, per_peer"),
        ("sessions", "must be sessions=VALUE"),
        ("sessions=", "must be sessions=VALUE"),
        ("sessions=many", "sessions must be a number, got 'many'"),
        ("sessions=-1", "sessions must be a number"),
        ("errors=none", "errors must be a number"),
        ("memory=5X", "memory must be a number of octets"),
        ("session_time=soon", "session_time must be a number of seconds"),
        ("strict_lengths=2", "strict_lengths must be yes or no"),
    ],
)
def test_invalid_value(text: str, error: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=error):
        limit_option(text)


def test_value_out_of_range_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--limit: errors must be >= 2, got 1"):
        make_limits([limit_option("errors=1")])


def test_every_limit_can_be_set_to_its_default() -> None:
    assert make_limits([]) == make_limits(map(limit_option, limit_help().split(", ")))
    assert limit_help().count("=") == len(fields(Limits))
