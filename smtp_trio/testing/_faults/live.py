"""The rules of `FaultRules` in the sessions of servers.

Rules are added and removed while sessions run, and the list is usually empty. So three things differ from the fixed script
of `Faults`:

* The hooks of this layer that are called for each command are skipped in sessions while no rule is in use
  (`HookRunner.skip_command_hooks`). That is only possible if nothing else needs them, which `_Session` finds out.
* A stream is wrapped only when a rule acts on octets. A wrapped stream is slower, since it is not read and written by its
  descriptor. The wrapping can be in the middle of a session, at a command: what was sent before is written first, and
  what the client has sent after this command is received once more, through the stream with the faults.
* A rule can be for some recipients or clients. `Subject` has those that a command is about. A wrapped stream returns one
  command at a time, also of those that were pipelined, and a session sends its replies before it receives more. So all
  octets that are written at one time belong to one subject, that of the last command.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from weakref import WeakKeyDictionary

import trio
from attrs import evolve, frozen

from ..._server.alias_targets import TARGETS
from ..._server.body import Body
from ..._server.hooks import Hooks
from ..._server.session import Session
from ..._wire import BROKEN
from ...policies import Layer, Tarpit
from ...protocol import BadCommandError, Command, CountedCommand, Mail, Rcpt, Reply
from .._wire_tracker import DOT
from .decisions import Decisions, find_stream, refusal
from .faulty_stream import FaultyStream
from .scope import Scope, Subject
from .script import Entry, Script, cancel_at_end

#: The maximum number of octets that are kept while a session hangs, so that it can continue after the rule is removed.
MAX_KEPT = 65536


@frozen(eq=False)
class PolicyEntry:
    """A policy in use."""

    layer: Layer
    scope: Scope
    #: A function that is called when the policy has refused or delayed a command.
    count: Callable[[Subject], None]


class LiveScript(Script):
    """The rules and policies of a list that can be changed."""

    def __init__(self) -> None:
        super().__init__(live=True)
        #: The policies in their order.
        self.policies: dict[PolicyEntry, None] = {}
        #: The layer of each running session.
        self.sessions: WeakKeyDictionary[Session, LiveDecisions] = WeakKeyDictionary()

    def use(self, entry: Entry | PolicyEntry) -> None:
        """Add a rule or policy, which acts from the next command of each session on."""
        idle = self.idle
        if isinstance(entry, Entry):
            self.add(entry)
        else:
            self.policies[entry] = None
        self._skip(idle)

    def drop(self, entry: Entry | PolicyEntry) -> None:
        """Remove a rule or policy."""
        idle = self.idle
        if isinstance(entry, Entry):
            self.remove(entry)
        else:
            self.policies.pop(entry, None)
        self._skip(idle)

    def _skip(self, was_idle: bool) -> None:
        if was_idle != self.idle:
            for session, layer in list(self.sessions.items()):
                layer.skip(session)

    @property
    def idle(self) -> bool:
        """True if the list has neither rules nor policies."""
        return not (self.entries or self.policies)


class LiveDecisions(Decisions):
    """A layer with the rules and policies of a list that can be changed."""

    script: LiveScript

    def __init__(self, hooks: Hooks, script: LiveScript) -> None:
        super().__init__(hooks, script, every=True)

    # --- the session ----------------------------------------------------------------------------------------------------

    def skip(self, session: Session) -> None:
        """Skip the hooks that are called for each command while the list is empty, if only this layer needs them."""
        runner = session._hooks
        for name in ("message", "response"):
            below = getattr(getattr(self.under, name), "__func__", None)
            if getattr(runner.installed.get(name), "__self__", None) is not self or below is not getattr(Hooks, name):
                return
        runner.skip_command_hooks(skip=self.script.idle)

    async def connect(self, session: Session) -> Reply | None:
        script = self.script
        script.sessions[session] = self
        self.skip(session)
        if script.idle:
            return await self.under.connect(session)
        subject = Subject.of(session, None)
        if script.for_stream("server") and find_stream(session, script) is None:
            stream = FaultyStream(session.stream, "server", script)
            stream.subject = subject
            session._wire.carry(stream)
        reply = await self._decide("CONNECT", session, None)
        return reply or await self._ask(subject, "connect") or await self.under.connect(session)

    async def disconnect(self, session: Session) -> None:
        self.script.sessions.pop(session, None)
        for policy in tuple(self.script.policies):
            await policy.layer.disconnect(session)
        await self.under.disconnect(session)

    async def secured(self, session: Session) -> None:
        outside = find_stream(session, self.script)
        if outside is not None and outside is not session.stream:
            outside.transparent = True
        await self.under.secured(session)

    async def message(self, session: Session, command: Command) -> Reply | None:
        if self.script.idle:
            return await self.under.message(session, command)
        subject = Subject.of(session, command)
        await self._wrap(session, command, subject)
        reply = await self._decide(command.verb, session, command)
        if reply is None and isinstance(command, Mail):
            reply = await self._ask(subject, "mail", command)
        elif reply is None and isinstance(command, Rcpt):
            reply = await self._ask(subject, "rcpt", command)
        return reply or await self.under.message(session, command)

    async def response(self, session: Session, reply: Reply) -> None:
        script = self.script
        if script.policies:
            subject = subject_of_reply(session)
            for policy in tuple(script.policies):
                if isinstance(policy.layer, Tarpit) and policy.scope.covers(subject):
                    if policy.layer.delay_of(session, reply):
                        policy.count(subject)
                    await policy.layer.response(session, reply)
        if isinstance(session.stream, FaultyStream):
            session.stream.subject = subject_of_reply(session)
        await self.under.response(session, reply)

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        if self.script.idle:
            return await self.under.data(session, body)
        if session._protocol.grammar.lmtp:
            return await self._data_of_lmtp(session, body)
        return await super().data(session, body)

    # --- rules ----------------------------------------------------------------------------------------------------------

    async def _ask(self, subject: Subject, hook: str, *arguments: object) -> Reply | None:
        """Call a hook of the policies in their order, until one refuses."""
        for policy in tuple(self.script.policies):
            if policy.scope.covers(subject):
                reply: Reply | None = await getattr(policy.layer, hook)(subject.session, *arguments)
                if reply is not None:
                    policy.count(subject)
                    return reply
        return None

    async def _wrap(self, session: Session, command: Command, subject: Subject) -> None:
        """Wrap the stream of a session at this command, if rules for octets exist and it is not wrapped yet."""
        if not self.script.for_stream("server"):
            return
        stream = session.stream
        if isinstance(stream, FaultyStream) and stream.script is self.script:
            stream.subject = subject
            return
        await session._hooks._reporter.flush()
        again = session._protocol.receive_again()
        if again is not None:
            line = session._protocol.line if isinstance(command, CountedCommand) else command.verb.encode()
            stream = FaultyStream(stream, "server", self.script, greeted=True)
            stream.begin_within(line, again)
            stream.subject = subject
            session._wire.carry(stream)

    async def _sleep(self, entry: Entry, session: Session) -> None:
        """Wait for the time of a `Delay`, until it is removed or the server stops."""
        async with trio.open_nursery() as nursery:
            cancel_at_end(nursery, entry, session)
            await super()._sleep(entry, session)
            nursery.cancel_scope.cancel()

    async def _hang(self, entry: Entry, session: Session) -> None:
        """Wait until the client has closed the connection, the rule is removed or the server stops.

        After a removal the session continues with the octets that the client has sent meanwhile, unless they exceed
        MAX_KEPT.
        """
        session._hooks.pause_clock(trio.current_time(), math.inf)
        kept = bytearray()
        async with trio.open_nursery() as nursery:
            cancel_at_end(nursery, entry, session)
            with suppress(*BROKEN):
                while data := await session.stream.receive_some():
                    if len(kept) <= MAX_KEPT:
                        kept += data
            nursery.cancel_scope.cancel()
        session._hooks.restart_clock()
        if not entry.removed.is_set() or len(kept) > MAX_KEPT:
            await trio.aclose_forcefully(session.stream)
        elif kept:
            session._protocol.receive_data(bytes(kept))

    async def _data_of_lmtp(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        """Receive a message in LMTP, where a rule for one recipient refuses the message for this recipient only."""
        envelope = body.envelope
        entries: list[Entry] = []
        refusals: list[Reply | None] = []
        for rcpt in envelope.rcpts:
            found = self.script.for_decision(DOT, evolve(Subject.of(session, None), recipients=(rcpt.recipient,)))
            entries += [each for each in found if each not in entries]  # each waits once
            refusals.append(refusal(found))
        last = next((reply for reply in refusals if reply is not None and reply.code == 421), None)
        if last is not None:  # it ends the session, so it is the reply for all
            await body.discard()
            await self._delay(entries, session)
            return last
        others = tuple(rcpt for rcpt, reply in zip(envelope.rcpts, refusals, strict=True) if reply is None)
        if len(others) == len(envelope.rcpts):
            result = await self.under.data(session, body)
            await self._delay(entries, session)
            return result
        result = None
        if others:
            # A recipient without targets is not stored.
            refused = {rcpt.recipient.raw: () for rcpt in envelope.rcpts if rcpt not in others}
            envelope.context[TARGETS] = {**envelope.context.get(TARGETS, {}), **refused}
            result = await self.under.data(session, body)
        else:
            await body.discard()
        await self._delay(entries, session)
        early = body._reader.early
        due = refusals[0 if early is None else len(early.given) :]  # the hook may have sent some replies
        below = result if isinstance(result, list | tuple) else [result] * len(due)
        return [refused or reply for refused, reply in zip(due, below, strict=False)]


def subject_of_reply(session: Session) -> Subject:
    """Return the subject of the next reply of a session."""
    subject = Subject.of(session, session.pending)
    # The recipient of a command with a syntax error is unknown.
    refused = isinstance(session._protocol.pending, BadCommandError)
    return evolve(subject, recipients=()) if refused else subject
