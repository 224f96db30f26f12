"""`Hooks`: the base class of an application's hooks, with one method for each event of a session.

A hook replies with a `Reply`, or with None for the default reply. All hooks of a session run in its one task, one at a
time. An exception in a hook is an error of the application: the client gets 451, and the `error` hook gets the
exception.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, cast

from ..protocol import Command, Expn, Extension, Hello, Help, Mail, Rcpt, Reply, Vrfy
from ..protocol.commands import VERBS
from ..protocol.replies import INVALID_CREDENTIALS
from .hook_runner import NO_DATA_HOOK, Hook

if TYPE_CHECKING:
    from ..protocol.sasl import Credentials, Secret
    from .body import Body
    from .server import Server
    from .session import Session


class Hooks:
    """The hooks of a server. Override those that you need in a subclass, or install async functions with `Server.on`.

    These may reply: `connect`, `message`, `helo`, `auth`, `mail`, `rcpt`, `data`, `vrfy`, `expn` and `help`. The others
    return None.
    """

    # --- the server -------------------------------------------------------------------------------------------------

    async def start(self, server: Server) -> None:
        """Called when the server listens, before it accepts connections. An exception is raised from ``serve``."""

    async def stop(self, server: Server) -> None:
        """Called when the last ``serve`` has ended or was cancelled. Shielded, for ``timeouts.disconnect`` seconds."""

    async def error(self, server: Server, error: Exception) -> None:
        """Called with each exception of a hook or a session, after it was logged."""

    # --- a session --------------------------------------------------------------------------------------------------

    async def connect(self, session: Session) -> Reply | None:
        """Called when a client has connected, and again, after `disconnect`, when XCLIENT has named another one.

        The reply is the greeting (RFC 5321 3.1): 220, or 4yz or 5yz to refuse the client.
        """
        return None

    async def disconnect(self, session: Session) -> None:
        """Called exactly once for every `connect`, however the session ended.

        Shielded, for ``timeouts.disconnect`` seconds.
        """

    async def timeout(self, session: Session) -> None:
        """Called when the client was silent for too long, before the 421 (RFC 5321 4.5.3.2.7)."""

    async def secured(self, session: Session) -> None:
        """Called after a TLS handshake, by STARTTLS or implicit. ``session.tls`` has its result."""

    async def message(self, session: Session, command: Command) -> Reply | None:
        """Called for every command that is valid and in sequence, before its own hook.

        It may refuse any command. It may accept HELO, EHLO, MAIL, RCPT, RSET, NOOP, VRFY, EXPN and HELP; their own hook
        is not called then.
        """
        return None

    async def helo(self, session: Session, hello: Hello) -> Reply | None:
        """Called for HELO and EHLO, with the domain that the client states (RFC 5321 4.1.1.1)."""
        return None

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        """Called to check a password or a token (RFC 4954). None accepts them, which the default does not.

        When ``credentials.authzid`` is not empty, the client asks to act as that other user: check that it may.
        """
        return INVALID_CREDENTIALS

    async def secret(self, session: Session, user: str, mechanism: str) -> Secret | Reply | None:
        """Called for the stored secret of a user, for mechanisms that do not send it. None: the user is unknown.

        For SCRAM it is a `ScramSecret` for the hash function of the mechanism, from which no password can be computed,
        or the password; for CRAM-MD5 the password. A reply refuses the login: 432 if the user has no secret for this
        mechanism yet, 525 if the account is disabled (RFC 4954 6). It reveals that the user exists.

        An unknown user gets the same replies as one with a `ScramSecret` of 4096 iterations and a salt of 16 octets.
        """
        return None

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        """Called for MAIL FROM, the sender of a new message (RFC 5321 4.1.1.2)."""
        return None

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        """Called for each RCPT TO, a recipient (RFC 5321 4.1.1.3).

        ``<Postmaster>`` must be accepted (RFC 5321 4.5.1).
        """
        return None

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        """Called for a message, by DATA (RFC 5321 4.1.1.4) or BDAT (RFC 3030).

        None or 250 accepts the message; the application is then responsible for it. Before it accepts, the hook must
        read the body to its end or call ``await body.discard()``; otherwise the reply is 451. ``body`` is the whole
        message, header section included; ``body.envelope`` has the sender and the recipients. The default refuses
        every message.

        In LMTP each recipient gets a reply (RFC 2033 4.2): the one that the hook returns, or those in a list or tuple, one
        for each of ``body.envelope.rcpts`` in their order. None in it accepts the message for that recipient. With
        `Body.reply` it can send them one by one.
        """
        return NO_DATA_HOOK

    async def vrfy(self, session: Session, command: Vrfy) -> Reply | None:
        """Called for VRFY, which asks whether a mailbox exists (RFC 5321 3.5)."""
        return None

    async def expn(self, session: Session, command: Expn) -> Reply | None:
        """Called for EXPN, which asks for the members of a list (RFC 5321 3.5). Without this hook the reply is 502."""
        return None

    async def help(self, session: Session, command: Help) -> Reply | None:
        """Called for HELP (RFC 5321 4.1.1.8)."""
        return None

    async def reset(self, session: Session) -> None:
        """Called after RSET, and when an open transaction ended in another way than by a message."""

    async def response(self, session: Session, reply: Reply) -> None:
        """Called with every reply before it is queued. It cannot change the reply."""


NAMES = tuple(name for name in vars(Hooks) if not name.startswith("_"))
#: The hooks that are called for a server, and not for a session.
SERVER_HOOKS = ("start", "stop", "error")


def hook_names(extensions: Iterable[Extension]) -> tuple[str, ...]:
    """Return the names of all hooks of a server: those of `Hooks`, and those of the commands of its extensions.

    Raises ValueError for a command that declares a hook of `Hooks` which takes something else than that command.
    """
    names = dict.fromkeys(NAMES)
    for extension in extensions:
        for command in (*extension.verbs, *extension.continuations.values()):
            if command.hook in NAMES and not any(
                each.hook == command.hook and issubclass(command, each) for each in VERBS.values()
            ):
                raise ValueError(
                    f"{command.verb} declares the hook {command.hook!r}, which smtp_trio.Hooks already has"
                )
            if command.hook is not None:
                names[command.hook] = None
    return tuple(names)


# --- checking a subclass ----------------------------------------------------------------------------------------------
#
# A misspelt hook is not called, and the default reply accepts. So a subclass that filters recipients in `recpt` would
# accept them all without any sign of the mistake. `check_hooks` finds such a method when the server is created. Its
# rules have to catch likely mistakes without forbidding an application's own methods:
#
# * Names that begin with an underscore are the application's, and so are attributes that are not functions.
# * A method that overrides one of a class of this package is not a mistake: `put` of a store, for example.
# * A method whose first parameter is named ``session`` or ``server``, or ``_session``, has the form of a hook, also if
#   its ``async`` was forgotten. If its name is not that of a hook, the server would never call it, so it is refused. A
#   hook with another name for this parameter is not found: nothing else distinguishes it from an application's own
#   method.
# * Other methods are refused only if the name is similar to that of a hook, in upper or lower case, or with the
#   prefixes that other libraries use (``on_data``, ``handle_DATA``).
# * Functions that were assigned to the instance are hooks like methods, so the same rules apply to them.
#
# A plain ``def`` might return an awaitable, and would work as a hook then. For methods it is refused all the same,
# since ``async`` was more probably forgotten. `Server.on` accepts any callable except a plain function.
#
# A hook with too few or too many parameters would fail with each call, and the client would get 451. The numbers are those
# of the methods of `Hooks`. A hook of an extension gets the session and the command.

PREFIXES = ("on_", "handle_")
CUTOFF = 0.75


def check_hooks(hooks: Hooks, names: Collection[str]) -> None:
    """Check the methods of a subclass of `Hooks`, and the hooks that were assigned to the instance.

    :param names: what `hook_names` returned for the server.
    :raises TypeError: a hook is not an async function, or a method seems to be a misspelt hook.
    """
    mro = type(hooks).__mro__
    package = [cls for cls in mro if _of_package(cls)]

    def check_other(name: str, qualified: str, function: FunctionType | MethodType) -> None:
        """Raise TypeError for a function that is not a hook, but seems to be meant as one."""
        if name.startswith("_") or any(hasattr(each, name) for each in package):
            return
        match = similar_hook(name, names)
        if match is None and not _takes_session(function):
            return
        suggestion = f"; the hooks are {', '.join(names)}." if match is None else f": did you mean {match!r}?"
        raise TypeError(
            f"{qualified} is not a hook{suggestion} If it is a method of your own, begin its name with an underscore"
        )

    for cls in mro[: mro.index(Hooks)]:
        if _of_package(cls):
            continue
        for name, value in vars(cls).items():
            qualified = f"{cls.__qualname__}.{name}"
            function = getattr(value, "__func__", value)  # of a static or class method
            if name in names:
                if not inspect.iscoroutinefunction(function):
                    raise TypeError(f"{qualified} must be an async function, since hooks are awaited: use `async def`")
            elif inspect.isfunction(function):
                check_other(name, qualified, value.__get__(hooks, cls))  # bound, so without its ``self``
    for name, value in getattr(hooks, "__dict__", {}).items():
        if name in names:
            check_function(name, value)
        elif inspect.isfunction(value) or inspect.ismethod(value):
            check_other(name, f"the attribute {name} of {type(hooks).__qualname__}", value)


def check_function(name: str, hook: object) -> None:
    """Raise TypeError for a hook that is not callable, or is a plain function.

    Other callables, such as a `functools.partial` of an async function, may return awaitables.
    """
    function = hook
    while isinstance(function, partial):
        function = function.func
    plain = (inspect.isfunction(function) or inspect.ismethod(function)) and not inspect.iscoroutinefunction(function)
    if plain or not callable(function):
        raise TypeError(f"the {name} hook must be an async function, got {hook!r}")
    check_parameters(name, hook)


def check_parameters(name: str, hook: object) -> None:
    """Raise TypeError for a hook that cannot be called with the arguments that a server passes."""
    own = getattr(Hooks, name, None)
    expected = ("session", "command") if own is None else tuple(inspect.signature(own).parameters)[1:]
    try:
        # Not that of a function that a decorator has wrapped, which it may call with other arguments.
        signature = inspect.signature(cast("Hook", hook), follow_wrapped=False)
    except ValueError:  # a callable of an extension in C may have none
        return
    try:
        signature.bind(*expected)
    except TypeError:
        raise TypeError(
            f"the {name} hook must take ({', '.join(expected)}), but its parameters are {signature}"
        ) from None


def similar_hook(name: str, names: Iterable[str]) -> str | None:
    """Return the hook that ``name`` is probably a misspelling of, or None."""
    from difflib import get_close_matches  # which few applications need

    name = name.lower()
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return next(iter(get_close_matches(name, list(names), n=1, cutoff=CUTOFF)), None)


def _of_package(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _takes_session(function: FunctionType | MethodType) -> bool:
    parameters = iter(inspect.signature(function).parameters)
    return next(parameters, "").lstrip("_") in ("session", "server")


def load_hooks(hooks: Hooks, extensions: Iterable[Extension]) -> dict[str, Hook]:
    """Check the hooks of an application, and return those that it has overridden, by name.

    :raises TypeError: ``hooks`` is not an instance of `Hooks`; see also `check_hooks`.
    """
    if not isinstance(hooks, Hooks):
        raise TypeError(f"hooks must be an instance of smtp_trio.Hooks, got {hooks!r}")
    names = hook_names(extensions)
    check_hooks(hooks, names)
    found = installed(hooks, names)
    for name, hook in found.items():
        check_parameters(name, hook)
    return found


def check_server_hooks(functions: Mapping[str, Hook], hooks: Hooks) -> None:
    """Check the hooks of one ``serve`` against those of the server, which calls its own `start`, `stop` and `error`.

    A store opens its files in `start`, so one whose `start` is not called would fail with the first message.

    :raises ValueError: ``functions`` has one of the three that is not that of ``hooks``.
    """
    for name in SERVER_HOOKS:
        if name in functions and functions[name] != getattr(hooks, name):
            raise ValueError(
                f"the {name} hook of the hooks of one port would not be called: it belongs to the server, so it must be "
                "that of the hooks that the Server was created with"
            )


def installed(hooks: Hooks, names: Iterable[str] = NAMES) -> dict[str, Hook]:
    """Return the hooks that were overridden, by name.

    The methods of `Hooks` itself are left out, so that a hook that is not used costs nothing.
    """
    found = {name: getattr(hooks, name, None) for name in names}
    return {
        name: hook
        for name, hook in found.items()
        if hook is not None and getattr(hook, "__func__", None) is not getattr(Hooks, name, hook)
    }
