"""Connections: how they begin, how they end, and what they bear (RFC 5321 3.1, 3.8, 4.2, 4.3)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Expect

CASES = (
    Case(
        id="connection.greeting",
        title="the greeting names the server",
        section="RFC 5321 4.2",
        sentence='Greeting = ( "220 " (Domain / address-literal) [ SP textstring ] CRLF )',
        state=State.CONNECTED,
        steps=(Expect("220", "a greeting with a domain", text=r"\A[A-Za-z0-9\[][A-Za-z0-9.:\]-]*( |$)"),),
    ),
    Case(
        id="connection.esmtp",
        title="the greeting says ESMTP",
        section="RFC 5321 4.2",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.CONNECTED,
        steps=(Expect("220", "a greeting", text=r"\bESMTP\b"),),
    ),
)
