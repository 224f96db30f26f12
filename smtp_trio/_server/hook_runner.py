"""Runs the hooks of one session: under a deadline, with their replies validated and their exceptions reported."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import trio

from .._timeouts import DEADLINE_SLACK, LARGEST_SLACK
from ..protocol import (
    BadCommandError,
    BodyError,
    Command,
    Data,
    EndOfData,
    Noop,
    Reply,
    Rset,
)
from ..protocol.commands import COMMON_CODES
from ..protocol.extensions.auth import TRY_LATER, AuthCommand
from ..protocol.replies import INVALID_CREDENTIALS, LOCAL_ERROR
from .observed import Observed, Observer

if TYPE_CHECKING:
    from ..protocol.sasl import Secret

#: A hook that is ready to be called, with the session (or the server) and the hook's further arguments.
Hook = Callable[..., Awaitable[Any]]
#: A function that goes on with the connection of a session.
Successor = Callable[[trio.abc.Stream], Awaitable[object]]

#: The reply to a message if the server has no `data` hook: accepting the message would lose it.
NO_DATA_HOOK = Reply(554, "Message delivery is not configured", "5.3.0")
#: The frequent hooks, which run for every message. They share the session's cancel scope instead of having one each;
#: see "The cancel scope of a session" in session_task.py.
FREQUENT = frozenset({"mail", "rcpt", "data"})
#: The reply of a hook that is not installed, where that is not None.
DEFAULTS: dict[str, Reply] = {"data": NO_DATA_HOOK, "auth": INVALID_CREDENTIALS}
#: Commands that the `message` hook may accept, besides those that have a hook of their own. The others transfer octets
#: or start an exchange, which only the session can do.
MESSAGE_ACCEPTS = (Rset, Noop)
#: Seconds after which replies that are held back are sent before a further hook runs.
MAX_HOLD = 1


# How a hook is run
#
# An application's hook may raise, hang, return an invalid value or reply twice. In each case the command is refused.
# The client gets the reply ``failure``, usually 451, which allows it to try again later. The exception goes to the
# `error` hook and the log and never to the client, since its text may be confidential, and the session goes on. A
# `BodyError` is treated differently: the message itself is the cause, so it is not reported, and `Transaction.conclude`
# chooses the reply.
#
# A reply can be returned or recorded (`settle`). It is validated when the hook has ended, so after an exception a reply
# that was recorded before it is ignored: a hook that records success and then fails to commit has not succeeded.
# Validation uses the table of codes of the command (RFC 5321 4.3.2), since the reaction of a client to any other code
# is not defined.
#
# Hooks nest: a read of the body in `data` may send a 250 for a chunk, which calls `response`. The command that may be
# replied to, the reply and the scope belong to the innermost hook; `call` keeps those of the outer one in local
# variables and restores them.
#
# Each hook has a deadline. The frequent ones use the scope of the session, which is explained in session_task.py, and the
# others one of their own. The deadline of a frequent hook can pass in two ways: the hook is cancelled, which
# `SessionTask.run` sees, or it returns without another checkpoint. In the second case `call` makes one, which raises
# Cancelled; so both ways lead to the same code.
#
# The replies to a pipelined group are held back until the whole group is processed (RFC 2920 3.2). A client has a timer
# for each of them (RFC 5321 4.5.3.2), and the hooks of a group, each within its limit, may together take longer than
# that. So `began` keeps when the first hook of the group was called, and if that is more than MAX_HOLD seconds ago, the
# replies so far are sent before the next hook. Thus none is held for longer than MAX_HOLD and one hook, and a group
# whose hooks are quick has one write.


class ErrorReporter(Protocol):
    """The part of a session's task that a `HookRunner` uses."""

    async def report(self, hook: str, error: Exception) -> None: ...
    async def flush(self) -> None: ...


class InstalledHooks(Protocol):
    """The part of a `HookTable` that a `HookRunner` uses."""

    hooks: dict[str, Hook]
    unhooked: frozenset[type[Command]]
    unhooked_if_skipped: frozenset[type[Command]]


class MessageObserver(Observer, Protocol):
    """The message that a data hook is called for."""

    def keep_replies(self, answer: Sequence[Reply | None]) -> Reply: ...


class _Ended:
    """The reporter of a session that has ended."""

    async def report(self, hook: str, error: Exception) -> None:
        """Do nothing."""

    async def flush(self) -> None:
        """Do nothing."""


ENDED: ErrorReporter = _Ended()


class HookRunner:
    """The hooks of one session.

    The session's task uses `call`. Hooks use `settle`, through the methods of their `Session`, to record a reply.
    """

    __slots__ = (
        "_command",
        "_due",
        "_hook_scope",
        "_lazy",
        "_limit",
        "_reporter",
        "_settled",
        "_table",
        "allowed",
        "began",
        "has_message",
        "has_response",
        "installed",
        "now",
        "overdue",
        "provided",
        "running",
        "scope",
        "successor",
        "unhooked",
    )

    def __init__(self, table: InstalledHooks, *, limit: float, reporter: ErrorReporter) -> None:
        self._table = table
        self.installed: dict[str, Hook] = table.hooks
        self.skip_command_hooks(skip=False)
        #: Returns the time of the clock of this run. `trio.current_time` calls it through two other functions, which is two
        #: thirds of the time that it takes, and a message needs the time about five times.
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        #: The session's scope, which `SessionTask.run` sets, and replaces after it has been cancelled.
        self.scope: trio.CancelScope
        #: The frequent hook that is running, whose deadline is that of ``scope``, and the reply in case it is late.
        self.running: tuple[str, Reply] | None = None
        #: The seconds that it may take.
        self.allowed: float = limit
        #: The deadline of the running hook, if that of ``scope`` is later: see `_move`. Otherwise infinity.
        self._due = math.inf
        #: A deadline that is later than that of the running hook stays, until the hook is going to wait.
        self._lazy = False
        #: The last frequent hook returned after its deadline, so ``scope`` is cancelled.
        self.overdue: bool = False
        #: When the first hook was called since the session last waited for a command; infinity if none was.
        self.began: float = math.inf
        #: What the burl hook has provided (`Session.provide`).
        self.provided: bytes | AsyncIterable[bytes] | None = None
        #: The function that goes on with the connection after ATRN (`Session.take_over`).
        self.successor: Successor | None = None
        self._limit = limit
        self._reporter = reporter
        self._hook_scope: trio.CancelScope | None = None  # of the innermost hook that is running
        self._command: Command | None = None  # the command that the running hook may reply to
        self._settled: Reply | None = None  # the reply that it recorded

    def skip_command_hooks(self, *, skip: bool) -> None:
        """Skip the `message` and `response` hooks, which run for each command, or call them again.

        For a layer in which they have nothing to do at present, and which has found that they are its own. This takes
        effect with the next command.
        """
        #: Whether the `message` and `response` hooks are called. Looked up once, since each command needs it.
        self.has_message: bool = "message" in self.installed and not skip
        self.has_response: bool = "response" in self.installed and not skip
        #: The commands whose default reply is queued at once.
        self.unhooked: frozenset[type[Command]] = self._table.unhooked_if_skipped if skip else self._table.unhooked

    # --- replies that a hook records --------------------------------------------------------------------------------

    def command(self) -> Command:
        """Return the command that the running hook may reply to. Raises RuntimeError in a hook without a command."""
        if self._command is None:
            raise RuntimeError("there is no command to reply to in this hook")
        return self._command

    def settle(self, reply: Reply) -> None:
        """Record the reply of the running hook.

        Raises RuntimeError if the hook has recorded one before, or has no command to reply to.
        """
        command = self.command()
        if self._settled is not None:
            raise RuntimeError(f"{command.verb} already has a reply, {self._settled}; cannot reply {reply}")
        self._settled = reply

    @property
    def settled(self) -> Reply | None:
        """The reply that the running hook has recorded so far."""
        return self._settled

    # --- calls ------------------------------------------------------------------------------------------------------

    async def stored_secret(self, session: object, user: str, mechanism: str) -> Secret | None:
        """Call the `secret` hook.

        Raises `BadCommandError` with 454 when it fails, which differs from an unknown user (None), and with the reply
        that the hook returned.
        """
        found: list[Secret | Reply | None] = []
        await self.call("secret", session, user, mechanism, found=found)
        if not found:
            raise BadCommandError(TRY_LATER)
        if isinstance(found[0], Reply):
            raise BadCommandError(found[0])
        return found[0]

    async def call(
        self,
        name: str,
        session: object,
        *args: Any,
        command: Command | None = None,
        failure: Reply = LOCAL_ERROR,
        found: list[Secret | Reply | None] | None = None,
        observer: MessageObserver | None = None,
        since: float | None = None,
    ) -> Reply | None:
        """Call a hook if it is installed; return its reply, or None for the default one.

        An exception, a late hook and an invalid reply are reported to the `error` hook, and ``failure`` is the reply
        instead: a hook that fails must never accept anything.

        :param command: the command that the hook may reply to; None when it cannot reply.
        :param found: receives what the `secret` hook returned, the one hook that returns something other than a reply.
        :param observer: for the data hook, the message: called before the hook waits (see `Observed`), and with the
            replies of a hook that returns one for each recipient.
        :param since: when the time of a frequent hook begins; now by default.
        """
        hook = self.installed.get(name)
        if hook is None:
            return DEFAULTS.get(name)
        # Without a `message` hook, the time of a data hook has begun just now.
        now = self.now() if since is None or self.has_message else since
        if self.began > now:
            self.began = now
        elif now - self.began > MAX_HOLD and self._hook_scope is None:
            await self._reporter.flush()
            self.began = now = self.now()
        outer = self._command, self._settled, self._hook_scope
        self._command, self._settled = command, None
        limit = self._limit
        # A hook that is called within another, such as `response` during a read of the body, has a scope of its own.
        frequent = name in FREQUENT and self._hook_scope is None
        try:
            if frequent:
                # See "The cancel scope of a session" in session_task.py, which also handles the late hook.
                self.running = name, failure
                self._hook_scope = self.scope
                self.allowed = limit
                self._lazy = observer is not None
                self._move((now if since is None else since) + limit, limit)
                call = hook(session, *args)
                answer = await (call if observer is None else Observed(call, observer))
            else:
                if self.running is None:
                    self.disarm()
                with trio.move_on_after(limit) as self._hook_scope:
                    answer = await hook(session, *args)
                if self._hook_scope.cancelled_caught:
                    raise self.late(name, limit)
            if found is not None:
                answer = keep_secret(answer, found)
                if answer is not None:
                    raise answer
            result = None if command is None else self._validated(name, command, answer, observer)
        except Exception as exc:
            self.arm()
            try:
                if (bug := without_body_error(exc)) is not None:
                    await self._reporter.report(name, bug)
            finally:
                bug = None  # its traceback refers to this frame: a cycle that would keep the session
            result = failure if command is not None else None
        finally:
            self._command, self._settled, self._hook_scope = outer
        if frequent:
            if self._due != math.inf:  # it did not wait, so it can be late only if it blocked
                if self._due <= self.now():
                    self.arm()
                self._due = math.inf
            self.overdue = self.scope.cancel_called
            # If a late data hook has read all of its message, its reply is sent: a client that got 451 for the message
            # would send it again.
            if self.overdue and not (name == "data" and args[0].complete):
                await trio.lowlevel.checkpoint()  # raises Cancelled: the hook returned without a checkpoint after it
            self.running = None
        return result

    async def report_early_return(self) -> None:
        """Report that the `data` hook accepted a message that it had not read to its end."""
        hook = self.installed["data"]
        error = RuntimeError(
            f"{getattr(hook, '__qualname__', hook)}, the data hook, accepted a message before it had read all of it: "
            "read it to its end, or call `await body.discard()`"
        )
        await self._reporter.report("data", error)

    async def report_missing_replies(self, missing: int) -> Reply:
        """Report that the `data` hook has replied for some recipients only, and return the reply for the others."""
        error = RuntimeError(f"the data hook returned None, but {missing} recipients have no reply")
        await self._reporter.report("data", error)
        return LOCAL_ERROR

    def end(self) -> None:
        """Drop the reference to the session's task, which refers to this object: the session has ended."""
        self._reporter = ENDED

    def late(self, name: str, seconds: float) -> trio.TooSlowError:
        """Return the exception to report for a hook that took too long."""
        return trio.TooSlowError(f"the {name} hook took more than {seconds} s")

    def extend(self, seconds: float) -> None:
        """Allow the frequent hook that is running to take ``seconds`` instead of its limit, if that is more.

        They count from the last start of its clock, since the peer may wait for a reply since then.
        """
        if seconds > self._limit:
            deadline = min(self.scope.deadline, self._due) - self._limit + seconds
            self._lazy, self.allowed = False, seconds
            self._move(deadline, seconds)
        else:
            self.arm()

    def checked(self, name: str, command: Command, reply: Reply | None) -> Reply | None:
        """Return a reply that a hook has given while it runs. Raises an exception as for one that it returns."""
        return self._validated(name, command, reply)

    def _validated(
        self, name: str, command: Command, answer: object, observer: MessageObserver | None = None
    ) -> Reply | None:
        """Return the hook's reply. Raises an exception for one that ``command`` may not have (RFC 5321 4.3.2).

        If a data hook has returned several, the ``observer`` keeps them and chooses the one that stands for them.
        """
        if self._settled is not None:
            if answer is not None:
                raise RuntimeError(f"the {name} hook recorded {self._settled} and also returned {answer}")
            answer = self._settled
        if answer is None:
            return None
        if not isinstance(answer, Reply):
            if observer is not None and isinstance(answer, list | tuple):
                return observer.keep_replies([self._validated(name, command, each) for each in answer])
            raise TypeError(f"the {name} hook must return a Reply or None, got {answer!r}")
        codes = EndOfData.codes if isinstance(command, Data) else command.codes
        if answer.code not in codes and answer.code not in COMMON_CODES:
            raise ValueError(f"the {name} hook replied {answer.code} to {command.verb}, for which it is not valid")
        if name == "message" and answer.accepted and command.hook is None and not isinstance(command, MESSAGE_ACCEPTS):
            raise ValueError(f"the message hook cannot accept {command.verb}")
        return answer

    # --- the hook clock ---------------------------------------------------------------------------------------------

    # A message would cost three changes of the deadline of the session's scope, of 3 µs each: when its `data` hook begins, when
    # it has received the message, and when it waits after that. In a session with many messages, the scope still has the
    # deadline of the message before, which is later than that of the hook. This does no harm until the hook waits for something
    # other than the client. So the deadline of a `data` hook is kept in `_due`, and its observer calls `arm` before the hook
    # waits. Usually the message has been received by then, so the hook has `Timeouts.end`, as the one before had. That deadline
    # is hardly later than the one of the scope, which therefore stays (`_move`).

    def _move(self, deadline: float, seconds: float) -> None:
        """Let the running frequent hook, which may take so many seconds, be late at ``deadline``."""
        scope, self._due = self.scope, math.inf
        if scope.deadline > deadline and self._lazy:
            self._due = deadline
        elif not 0 <= deadline - scope.deadline <= min(seconds * DEADLINE_SLACK, LARGEST_SLACK):
            scope.deadline = deadline

    def arm(self) -> None:
        """Set the deadline of the running hook, which is going to wait, if that was not necessary before."""
        self._lazy = False
        if self._due != math.inf:
            self.scope.deadline, self._due = self._due, math.inf

    def disarm(self) -> None:
        """Remove the deadline of the session's scope before a wait that has a deadline of its own, or none."""
        self._due = math.inf
        if self.scope.deadline != math.inf:
            self.scope.deadline = math.inf

    def pause_clock(self, now: float, wait: float) -> None:
        """Stop the clock of the running hook, which is going to wait up to ``wait`` seconds for the peer.

        A deadline that cannot pass during that wait need not be moved.
        """
        scope = self._hook_scope
        if scope is self.scope and self._due - now <= wait:
            self._due = math.inf
        if scope is not None and scope.deadline - now <= wait:
            scope.deadline = math.inf

    def restart_clock(self) -> None:
        """Restart the clock of the running hook from zero."""
        scope = self._hook_scope
        if scope is self.scope:
            self._move(self.now() + self._limit, self._limit)
        elif scope is not None:
            scope.deadline = self.now() + self._limit


def keep_secret(answer: object, found: list[Secret | Reply | None]) -> Exception | None:
    """Append what the `secret` hook returned to ``found``; return the exception to raise if that is not a secret.

    It is not raised here: the value may be a secret, which would be in the frames of a traceback.
    """
    from ..protocol.sasl import ScramSecret

    if answer is None or isinstance(answer, str | ScramSecret):
        found.append(answer)
        return None
    if isinstance(answer, Reply):
        if not answer.refused or answer.code not in AuthCommand.codes | COMMON_CODES:
            return ValueError(f"the secret hook replied {answer.code} to AUTH, for which it is not valid")
        found.append(answer)
        return None
    return TypeError(f"the secret hook must return a str, a ScramSecret, a Reply or None, got {type(answer).__name__}")


def without_body_error(exc: Exception) -> Exception | None:
    """Return the exception without any `BodyError` in it, or None if nothing else remains.

    A body that ended early is not an error of the hook.
    """
    if isinstance(exc, BodyError):
        return None
    if isinstance(exc, ExceptionGroup):
        return exc.split(BodyError)[1]
    return exc
