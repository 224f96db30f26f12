"""Options that are an amount of octets or of time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytest

from smtp_trio._cli.main import main, make_parser
from smtp_trio._cli.units import octets, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("31457280", 31457280), ("1e3", 1000), ("+5", 5), ("1_000", 1000), (" 7 ", 7), ("10b", 10), ("500k", 512000),
        ("10M", 10485760), ("10m", 10485760), ("10 MB", 10485760), ("10MiB", 10485760), ("1G", 2**30), ("1T", 2**40),
        ("1.5M", 1572864), (".5k", 512), ("0.1k", None), ("1.5", None), ("-1", None), ("-1k", None), ("", None), ("k", None),
        ("10MM", None), ("1iB", None), ("10s", None), ("nan", None), ("inf", None), ("1e", None), ("1e999999999", None),
        (f"1e{'9' * 30}", None), (str(10**18 + 1), None), ("0x10", None), ("1,5M", None), ("\u0663", None), ("5\u212a", None),
    ],
)  # fmt: skip
def test_octets(text: str, value: int | None) -> None:
    if value is not None:
        assert octets(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError, match=r"octets .* 500k, 10M or 1G, got "):
        octets(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("300", 300), ("0.2", 0.2), ("1e2", 100), ("90s", 90), ("5m", 300), ("5M", 300), ("5 min", 300), ("1.5h", 5400),
        ("1d", 86400), ("500ms", 0.5), ("2d", None), ("10k", None), ("1h30m", None), ("-1s", None), ("soon", None), ("nan", None),
        ("", None),
    ],
)  # fmt: skip
def test_seconds(text: str, value: float | None) -> None:
    parse = seconds(86400)
    if value is not None:
        assert parse(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError, match=r"seconds from 0 to 86400, .* 30s, 5m or 1h, got "):
        parse(text)


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (["serve"], "--size", 10485760), (["serve"], "--timeout", 600.0), (["send", "x"], "--timeout", 600.0),
        (["conform", "x"], "--timeout", 600.0), (["conform", "--client"], "--timeout", 600.0),
        (["conform", "--client"], "--wait", 600.0),
    ],
)  # fmt: skip
def test_options_with_units(
    command: Sequence[str], option: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = make_parser(command).parse_args([*command, option, "10m"])
    assert getattr(parsed, option.lstrip("-")) == value

    assert main([*command, option, "10x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"smtp-trio: error: argument {option}: must be a number of ")
    assert error.count("\n") == 1
