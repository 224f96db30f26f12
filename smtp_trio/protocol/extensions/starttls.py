"""STARTTLS, RFC 3207: upgrade the connection to TLS.

Adds the verb STARTTLS and the EHLO keyword of the same name, which is shown when the server has a certificate and the
connection does not use TLS yet. The setting ``required`` refuses all other commands with 530 until then (RFC 3207 4).
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from ..arguments import argument, check_type
from ..commands import Command
from ..dialogue import READY, PhaseEnum, Table
from ..extension import Commands, Extension
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value


class TlsPhase(PhaseEnum):
    """The phase that STARTTLS adds."""

    HANDSHAKE = "during the TLS handshake"


HANDSHAKE = TlsPhase.HANDSHAKE

GO_AHEAD = Reply(220, "Ready to start TLS", "2.0.0")
TLS_FIRST = Reply(530, "Must issue a STARTTLS command first", "5.7.0")
ALREADY_ACTIVE = Reply(503, "TLS is already active", "5.5.1")
NOT_CONFIGURED = Reply(502, "STARTTLS is not configured", "5.5.1")

#: Verbs that a server which requires TLS accepts without it (RFC 3207 4; LHLO is the EHLO of RFC 2033).
ALLOWED_BEFORE_TLS = frozenset({"EHLO", "LHLO", "NOOP", "QUIT", "STARTTLS"})


class StartTlsCommand(Command):
    """STARTTLS (RFC 3207 4)."""

    __slots__ = ()

    verb = "STARTTLS"
    usage = "STARTTLS"
    starts_tls = True
    work = 0  # a session has one handshake
    codes: ClassVar[frozenset[int]] = frozenset({220, 454, 501, 502, 503})
    default_reply: ClassVar[Reply] = GO_AHEAD


# STARTTLS resets the session. Everything before the handshake was sent in the clear, where an attacker between the two
# sides could change it, so nothing of it may have an effect afterwards (RFC 3207 4.2):
#
# * The 220 leads to the phase HANDSHAKE, in which no command is allowed. The core does not contain TLS: the caller
#   performs the handshake on the stream and then calls ``tls_started()`` on its protocol, which leads back to GREETED.
# * ``tls_started()`` clears the server's knowledge of the client (the EHLO domain, and with it the right to use
#   extensions) and the client's knowledge of the server (the extensions that it offers). Both start over with EHLO. The
#   greeting is not repeated.
# * Octets that were received with the STARTTLS line, or with its 220, are not processed after the handshake. Attackers
#   have injected commands that way (CVE-2011-0411), so the server refuses STARTTLS with 554 and closes when anything
#   follows the line (`Command.starts_tls`), and the client raises RemoteProtocolError when anything follows the reply.
# * It is allowed only in READY, between transactions. RFC 3207 does not require that, but the reset would discard an
#   open transaction without telling the client. Before EHLO it is refused with 503 as all verbs of extensions are, and
#   after a TLS handshake it is neither offered (a MUST NOT in RFC 3207 4.2) nor accepted.
#
# What the reset keeps is ``state.secure`` and the settings of the server.


@frozen(eq=False, repr=False)
class StartTls(Extension, Value):
    """TLS on the same connection (RFC 3207).

    ``required`` refuses all commands but NOOP, EHLO, STARTTLS and QUIT with 530 without TLS.
    """

    required: bool = field(default=False, validator=argument(check_type, bool))

    keyword = "STARTTLS"
    rfc = 3207
    verbs: ClassVar[Commands] = (StartTlsCommand,)
    table: ClassVar[Table] = Table(accepted={StartTlsCommand: {READY: HANDSHAKE}})

    def advertise(self, state: SessionState) -> str | None:
        """Return the keyword, or None without a certificate and when TLS is active (RFC 3207 4.2)."""
        return "STARTTLS" if state.tls and not state.secure else None

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Refuse STARTTLS where it cannot succeed, and, if TLS is required, other verbs before it."""
        if self.required and not state.secure and verb not in ALLOWED_BEFORE_TLS:
            return TLS_FIRST
        if verb == "STARTTLS" and state.secure:
            return ALREADY_ACTIVE
        if verb == "STARTTLS" and not state.tls:
            return NOT_CONFIGURED
        return None
