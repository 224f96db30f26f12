"""How a hook is called: with a deadline, with a way to settle its answer, and with nothing it does going unnoticed.

Deadlines are the costly part: to enter a scope costs as much as all our work on a command does. So the hooks that run for every
message share the one scope that a session has around everything, and only the rare ones get a scope of their own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from .._timeouts import DEADLINE_SLACK
from ..protocol import (
    BadCommandError,
    BodyError,
    Command,
    Data,
    EndOfBody,
    Expn,
    Hello,
    Help,
    Mail,
    Noop,
    Rcpt,
    Reply,
    Rset,
    Vrfy,
)
from ..protocol.commands import COMMON_CODES
from ..protocol.extensions.auth import INVALID_CREDENTIALS, TRY_LATER
from ..protocol.replies import LOCAL_ERROR
from ..protocol.sasl import ScramSecret, Secret
from .hooks import NOWHERE, Hook

if TYPE_CHECKING:
    from .server import Server

#: The hooks that run for every message.
FREQUENT = frozenset({"mail", "rcpt", "data"})
#: What the default of a hook would say, where that is not None.
HOOKLESS: dict[str, Reply] = {"data": NOWHERE, "auth": INVALID_CREDENTIALS}
#: What `Hooks.message` may accept by itself: nothing that moves octets or opens a dialogue of its own.
MESSAGE_ACCEPTS = (Hello, Mail, Rcpt, Rset, Noop, Vrfy, Expn, Help)


class HookRunner:
    """The part of a session that calls the application's hooks (of `Session`, which see)."""

    __slots__ = (
        "__weakref__",
        "_deciding",
        "_hook_scope",
        "_settled",
        "consults",
        "hooks",
        "id",
        "overdue",
        "running",
        "scope",
        "server",
        "tells",
    )

    def __init__(self, server: Server, identity: str) -> None:
        self.server: Server = server
        self.id: str = identity
        self.hooks: dict[str, Hook] = server.installed
        #: Whether `Hooks.message` and `Hooks.response` are there: looked up for every command, so looked up once.
        self.consults: bool = "message" in self.hooks
        self.tells: bool = "response" in self.hooks
        #: Around everything that is done for the client: its deadline is the client's, or that of the hook which runs.
        self.scope: trio.CancelScope = trio.CancelScope()
        #: The frequent hook that runs, which the scope's deadline is for, and what comes of being late.
        self.running: tuple[str, Reply] | None = None
        #: The last of the frequent hooks was late, and the scope has been cancelled for it.
        self.overdue: bool = False
        self._hook_scope: trio.CancelScope | None = None
        self._deciding: Command | None = None  # what the running hook may answer
        self._settled: Reply | None = None

    # --- what the hook may say ---------------------------------------------------------------------------------------

    def success(self, text: str | None = None) -> None:
        """Answer the command under way with its usual reply, in other words if given. It leaves when the hook ends."""
        usual = self.default_reply(self._may_settle())
        self._settle(usual if text is None else Reply(usual.code, text, usual.status))

    def failure(self, code: int, text: str, status: str | None = None) -> None:
        """Refuse the command under way. Raises ValueError for a code that is no refusal."""
        if not 400 <= code <= 599:
            raise ValueError(f"{code} is no refusal: 4yz or 5yz is")
        self._settle(Reply(code, text, status))

    def send(self, code: int, text: str, status: str | None = None) -> None:
        """Answer the command under way with any code that it may have."""
        self._settle(Reply(code, text, status))

    def _may_settle(self) -> Command:
        if self._deciding is None:
            raise RuntimeError("there is no command to answer here")
        return self._deciding

    def _settle(self, reply: Reply) -> None:
        command = self._may_settle()
        if self._settled is not None:
            raise RuntimeError(f"{command.verb} was answered twice: {self._settled} and {reply}")
        self._settled = reply

    def default_reply(self, command: Command) -> Reply:
        """What a command is answered with when nobody has another idea."""
        raise NotImplementedError

    def body_is_due(self) -> bool:
        """The message under way was taken whole: its hook is not late, however long it took."""
        raise NotImplementedError

    # --- the calls ---------------------------------------------------------------------------------------------------

    async def consult(self, command: Command) -> Reply | None:
        """Ask `Hooks.message`."""
        return await self.call("message", command, decides=command) if self.consults else None

    async def stored_secret(self, user: str, mechanism: str) -> Secret | None:
        """Ask `Hooks.secret`. Raises `BadCommandError` (454) when the hook fails: that is no unknown user."""
        found: list[Secret | None] = []
        await self.call("secret", user, mechanism, found=found)
        if not found:
            raise BadCommandError(TRY_LATER)
        return found[0]

    async def call(
        self,
        name: str,
        *args: Any,
        decides: Command | None = None,
        failure: Reply = LOCAL_ERROR,
        found: list[Secret | None] | None = None,
    ) -> Reply | None:
        """Call a hook if somebody wrote it. Whatever goes wrong in it becomes ``failure``, and is told to the `error` hook.

        ``found`` is given the answer of the one hook that answers with something else than a reply.
        """
        hook = self.hooks.get(name)
        if hook is None:
            return HOOKLESS.get(name)
        outer = self._deciding, self._settled, self._hook_scope
        self._deciding, self._settled = decides, None
        limit = self.server.timeouts.hook
        frequent = name in FREQUENT and self._hook_scope is None
        try:
            if frequent:
                # A scope costs as much as all our work on a command. The session's own is at hand, so `run` sees to a late hook.
                self.running = name, failure
                self._hook_scope = self.scope
                deadline = trio.current_time() + limit
                if not 0 <= deadline - self.scope.deadline <= DEADLINE_SLACK:
                    self.scope.deadline = deadline
                answer = await hook(self, *args)
            else:
                if self.running is None:
                    self.disarm()
                with trio.move_on_after(limit) as self._hook_scope:
                    answer = await hook(self, *args)
                if self._hook_scope.cancelled_caught:
                    raise self.late(name)
            result = None if decides is None else self._checked(name, decides, answer)
            if found is not None:
                found.append(checked_secret(answer))
        except Exception as exc:
            if (bug := without_body_error(exc)) is not None:
                await self.server.report(bug, f"{self.id}: {name} hook failed")
            result = failure if decides is not None else None
        finally:
            self._deciding, self._settled, self._hook_scope = outer
        if frequent:
            self.overdue = self.scope.cancel_called
            if self.overdue and not self.body_is_due():
                await trio.lowlevel.checkpoint()  # it was late, and has not noticed
            self.running = None
        return result

    def late(self, name: str) -> trio.TooSlowError:
        """What a hook did that took too long."""
        return trio.TooSlowError(f"the {name} hook took more than {self.server.timeouts.hook} s")

    def _checked(self, name: str, command: Command, answer: Reply | None) -> Reply | None:
        """The hook's answer, if it is one that this command may get (RFC 5321 4.3.2)."""
        if self._settled is not None:
            if answer is not None:
                raise RuntimeError(f"the {name} hook settled {self._settled} and returned {answer} as well")
            answer = self._settled
        if answer is None:
            return None
        if not isinstance(answer, Reply):
            raise TypeError(f"the {name} hook returned {answer!r}; it must be a Reply or None")
        codes = EndOfBody.codes if isinstance(command, Data) else command.codes
        if answer.code not in codes and answer.code not in COMMON_CODES:
            raise ValueError(f"the {name} hook answered {command.verb} with {answer.code}, which that may not have")
        if name == "message" and answer.accepted and not isinstance(command, MESSAGE_ACCEPTS):
            raise ValueError(f"the message hook cannot accept {command.verb}")
        return answer

    # --- the clock --------------------------------------------------------------------------------------------------

    def disarm(self) -> None:
        """Whatever comes now is not the peer's silence.

        Moving a scope's deadline costs as much as parsing a command does. So between commands that are answered at once the scope
        keeps the deadline of an earlier one. When that passes, `Session.run` sees that it was not meant, and goes on.
        """
        if self.scope.deadline != math.inf:
            self.scope.deadline = math.inf

    def stop_hook_clock(self, now: float, wait: float) -> None:
        """The hook waits for the peer, which is not its fault. What cannot run out during that wait needs no stopping."""
        scope = self._hook_scope
        if scope is not None and scope.deadline - now <= wait:
            scope.deadline = math.inf

    def start_hook_clock(self, waited: float) -> None:
        """The hook works again, and its time begins anew; what it lost in the blink of an eye is not worth the trouble."""
        scope = self._hook_scope
        if scope is not None and (waited > DEADLINE_SLACK or scope.deadline == math.inf):
            scope.deadline = trio.current_time() + self.server.timeouts.hook


def checked_secret(answer: object) -> Secret | None:
    """What the `secret` hook returned, if it is a secret."""
    if answer is None or isinstance(answer, str | ScramSecret):
        return answer
    raise TypeError(f"the secret hook returned {type(answer).__name__}; it must be a str, a ScramSecret or None")


def without_body_error(exc: Exception) -> Exception | None:
    """What is left of an exception when `BodyError`, which is nobody's bug, is taken out of it."""
    if isinstance(exc, BodyError):
        return None
    if isinstance(exc, ExceptionGroup):
        return exc.split(BodyError)[1]
    return exc
