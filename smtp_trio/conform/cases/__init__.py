"""The cases, a table for each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._case import Rule
from . import (
    auth,
    chunking,
    commands,
    connection,
    danger,
    data,
    dsn,
    ehlo,
    encoding,
    mail,
    pipelining,
    rcpt,
    replies,
    size,
    starttls,
    syntax,
)

#: Section, title and table, in the order in which they are tried. What is said of all replies comes last: it has heard all others.
SECTIONS: Sequence[tuple[str, str, Sequence[Rule]]] = (
    ("connection", "Connections", connection.CASES),
    ("ehlo", "EHLO and HELO", ehlo.CASES),
    ("mail", "MAIL", mail.CASES),
    ("rcpt", "RCPT", rcpt.CASES),
    ("data", "DATA", data.CASES),
    ("commands", "RSET, NOOP, VRFY, EXPN, HELP, QUIT", commands.CASES),
    ("syntax", "Lines and their lengths", syntax.CASES),
    ("pipelining", "PIPELINING", pipelining.CASES),
    ("size", "SIZE", size.CASES),
    ("encoding", "8BITMIME and SMTPUTF8", encoding.CASES),
    ("chunking", "CHUNKING and BINARYMIME", chunking.CASES),
    ("starttls", "STARTTLS", starttls.CASES),
    ("auth", "AUTH", auth.CASES),
    ("dsn", "DSN", dsn.CASES),
    ("danger", "Smuggling and flooding", danger.CASES),
    ("replies", "All replies", replies.CASES),
)

RULES: Sequence[Rule] = tuple(rule for _, _, rules in SECTIONS for rule in rules)
TITLES: Mapping[str, str] = {name: title for name, title, _ in SECTIONS}
