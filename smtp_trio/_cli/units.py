"""Options that are an amount of octets or of time: a number with an optional unit, such as ``10M`` or ``5m``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..protocol.amounts import OCTETS, SECONDS, parse_amount


def octets(text: str) -> int:
    """Return the number of octets that the value of an option means."""
    value = parse_amount(text, OCTETS, 10**18)
    if value is None or value != int(value):
        raise argparse.ArgumentTypeError(
            f"must be a number of octets from 0 to {10**18}, or a size such as 500k, 10M or 1G, got {text!r}"
        )
    return int(value)


def seconds(maximum: int) -> Callable[[str], float]:
    """Return the type of an option whose value is a number of seconds up to ``maximum``."""

    def parse(text: str) -> float:
        value = parse_amount(text, SECONDS, maximum)
        if value is None:
            raise argparse.ArgumentTypeError(
                f"must be a number of seconds from 0 to {maximum}, or a time such as 500ms, 30s, 5m or 1h, got {text!r}"
            )
        return float(value)

    return parse
