"""NO-SOLICITING, RFC 3865: messages are marked with classes of solicitation, which a server can refuse.

Adds the EHLO line ``NO-SOLICITING [classes]`` and the parameter ``SOLICIT=classes`` of MAIL. Not in `STANDARD`: which
classes are not wanted is a decision of the application.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from attrs import field, frozen

from ..arguments import check_items
from ..commands import Command, Mail
from ..extension import CommandParams, Extension
from ..params import Param
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value

# RFC 3865 2.2: Solicitation-keywords
CLASSES = re.compile(r"[A-Za-z][A-Za-z0-9._:-]*(?:,[A-Za-z][A-Za-z0-9._:-]*)*", re.ASCII)
MAX_CLASSES = 1000


def _parse_classes(value: str | None) -> frozenset[str] | None:
    if value is None or len(value) > MAX_CLASSES or CLASSES.fullmatch(value) is None:
        return None
    return frozenset(value.split(","))


def _format_classes(classes: Iterable[str]) -> str:
    return ",".join(sorted(classes))


#: MAIL FROM:<...> SOLICIT=classes, the same as in the ``Solicitation`` field of the message (RFC 3865 2.3).
SOLICIT: Param[frozenset[str]] = Param(
    "SOLICIT", _parse_classes, _format_classes, extra_octets=1007, passed_on="if offered"
)


def refuse_classes(classes: Iterable[str]) -> Reply:
    """Return the refusal of a message, or of one recipient, because of these classes (RFC 3865 2.3 and 2.4)."""
    return Reply(550, f"SOLICIT={_format_classes(classes)}", "5.7.1")


def _check_classes(classes: Iterable[str]) -> frozenset[str]:
    found = frozenset(check_items([classes] if isinstance(classes, str) else classes, "classes", str))
    if found and _parse_classes(_format_classes(found)) != found:
        raise ValueError(f"classes must be solicitation class keywords (RFC 3865 2.2), got {sorted(found)}")
    return found


@frozen(eq=False, repr=False)
class NoSoliciting(Extension, Value):
    """Classes of unwanted messages (RFC 3865). Not in `STANDARD`: they are a decision of the application.

    ``classes`` are those that no recipient of the server wants, such as "net.example:ADV": MAIL with one of them is
    refused. A hook can refuse others for one recipient, with `refuse_classes`.
    """

    classes: frozenset[str] = field(default=frozenset(), converter=_check_classes)

    keyword = "NO-SOLICITING"
    rfc = 3865
    params: ClassVar[CommandParams] = {Mail: (SOLICIT,)}
    checks: ClassVar[Sequence[Param[frozenset[str]]]] = (SOLICIT,)

    def advertise(self, state: SessionState) -> str:
        """Return the EHLO line (RFC 3865 2.1)."""
        return f"{self.keyword} {_format_classes(self.classes)}".rstrip(" ")

    def parse_offer(self, words: Sequence[str]) -> NoSoliciting:
        """Return an extension with the classes that the server does not want."""
        return NoSoliciting(_parse_classes(words[0]) or ()) if words else NoSoliciting()

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Refuse a message of a class that is not wanted."""
        assert isinstance(command, Mail)
        unwanted = {name.lower() for name in self.classes}
        found = [name for name in command.params[SOLICIT] if name.lower() in unwanted]
        return refuse_classes(found) if found else None
