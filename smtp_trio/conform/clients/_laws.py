"""The sentences of the RFCs that several scenes are about, and how scenes are written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from .._case import Level
from .._scene import BASE, Check, On, Scene


@frozen
class Law:
    """A sentence, where it stands, and how much it demands."""

    section: str
    sentence: str
    level: Level = Level.MUST


def scene(
    id: str,
    title: str,
    law: Law,
    *acts: On,
    checks: Sequence[Check] = (),
    offers: Sequence[str] = BASE,
    inside: Sequence[str] | None = None,
    bare: bool = False,
    letter: str = "plain",
    values: Mapping[str, str] | None = None,
    hold: float = 0.0,
    certificate: str = "good",
    needs: Sequence[str] = (),
    lacks: Sequence[str] = (),
    level: Level | None = None,
) -> Scene:
    """A scene about this law."""
    return Scene(
        id=id,
        title=title,
        section=law.section,
        sentence=law.sentence,
        level=law.level if level is None else level,
        needs=needs,
        danger=id.startswith("danger."),
        acts=acts,
        checks=checks,
        offers=offers,
        inside=inside,
        bare=bare,
        letter=letter,
        values=values or {},
        hold=hold,
        certificate=certificate,
        lacks=lacks,
    )


ORDER = Law(
    "RFC 5321 4.1.4",
    "one or more RCPT commands, and a DATA command, in that order",
)
EHLO_FIRST = Law("RFC 5321 2.2.1", "clients SHOULD preferentially utilize EHLO rather than HELO", Level.SHOULD)
FALL_BACK = Law(
    "RFC 5321 3.2",
    'if the server returns a "command not recognized" response to EHLO, the client SHOULD be able to fall back and send HELO',
    Level.SHOULD,
)
WAIT_FOR_GREETING = Law(
    "RFC 5321 4.3.1", "The sender SHOULD wait for this greeting message before sending any commands.", Level.SHOULD
)
WAIT = Law(
    "RFC 5321 4.3.1",
    "Unless other arrangements are negotiated through service extensions, the sender MUST wait for this response before "
    "sending further commands.",
)
QUIT = Law(
    "RFC 5321 4.1.1.10",
    "The sender MUST NOT intentionally close the transmission channel until it sends a QUIT command",
)
FIRST_DIGIT = Law(
    "RFC 5321 4.2",
    "a sender-SMTP MUST be prepared to handle codes not specified in this document and MUST do so by interpreting the first "
    "digit only",
)
OUT_OF_RANGE = Law(
    "RFC 5321 4.2",
    "Clients that receive such out-of-range codes SHOULD normally treat them as fatal errors and terminate the mail "
    "transaction.",
    Level.SHOULD,
)
ANY_TEXT = Law(
    "RFC 5321 4.2",
    "any text, including no text at all (although senders SHOULD NOT send bare codes), MUST be acceptable",
)
NO_TEXT = Law(
    "RFC 5321 4.2",
    "clients that do not receive it SHOULD be prepared to process the code alone (with or without a trailing space character)",
    Level.SHOULD,
)
MULTILINE = Law("RFC 5321 4.2", "multiline replies are allowed for any command")
TEMPORARY = Law("RFC 5321 4.2.1", "The command was not accepted, and the requested action did not occur.")
PERMANENT = Law(
    "RFC 5321 4.2.1",
    "The command was not accepted and the requested action did not occur.",
)
INTERMEDIATE = Law(
    "RFC 5321 4.2.1",
    "The command has been accepted, but the requested action is being held in abeyance, pending receipt of further information.",
)
NO_DATA = Law("RFC 5321 3.3", "message data MUST NOT be sent unless a 354 reply is received")
TAKEN = Law(
    "RFC 5321 4.2.5",
    "When an SMTP server returns a positive completion status (2yz code) after the DATA command is completed with "
    "<CRLF>.<CRLF>, it accepts responsibility",
)
LOST = Law(
    "RFC 5321 3.8",
    "SMTP clients that experience a connection close, reset, or other communications failure due to circumstances not under "
    "their control (in violation of the intent of this specification but sometimes unavoidable) SHOULD, to maintain the "
    "robustness of the mail system, treat the mail transaction as if a 451 response had been received and act accordingly.",
    Level.SHOULD,
)
TIMEOUT = Law("RFC 5321 4.5.3.2", "An SMTP client MUST provide a timeout mechanism.")
PATIENCE = Law("RFC 5321 4.5.3.2", "the minimum per-command timeout values SHOULD be as follows", Level.SHOULD)
CARE = Law("RFC 5321 4.2", "", Level.RECOMMENDED)
