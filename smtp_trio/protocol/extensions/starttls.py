"""STARTTLS, RFC 3207: turn this connection into a TLS one."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from ..commands import Command
from ..dialogue import READY, PhaseEnum, Table
from ..extension import Commands, Extension
from ..replies import Reply
from ..session_state import SessionState


class TlsPhase(PhaseEnum):
    """The phase that STARTTLS brings along."""

    HANDSHAKE = "TLS handshake under way"


HANDSHAKE = TlsPhase.HANDSHAKE

GO_AHEAD = Reply(220, "Ready to start TLS", "2.0.0")
TLS_FIRST = Reply(530, "Must issue a STARTTLS command first", "5.7.0")
ALREADY = Reply(503, "TLS is active already", "5.5.1")
NOT_CONFIGURED = Reply(502, "STARTTLS is not configured here", "5.5.1")

# RFC 3207 4: a server that requires TLS answers everything else with 530, and never these.
ALWAYS = frozenset({"EHLO", "NOOP", "QUIT", "STARTTLS"})


class StartTlsCommand(Command):
    """STARTTLS (RFC 3207 4)."""

    __slots__ = ()

    verb = "STARTTLS"
    usage = "STARTTLS"
    starts_tls = True
    codes: ClassVar[frozenset[int]] = frozenset({220, 454, 501, 502, 503})
    default_reply: ClassVar[Reply] = GO_AHEAD


@frozen
class StartTls(Extension):
    """STARTTLS (RFC 3207). ``required``: nothing but NOOP, EHLO, STARTTLS and QUIT before it."""

    required: bool = False

    keyword = "STARTTLS"
    verbs: ClassVar[Commands] = (StartTlsCommand,)
    # Only between transactions, and only after EHLO has shown it. What comes next is the handshake, then a new beginning.
    table: ClassVar[Table] = Table(accepted={StartTlsCommand: {READY: HANDSHAKE}}, proceed={}, refused={})

    def advertise(self, state: SessionState) -> str | None:
        # RFC 3207 4.2: MUST NOT be shown once TLS is active.
        return "STARTTLS" if state.tls and not state.secure else None

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        if self.required and not state.secure and verb not in ALWAYS:
            return TLS_FIRST
        if verb == "STARTTLS" and state.secure:
            return ALREADY
        if verb == "STARTTLS" and not state.tls:
            return NOT_CONFIGURED
        return None
