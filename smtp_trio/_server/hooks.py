"""What the application says to a session: one method for each thing that can happen, every one with a default.

A hook answers with a `Reply`, or with None for "yes, the usual words". All hooks of a session run in its one task, one at a time.
An exception out of a hook is a bug in it: the client is told 451, the `error` hook is told the exception.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..protocol import Command, Expn, Extension, Hello, Help, Mail, Rcpt, Reply, Vrfy
from ..protocol.commands import VERBS
from ..protocol.extensions.auth import INVALID_CREDENTIALS, Credentials
from ..protocol.sasl import Secret

if TYPE_CHECKING:
    from .body import Body
    from .server import Server
    from .session import Session

#: A server without a `data` hook would lose every message that it took.
NOWHERE = Reply(554, "There is nowhere to put a message here", "5.3.0")


class Hooks:
    """Subclass it and override what you care for; or give plain async functions to `Server.on`.

    Those that may answer: `connect` (220, 4yz, 5yz), `message`, `helo`, `auth`, `mail`, `rcpt`, `data`, `vrfy`, `expn`, `help`. The
    others return None.
    """

    # --- the server's -----------------------------------------------------------------------------------------------

    async def start(self, server: Server) -> None:
        """The server is bound, and about to accept. An exception comes out of the ``serve`` call that began it."""

    async def stop(self, server: Server) -> None:
        """The last ``serve`` call has ended, cancelled or not. Shielded, for ``timeouts.disconnect`` seconds."""

    async def error(self, server: Server, error: Exception) -> None:
        """A hook or a session failed with this exception. It has been logged already."""

    # --- the session's ----------------------------------------------------------------------------------------------

    async def connect(self, session: Session) -> Reply | None:
        """A client has connected; the answer is the greeting (RFC 5321 3.1). A refusal leaves it nothing but QUIT."""
        return None

    async def disconnect(self, session: Session) -> None:
        """The session is over, however it ended: exactly once for every `connect`. Shielded, for ``timeouts.disconnect`` seconds."""

    async def timeout(self, session: Session) -> None:
        """The client was silent for too long, and is about to be told 421."""

    async def secured(self, session: Session) -> None:
        """TLS is up: by STARTTLS, or from the start. ``session.tls`` tells about it."""

    async def message(self, session: Session, command: Command) -> Reply | None:
        """Every well-formed command that is in order, before anything else is done about it.

        It may refuse any, and accept in the place of the command's own hook HELO, MAIL, RCPT, RSET, NOOP, VRFY, EXPN and HELP.
        """
        return None

    async def helo(self, session: Session, hello: Hello) -> Reply | None:
        """HELO or EHLO: the client says who it is (RFC 5321 4.1.1.1)."""
        return None

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        """Judge credentials that carry their own proof, such as a password (RFC 4954). None lets them in; the default does not.

        When ``credentials.authzid`` is not "" the client wants to act as somebody else: look at it.
        """
        return INVALID_CREDENTIALS

    async def secret(self, session: Session, user: str, mechanism: str) -> Secret | None:
        """The secret that is stored for a user, for mechanisms that never send it; None for an unknown user.

        For SCRAM-SHA-256 that is a `ScramSecret` (better, as no password can be had from it) or the password, for CRAM-MD5 the
        password. What the core makes up for an unknown user looks like a `ScramSecret` of 4096 iterations and a salt of 16 octets.
        """
        return None

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        """MAIL FROM: the sender of a new message (RFC 5321 4.1.1.2)."""
        return None

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        """RCPT TO: a recipient of it (RFC 5321 4.1.1.3). ``<Postmaster>`` must be taken (RFC 5321 4.5.1)."""
        return None

    async def data(self, session: Session, body: Body) -> Reply | None:
        """The message itself, by DATA or by BDAT. When this returns None or 2yz, the message is yours to keep.

        ``session.envelope`` tells whom it is from and for. The default refuses every message.
        """
        return NOWHERE

    async def vrfy(self, session: Session, command: Vrfy) -> Reply | None:
        """VRFY: is this a mailbox of yours? (RFC 5321 3.5)"""
        return None

    async def expn(self, session: Session, command: Expn) -> Reply | None:
        """EXPN: who is on this list? (RFC 5321 3.5) It is advertised when this hook is there, and 502 without it."""
        return None

    async def help(self, session: Session, command: Help) -> Reply | None:
        """HELP (RFC 5321 4.1.1.8)."""
        return None

    async def reset(self, session: Session) -> None:
        """RSET was answered, or an open transaction was lost in another way."""

    async def response(self, session: Session, reply: Reply) -> None:
        """Every reply, before it is queued. It cannot be changed any more."""


NAMES = tuple(name for name in vars(Hooks) if not name.startswith("_"))

#: A hook, ready to be called: its arguments follow the session (or the server).
Hook = Callable[..., Awaitable[Any]]


def hook_names(extensions: Iterable[Extension]) -> tuple[str, ...]:
    """Return the names of all hooks of a server: those of `Hooks`, and those that the commands of its extensions declare.

    Raises ValueError for a command that declares a hook of `Hooks` which takes something else than that command.
    """
    names = dict.fromkeys(NAMES)
    for extension in extensions:
        for command in extension.verbs:
            if command.hook in NAMES and VERBS.get(command.verb) is not command:
                raise ValueError(
                    f"{command.verb} declares the hook {command.hook!r}, which smtp_trio.Hooks has already"
                )
            if command.hook is not None:
                names[command.hook] = None
    return tuple(names)


def installed(hooks: Hooks, names: Iterable[str] = NAMES) -> dict[str, Hook]:
    """Return the hooks of these names that the application has written; the methods of `Hooks` itself are left out."""
    found = {name: getattr(hooks, name, None) for name in names}
    return {
        name: hook
        for name, hook in found.items()
        if hook is not None and getattr(hook, "__func__", None) is not getattr(Hooks, name, hook)
    }
