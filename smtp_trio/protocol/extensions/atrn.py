"""ATRN, RFC 2645: on-demand mail relay. The two sides of the connection change their roles.

Adds the verb ATRN and its EHLO keyword, which is shown when the server has the hook ``atrn``. Not in `STANDARD`: it is
for providers who keep the mail of customers that are not always connected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Self

from attrs import frozen

from ..commands import Command
from ..dialogue import READY, PhaseEnum, Table
from ..errors import BadCommandError
from ..extension import Commands, Extension
from ..params import KnownParams
from ..replies import Reply
from ..session_state import SessionState

# RFC 2645 5.2.1
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
DOMAIN = re.compile(rf"{LABEL}(?:\.{LABEL})+", re.ASCII)
AUTH_FIRST = Reply(530, "Authentication required", "5.7.0")


class TurnPhase(PhaseEnum):
    """The phase that ATRN adds."""

    REVERSED = "after the roles were reversed"


REVERSED = TurnPhase.REVERSED

# After the 250 to ATRN this session gets no further commands: the customer sends a greeting, and is the server from then
# on. So no command is allowed in the phase REVERSED. The stream stays open: the provider runs a client on it
# (`Session.take_over`), and the customer a server.


@frozen(eq=False, repr=False)
class Atrn(Command):
    """ATRN: send the mail of these ``domains`` over this connection; by default that of all domains of the customer."""

    domains: tuple[str, ...] = ()

    verb = "ATRN"
    usage = "ATRN [domain[,domain]]"
    hook: ClassVar[str | None] = "atrn"
    codes: ClassVar[frozenset[int]] = frozenset({250, 450, 451, 453, 502})  # RFC 2645 5.2.1

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return f"ATRN {','.join(self.domains)}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Parse the argument. Raises `BadCommandError` if it is not valid."""
        domains = tuple(argument.split(",")) if argument else ()
        if not all(DOMAIN.fullmatch(domain) for domain in domains):
            raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.4"))
        return cls(domains)


class AtrnExtension(Extension):
    """On-demand mail relay (RFC 2645). Not in `STANDARD`: the application has to send the mail."""

    keyword = "ATRN"
    rfc = 2645
    verbs: ClassVar[Commands] = (Atrn,)
    table: ClassVar[Table] = Table(accepted={Atrn: {READY: REVERSED}})
    requires: ClassVar[Sequence[str]] = ("AUTH",)

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Refuse ATRN with 530 before AUTH (RFC 2645 5.2.1)."""
        return AUTH_FIRST if verb == "ATRN" and state.user is None else None
