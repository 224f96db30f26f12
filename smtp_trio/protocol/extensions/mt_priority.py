"""MT-PRIORITY, RFC 6710: the priority of a message.

Adds the EHLO line ``MT-PRIORITY [policy]`` and the parameter ``MT-PRIORITY=number`` of MAIL. Not in `STANDARD`: the
application has to act on the priority.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from attrs import evolve, field, frozen

from ..arguments import argument, check_number, check_type
from ..commands import Command, Mail
from ..extension import CommandParams, Extension
from ..params import Param
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value

# RFC 6710 7: priority-value. A plus sign, and a minus sign before zero, are invalid.
PRIORITY = re.compile(r"-?[1-9]|0")
# RFC 6710 3 (2) and 9.2: the name of a priority assignment policy.
POLICY = re.compile(r"[A-Za-z0-9-]+", re.ASCII)

#: Replies of an application that refuses a message because of its priority (RFC 6710 4.1, 5 and 11).
TOO_LOW_NOW = Reply(450, "Messages of this priority are not accepted now", "4.7.15")
TOO_LOW = Reply(550, "Messages of this priority are not accepted", "5.7.15")
TOO_BIG_FOR_PRIORITY = Reply(552, "Message too big for its priority", "5.7.16")


class ChangedPriority(int):
    """A priority that the server has assigned in place of the one that the client has requested."""


def _parse_priority(value: str | None) -> int | None:
    return int(value) if value is not None and PRIORITY.fullmatch(value) else None


def _changed(priority: int) -> Reply | None:
    """Return the reply with the new priority, or None if it has not changed (RFC 6710 4.1)."""
    if not isinstance(priority, ChangedPriority):
        return None
    return Reply(250, f"{priority:d} is the new priority assigned to the message", "2.3.6")


#: MAIL FROM:<...> MT-PRIORITY=-9 to 9. An invalid value gets the status 5.5.2 (RFC 6710 4.1 (1)).
#: A server without the extension gets the message without it (RFC 6710 4.3).
MT_PRIORITY: Param[int] = Param(
    "MT-PRIORITY",
    _parse_priority,
    "{:d}".format,
    extra_octets=15,
    passed_on="if offered",
    invalid="5.5.2",
    reply=_changed,
)


def _check_policy(_: object, __: object, policy: str | None) -> None:
    check_type(policy, "policy", str, optional=True)
    if policy is not None and POLICY.fullmatch(policy) is None:
        raise ValueError(f"policy must consist of letters, digits and hyphens (RFC 6710 9.2), got {policy!r}")


@frozen(eq=False, repr=False)
class MtPriority(Extension, Value):
    """Message priorities (RFC 6710). Not in `STANDARD`: the application has to act on the parameter.

    ``policy`` is the name of the priority assignment policy, such as "MIXER". ``untrusted`` is the highest priority of
    a client that has not authenticated: a higher one is lowered, and the reply to MAIL has the new one (RFC 6710 4.1).
    """

    policy: str | None = field(default=None, validator=_check_policy)
    untrusted: int = field(default=0, validator=argument(check_number, -9, maximum=9, integer=True))

    keyword = "MT-PRIORITY"
    rfc = 6710
    params: ClassVar[CommandParams] = {Mail: (MT_PRIORITY,)}
    checks: ClassVar[Sequence[Param[int]]] = (MT_PRIORITY,)

    def advertise(self, state: SessionState) -> str:
        """Return the EHLO line (RFC 6710 3 (2))."""
        return self.keyword if self.policy is None else f"{self.keyword} {self.policy}"

    def parse_offer(self, words: Sequence[str]) -> MtPriority:
        """Return an extension with the server's policy."""
        return MtPriority(words[0]) if words and POLICY.fullmatch(words[0]) else MtPriority()

    def check_command(self, command: Command, state: SessionState) -> Mail | None:
        """Lower the priority of a client that has not authenticated (RFC 6710 4.1)."""
        if isinstance(command, Mail) and state.user is None and command.params[MT_PRIORITY] > self.untrusted:
            lowered = command.params.replace(MT_PRIORITY, ChangedPriority(self.untrusted))
            return evolve(command, params=lowered)
        return None
