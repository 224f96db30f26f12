"""The handler of AUTH, and what follows when it does not succeed."""

from __future__ import annotations

from typing import Any, Protocol

import trio

from .._types import Peer
from ..protocol import BadCommandError, Command, Reply
from ..protocol.extensions.auth import TRY_LATER, Auth, AuthCommand, AuthResponse
from .auth_service import AuthService
from .transaction import TransactionSession

TOO_MANY_FAILURES = Reply(421, "Too many authentication failures; closing the connection", "4.7.0")
LOCKED = Reply(421, "Too many authentication failures from your address; try again later", "4.7.0")
#: The refusals of a malformed AUTH by the core. The others refuse a mechanism, or AUTH at this point.
MALFORMED = (500, 501)


class AuthSession(TransactionSession, Protocol):
    """The part of a session's task that AUTH uses."""

    auth_failures: int

    @property
    def peer(self) -> Peer: ...
    @property
    def auth_service(self) -> AuthService: ...
    async def receive_command(self) -> Command | None: ...
    async def wait_until(self, time: float) -> None: ...


# AUTH is an exchange of several lines, which differs between mechanisms. A mechanism is a generator of the core that
# does no I/O: it yields what it needs next and is sent the answer, so that the same code runs in tests without a
# session.
#
# * A `Reply` (334) is sent to the client, and the answer is the client's next line. It is not a command but is received
#   like one, with the same deadline and limits, and `Server.stop` ends the wait for it: an exchange must not keep a
#   session open.
# * `Credentials` carry a password or token: the `auth` hook checks them, and if it fails the client gets 454.
# * A `SecretRequest` names a user whose stored secret the mechanism needs: the `secret` hook returns it.
# * A `Computation` (the key derivation of SCRAM) is done in a thread. The threads are few and shared by all sessions, so
#   that the loop is not delayed, and the clients take turns.
#
# The exchange ends with StopIteration, whose value is the user and the hook's reply, or with `BadCommandError`, which
# has the refusal.
#
# Every AUTH that does not succeed counts as a failure, whatever ended it: a hook, the client's "*" (RFC 4954 4), a line
# that is not base64 (as EHLO and RSET are) or too long, an error of a hook, a timeout, the end of the connection. If one
# way were free, it would be the one that an attacker takes: each AUTH makes the server compute or ask a directory. A
# session is closed when it has too many, and an address is locked out (`AuthService`).
#
# The reply to a failure is delayed, to slow down the guessing of passwords. The delay begins when the client's last line
# was received, not when the check has ended. So a check that is quicker than the delay, such as that of an unknown user,
# has no influence on the time of the reply. The session waits alone: nothing that others need is held. `Server.stop`
# ends the delay, and a cancellation ends it too.


async def auth(session: AuthSession, command: Command) -> None:
    """Run the mechanism of AUTH (RFC 4954 4), which needs lines from the client and decisions from the hooks."""
    assert isinstance(command, AuthCommand)
    if session.auth_service.locked(session.peer):
        session.protocol.reach("auth_failures_per_peer", ends=True)
        session.log.auth_failed(command.mechanism, None, LOCKED)
        await session.answer(LOCKED)
        return
    attempt = _Attempt(session, command.mechanism)
    reply = await attempt.run(command)
    if reply is None:  # no further lines follow
        return
    await session.answer(await attempt.refuse(reply) if reply.refused else reply)


async def refuse_auth(session: AuthSession, reply: Reply) -> Reply:
    """Count an AUTH that the core refuses, if its argument is malformed; return the reply to it."""
    if reply.code not in MALFORMED:
        return reply
    attempt = _Attempt(session, None)
    attempt.count(reply)
    return await attempt.refuse(reply)


class _Attempt:
    """One command AUTH."""

    def __init__(self, session: AuthSession, mechanism: str | None) -> None:
        self.session = session
        self.mechanism = mechanism
        #: The user that the client has named, if it has.
        self.user: str | None = None
        #: When its last line was received.
        self.since = trio.current_time()
        #: Seconds from then to the reply, if that is a refusal.
        self.delay = 0.0

    async def run(self, command: AuthCommand) -> Reply | None:
        """Return the reply; None if the session has ended before. Anything but success is counted."""
        reply = None
        try:
            reply = await self.session.call_message_hook(command) or await self._exchange(command)
        finally:
            if reply is None or reply.refused:
                self.count(reply)
        return reply

    def count(self, reply: Reply | None) -> None:
        """Count a failure in its session, and, unless it is the server's, for the client's address."""
        session = self.session
        session.auth_failures += 1
        # A hook that replies 421 to a wrong password ends the session; that does not make it the server's failure.
        temporary = reply is not None and reply.temporary and reply.code != 421
        self.delay = session.auth_service.count(session.peer, temporary=temporary)

    async def refuse(self, reply: Reply) -> Reply:
        """Log a failure, wait, and return the reply, which ends the session if it has had too many failures."""
        session = self.session
        if session.auth_failures >= session.protocol.limits.auth_failures:
            reply = TOO_MANY_FAILURES
            session.protocol.reach("auth_failures", ends=True)
        session.log.auth_failed(self.mechanism, self.user, reply)
        await session.wait_until(self.since + self.delay)
        return reply

    async def _exchange(self, command: AuthCommand) -> Reply | None:
        from ..protocol.sasl import Computation, Credentials, SecretRequest  # not before the first AUTH

        session, service = self.session, self.session.auth_service
        protocol = session.protocol
        # Only this extension has the command, so that there is one.
        extension = next(each for each in protocol.grammar.extensions if isinstance(each, Auth))
        exchange = extension.exchange(command, protocol.state, service.context)
        answer: Any = None  # the first value sent to a generator must be None
        try:
            while True:
                # The answer may be a password. No variable has one while a hook runs, whose exception may be reported with
                # the variables of all frames.
                question, answer = exchange.send(answer), None
                if isinstance(question, Credentials | SecretRequest):
                    self.user = question.user
                if isinstance(question, Credentials):
                    answer = await session.hooks.call(
                        "auth", session.session, question, command=command, failure=TRY_LATER
                    )
                elif isinstance(question, SecretRequest):
                    answer = await session.hooks.stored_secret(session.session, question.user, command.mechanism)
                elif isinstance(question, Computation):
                    session.hooks.disarm()
                    answer = await service.compute(question, session.peer, session.wire.stream)
                    if answer is None:
                        return TRY_LATER
                else:
                    await session.answer(question)
                    # If a deadline of the last hook passed during the next wait, leaving the scope would lose this
                    # exchange.
                    session.hooks.disarm()
                    try:
                        response = await session.receive_command()
                    finally:  # also for a line that is refused
                        self.since = trio.current_time()
                    if response is None:
                        return None
                    assert isinstance(response, AuthResponse)
                    answer = response.line
        except BadCommandError as bad:
            return bad.reply
        except StopIteration as done:
            session.protocol.set_authenticated(done.value.user)
            return done.value.reply or command.default_reply
