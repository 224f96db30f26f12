"""The part of a report that people read, and its subject."""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol.extensions.dsn import ENVID
from ._fields import WORD, clean, in_lines
from ._original import Original
from ._status import Action, RecipientStatus

#: The subject and the introduction for each action, the most important one first.
TEXTS: dict[Action, tuple[str, str]] = {
    "failed": (
        "Delivery failure",
        "Your message could not be delivered to the following recipients. No further attempts will be made.",
    ),
    "delayed": (
        "Delivery delayed",
        "Your message could not be delivered to the following recipients yet. Further attempts will be made; you need not "
        "send it again.",
    ),
    "delivered": ("Delivery successful", "Your message was delivered to the following recipients."),
    "expanded": (
        "Delivery successful",
        "Your message was delivered to the following recipients, and from there to several others. Nothing more is "
        "reported of these unless a delivery fails.",
    ),
    "relayed": (
        "Message relayed",
        "Your message was passed on to a mail system that does not report the delivery to the following recipients. "
        "Unless it fails, this is the only report.",
    ),
}
#: The lines of a paragraph, with room for an indentation.
LINE = in_lines(72, WORD)


def subject(statuses: Sequence[RecipientStatus]) -> str:
    """Return the subject of a report."""
    return next(text for action, (text, _) in TEXTS.items() if any(each.action == action for each in statuses))


def explanation(original: Original, statuses: Sequence[RecipientStatus], reporting_mta: str) -> str:
    """Return a text that explains the statuses. Its lines end in LF."""
    paragraphs = [f"This is the mail system at {clean(reporting_mta, utf8=True)}."]
    for action, (_, introduction) in TEXTS.items():
        concerned = [each for each in statuses if each.action == action]
        if concerned:
            paragraphs += [introduction, *(_line(each) for each in concerned)]
    if envid := original.mail_params.get(ENVID):
        paragraphs.append(f"Your identifier of the message: {clean(envid, utf8=True)}")
    return "\n\n".join(map(_wrap, paragraphs)) + "\n"


def _line(status: RecipientStatus) -> str:
    text = f"<{clean(status.recipient, utf8=True)}>"
    if status.final_recipient not in (None, status.recipient):
        text += f", sent on to <{clean(status.final_recipient or '', utf8=True)}>"
    diagnostic = clean(status.diagnostic or "", utf8=True)
    if diagnostic and status.remote_mta:
        text += f": {clean(status.remote_mta, utf8=True)} replied: {diagnostic}"
    elif diagnostic:
        text += f": {diagnostic}"
    if status.will_retry_until is not None:
        text += f" (until {status.will_retry_until:%Y-%m-%d %H:%M %z})"
    return text


def _wrap(paragraph: str) -> str:
    indents = ("  ", "    ") if paragraph.startswith("<") else ("", "")
    lines = [line.strip(" ") for line in LINE.findall(paragraph)]
    return "\n".join(indents[number > 0] + line for number, line in enumerate(lines))
