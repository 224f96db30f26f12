"""XCLIENT of Postfix (https://www.postfix.org/XCLIENT_README.html): a proxy names the client for which it connects.

Adds the verb XCLIENT and the EHLO line ``XCLIENT`` with the names of the attributes. Only clients that the server trusts
may use it (`SessionState.trusted`); to others it is neither offered nor allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from attrs import frozen

from ..attributes import AttributeCommand
from ..commands import Command, Connect
from ..dialogue import GREETED, READY, REJECTED, Table
from ..extension import Commands, Extension
from ..replies import Reply
from ..session_state import SessionState
from ..values import Value

NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
NOT_AUTHORIZED = Reply(550, "Not authorized to use XCLIENT", "5.7.0")

# A positive reply is a greeting, 220, and the session begins anew for the client that was named, without EHLO and
# user except for those that the proxy has stated. TLS stays.
#
# A line has at most 512 octets, so a proxy may send the attributes with several commands, before or after another EHLO.
# The last of them has ADDR. From then on the session is that of the client: a proxy that passes on what the client sends
# cannot be distinguished from the client, so the client's own address decides whether it may use XCLIENT, as in Postfix
# (``smtpd_authorized_xclient_hosts`` is matched again). If it may, because it is a proxy too, its XCLIENT names another
# client, which has none of the attributes of the one before (`attributes_after`). So neither a user nor a name is passed
# from one client to the next.
#
# The following attributes have effects. The others are only recorded in `SessionState.client`.
#
#   LOGIN    The user, as if AUTH had succeeded. Without it the session is not authenticated, even if the proxy was: its
#            rights are not those of its clients.
#   HELO     The name in the client's EHLO. It replaces the one in the EHLO of the proxy, which comes after XCLIENT.
#
# The caller replaces the address by ADDR, PORT and NAME, and then calls `ServerProtocol.client_changed`; addresses are
# not a part of the core.


@frozen(eq=False, repr=False)
class XclientCommand(AttributeCommand):
    """XCLIENT attribute=value ..."""

    verb = "XCLIENT"
    usage = "XCLIENT attribute=value..."
    names: ClassVar[tuple[str, ...]] = NAMES
    choices: ClassVar[Mapping[str, frozenset[str]]] = {"PROTO": frozenset({"SMTP", "ESMTP"})}
    after_ehlo = False
    restarts = True
    codes: ClassVar[frozenset[int]] = Connect.codes
    default_reply: ClassVar[Reply] = Connect.default_reply


def attributes_after(earlier: Mapping[str, str | None], command: AttributeCommand) -> Mapping[str, str | None]:
    """Return the attributes of the client after a command, given those that earlier ones have stated."""
    return command.attributes if "ADDR" in earlier else {**earlier, **command.attributes}


def begin_session(state: SessionState, command: AttributeCommand) -> None:
    """Begin the session anew for the client that a command names. A caller may do so before the reply, for its hooks."""
    attributes = attributes_after(state.client, command)
    state.reset()
    state.client, state.user, state.renewed = attributes, attributes.get("LOGIN"), True


@frozen(eq=False, repr=False)
class Xclient(Extension, Value):
    """The client for which a proxy connects (Postfix).

    ``attributes`` are the names of those that a server accepts. A server offers it to the networks of its ``xclient_from``.
    """

    attributes: tuple[str, ...] = NAMES

    keyword = "XCLIENT"
    verbs: ClassVar[Commands] = (XclientCommand,)
    table: ClassVar[Table] = Table(
        accepted={XclientCommand: {GREETED: GREETED, READY: GREETED}},
        refused={XclientCommand: {GREETED: REJECTED, READY: REJECTED}},
    )

    def advertise(self, state: SessionState) -> str | None:
        """Return the EHLO line, or None for a client that is not trusted."""
        return " ".join([self.keyword, *self.attributes]) if self.keyword in state.trusted else None

    def parse_offer(self, words: Sequence[str]) -> Xclient:
        """Return an extension with the attributes that the server accepts."""
        return Xclient(tuple(word.upper() for word in words))

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        """Refuse XCLIENT of a client that is not trusted."""
        return NOT_AUTHORIZED if verb == self.keyword and self.keyword not in state.trusted else None

    def accepted(self, command: Command, state: SessionState) -> None:
        """Begin the session anew, unless the caller has done so."""
        assert isinstance(command, XclientCommand)
        if not state.renewed:
            begin_session(state, command)
        state.renewed = False
