"""Refusals, after each command (RFC 5321 4.2.1, 4.3.2)."""

from __future__ import annotations

from .._case import Level
from .._checks import Fails, NeverSays, NoText, Once, Quits, Says, Then
from .._moves import Hangup
from .._scene import On
from ._laws import NO_DATA, PERMANENT, QUIT, TAKEN, TEMPORARY, Law, scene
from .replies import what

CODES: dict[str, tuple[bytes, ...]] = {
    "MAIL": (b"421", b"450", b"451", b"452", b"455", b"459", b"500", b"501", b"550", b"552", b"553", b"555", b"599"),
    "RCPT": (b"421", b"450", b"451", b"452", b"459", b"500", b"501", b"550", b"552", b"553", b"554", b"599"),
    "DATA": (b"421", b"450", b"451", b"459", b"500", b"502", b"503", b"550", b"554", b"599"),
    "BODY": (b"421", b"450", b"451", b"452", b"459", b"500", b"550", b"552", b"554", b"599"),
}
NEXT: dict[str, tuple[str, ...]] = {"MAIL": ("RCPT", "DATA", "BDAT"), "RCPT": ("DATA", "BDAT"), "DATA": (), "BODY": ()}
SOME = Law("RFC 5321 3.3", "This step of the procedure can be repeated any number of times.")

CASES = (
    *(
        scene(
            f"refusals.{event.lower()}-{code.decode()}",
            f"{what(event)} is {code.decode()}: the message is not sent",
            TEMPORARY if code < b"500" else PERMANENT,
            On(event, code + b" No\r\n", *[Hangup()] * (code == b"421")),
            checks=(Fails(), *[NeverSays(*NEXT[event])] * bool(NEXT[event]), *[NoText()] * (event != "BODY"), Once()),
        )
        for event, codes in CODES.items()
        for code in codes
    ),
    *(
        scene(
            f"refusals.{event.lower()}-quit",
            f"{what(event)} is 550: the client says goodbye",
            QUIT,
            On(event, b"550 5.7.1 No\r\n"),
            checks=(Quits(), Fails()),
        )
        for event in ("MAIL", "RCPT", "DATA", "BODY")
    ),
    *(
        scene(
            f"refusals.{event.lower()}-lines",
            f"{what(event)} is 550, in three lines: it is one answer",
            PERMANENT,
            On(event, b"550-5.7.1 No\r\n550-250 Ok\r\n550 5.7.1 never\r\n"),
            checks=(Fails(), *[NoText()] * (event != "BODY"), Quits()),
        )
        for event in ("MAIL", "RCPT", "DATA", "BODY")
    ),
    *(
        scene(
            f"refusals.data-{code.decode()}",
            f"DATA is answered {code.decode()}, not 354: no message data is sent",
            NO_DATA,
            On("DATA", code + b" Ok\r\n"),
            checks=(NeverSays("FROM:", "SUBJECT:", "TO:", "DATE:"), Then("DATA"), Fails()),
        )
        for code in (b"220", b"250")
    ),
    scene(
        "refusals.first-rcpt",
        "the first of two recipients is refused, the second one is not: the message is sent",
        SOME,
        On("RCPT", b"550 5.1.1 No such user\r\n", nth=1),
        On("RCPT", b"250 2.1.5 Ok\r\n", nth=2),
        checks=(Says("RCPT", "RCPT", "DATA"), Once()),
        level=Level.RECOMMENDED,
    ),
    scene(
        "refusals.second-rcpt",
        "the second of two recipients is refused, the first one is not: the message is sent",
        SOME,
        On("RCPT", b"250 2.1.5 Ok\r\n", nth=1),
        On("RCPT", b"450 4.2.1 Later\r\n", nth=2),
        checks=(Says("RCPT", "RCPT", "DATA"), Once()),
        level=Level.RECOMMENDED,
    ),
    scene(
        "refusals.some-rcpt",
        "one of two recipients is refused: the client does not keep quiet about it",
        PERMANENT,
        On("RCPT", b"550 5.1.1 No such user\r\n", nth=1),
        On("RCPT", b"250 2.1.5 Ok\r\n", nth=2),
        checks=(Fails(),),
        level=Level.RECOMMENDED,
    ),
    scene(
        "refusals.both-rcpt",
        "both of two recipients are refused: no message is sent",
        PERMANENT,
        On("RCPT", b"550 5.1.1 No such user\r\n", nth=1),
        On("RCPT", b"452 4.5.3 Too many\r\n", nth=2),
        checks=(NoText(), Fails()),
    ),
    scene(
        "refusals.body-late",
        "the message is refused with 421, and the connection closed: it was not taken",
        TAKEN,
        On("BODY", b"421 4.3.2 Shutting down\r\n", Hangup()),
        checks=(Fails(),),
    ),
    scene(
        "refusals.rset",
        "RSET and all else are answered 500 after a refusal: the client ends",
        PERMANENT,
        On("MAIL", b"550 5.7.1 No\r\n"),
        On("RSET", b"500 5.5.1 What?\r\n", always=False),
        On("NOOP", b"500 5.5.1 What?\r\n", always=False),
        checks=(Fails(),),
    ),
)
