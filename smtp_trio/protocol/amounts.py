"""Amounts of octets and of time as text: a number with an optional unit, such as ``10M`` or ``5m``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

#: What each unit multiplies the number with, by its name in lower case. As in the limits of other mail servers (Exim,
#: Dovecot), a kilobyte has 1,024 octets.
OCTETS: Mapping[str, Decimal] = {
    "": Decimal(1),
    "b": Decimal(1),
    **{
        prefix + suffix: Decimal(1024**power)
        for power, prefix in enumerate("kmgt", 1)
        for suffix in ("", "b", "ib")
    },
}  # fmt: skip
SECONDS: Mapping[str, Decimal] = {
    "": Decimal(1),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}

AMOUNT = re.compile(r"([0-9._e+-]*[0-9.]) *([a-z]*)", re.ASCII | re.IGNORECASE)


def parse_amount(text: str, units: Mapping[str, Decimal], maximum: int) -> Decimal | None:
    """Return an amount in octets or seconds; None if it is malformed, negative or greater than ``maximum``."""
    match = AMOUNT.fullmatch(text.strip())
    factor = units.get(match[2].lower()) if match is not None else None
    if match is None or factor is None:
        return None
    try:
        value = Decimal(match[1]) * factor
    except ArithmeticError:  # malformed, or too large for a Decimal
        return None
    return value if 0 <= value <= maximum else None
