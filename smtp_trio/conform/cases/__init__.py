"""The cases, a table for each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._case import Rule
from . import connection, data, ehlo, mail, rcpt

#: Section and title, in the order in which they are tried. What is said of all replies comes last: it has heard all others.
SECTIONS: Sequence[tuple[str, str, Sequence[Rule]]] = (
    ("connection", "Connections", connection.CASES),
    ("ehlo", "EHLO and HELO", ehlo.CASES),
    ("mail", "MAIL", mail.CASES),
    ("rcpt", "RCPT", rcpt.CASES),
    ("data", "DATA", data.CASES),
)

RULES: Sequence[Rule] = tuple(rule for _, _, rules in SECTIONS for rule in rules)
TITLES: Mapping[str, str] = {name: title for name, title, _ in SECTIONS}
