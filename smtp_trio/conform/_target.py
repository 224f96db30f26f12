"""The server under test: where it is, what must be known of it, and what it says of itself."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from math import inf

import trio
from attrs import field, frozen

from ._case import Case, State
from ._steps import EHLO, Expect, ask, hidden, octets, play
from ._talk import Talk, WrongAnswer


class Unreachable(Exception):
    """Nobody speaks SMTP there, or not with us."""


class Unprepared(WrongAnswer):
    """A case could not begin: the server has refused what comes before it."""


@frozen(kw_only=True)
class Target:
    """What the user says of the server."""

    host: str
    port: int
    name: str = "conform.test"
    """What we call ourselves in EHLO."""
    sender: str = "conform@example.com"
    recipient: str = "postmaster"
    """Which it takes; RFC 5321 4.5.1 wants the bare postmaster taken everywhere."""
    unknown: str | None = None
    """A recipient which it refuses at once."""
    user: str | None = None
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext = field(factory=ssl.create_default_context, repr=False)
    implicit_tls: bool = False
    timeout: float = 30.0
    """Seconds for each case, and for everything in it."""
    dial: Callable[[], Awaitable[trio.abc.Stream]] | None = None
    """Gives a connection, where it is not TCP to `host` and `port`."""

    async def connect(self) -> Talk:
        """A connection; for implicit TLS, with its handshake made.

        Raises:
            OSError: there is none.
            WrongAnswer: no TLS can be made.
        """
        if self.dial is not None:
            stream = await self.dial()
        else:
            stream = await trio.open_tcp_stream(self.host, self.port)
        talk = Talk(stream, self.values(), self.secrets(), tls=self.tls, host=self.host)
        if self.implicit_tls:
            try:
                await talk.start_tls()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return talk

    def values(self) -> dict[str, bytes]:
        """What stands for ``{name}`` and the like in the data of the cases."""
        texts = {
            "name": self.name,
            "from": self.sender,
            "to": self.recipient,
            "unknown": self.unknown or "",
            "domain": self.sender.rpartition("@")[2] or "example.com",
            "todomain": self.recipient.rpartition("@")[2],
            "header": f"From: <{self.sender}>\r\nSubject: smtp-trio conform\r\n\r\n",
        }
        return {key: text.encode() for key, text in texts.items()}

    def secrets(self) -> dict[str, bytes]:
        """The same for what no record may show (RFC 4616, and the LOGIN of old)."""
        user, password = (self.user or "").encode(), self.password.encode()
        texts = {
            "plain": b"\0" + user + b"\0" + password,
            "wrong": b"\0" + user + b"\0not-" + password,
            "user": user,
            "password": password,
        }
        return {key: b64encode(text) for key, text in texts.items()} | {"secret": password}


@frozen
class Route:
    """How a session gets to where MAIL is taken."""

    tls: bool = False
    auth: bool = False


@frozen(kw_only=True)
class Facts:
    """What a first look has shown."""

    greeting: str
    plain: Mapping[str, str]
    """What EHLO lists when nothing else was said."""
    secure: Mapping[str, str] | None = None
    """What it lists inside TLS, if that can be had."""
    tls_problem: str = ""
    """Why it cannot."""
    route: Route = Route()
    refused: str = ""
    """Why no message can be sent; empty if it can."""

    def offered(self, state: State) -> Mapping[str, str]:
        """What is offered in that state."""
        inside = state in (State.SECURE, State.LOGIN) or (self.route.tls and state not in EARLY)
        return self.secure if inside and self.secure is not None else self.plain


#: What the parameter of SIZE may be at most, for cases that need ``SIZE n`` and ``SIZE small``: those who send so much.
SIZES = {"n": inf, "small": 2 * 1024 * 1024}
EARLY = (State.CONNECTED, State.GREETED)
SENDING = (State.MAIL, State.RCPT, State.DATA)


def skip_reason(case: Case, facts: Facts, target: Target) -> str:
    """Why this case cannot be tried there; empty if it can."""
    if case.state is State.SECURE and facts.secure is None:
        return facts.tls_problem or "TLS cannot be had"
    if case.state in SENDING and facts.refused:
        return facts.refused
    told = {
        "--unknown": target.unknown is not None,
        "--user": target.user is not None,
        "--to with a domain": "@" in target.recipient,
        "MAIL without TLS or AUTH": facts.route == Route(),
        "MAIL only after STARTTLS": facts.route.tls,
        "MAIL only after AUTH": facts.route.auth,
        "unencrypted connection": not (facts.route.tls or target.implicit_tls),
        "MAIL without AUTH": not facts.route.auth,
        "working STARTTLS": facts.secure is not None,
    }
    for need in case.needs:
        if need == "MAIL":
            if facts.refused:
                return facts.refused
        elif need in told:
            if not told[need]:
                return f"needs {need}"
        elif not _offers(facts.offered(case.state), need):
            return f"{need} is not offered"
    for lack in case.lacks:
        if _offers(facts.offered(case.state), lack):
            return f"{lack} is offered"
    return ""


def _offers(offered: Mapping[str, str], need: str) -> bool:
    keyword, _, parameter = need.partition(" ")
    if keyword not in offered:
        return False
    if parameter in SIZES:
        return 0 < octets(offered[keyword]) <= SIZES[parameter]
    return not parameter or parameter in offered[keyword].upper().split()


async def prepare(talk: Talk, state: State, facts: Facts) -> None:
    """Bring a new connection to that state.

    Raises:
        Unprepared: the server does not let us.
    """
    if state is State.CONNECTED:
        return
    try:
        await Expect("220", "a greeting").play(talk)
        if state is State.GREETED:
            return
        await play(talk, EHLO)
        inside = facts.offered(state) is facts.secure
        if inside and not talk.secure:
            await play(talk, ask(b"STARTTLS", "220"))
            await talk.start_tls()
            await play(talk, EHLO)
        if facts.route.auth and state not in (State.SECURE, State.LOGIN):
            await play(talk, ask(b"AUTH PLAIN {plain}", "235"))
        if state in SENDING:
            await play(talk, ask(b"MAIL FROM:<{from}>", "250"))
        if state in (State.RCPT, State.DATA):
            await play(talk, ask(b"RCPT TO:<{to}>", "250|251"))
        if state is State.DATA:
            await play(talk, ask(b"DATA", "354"))
    except Unprepared:
        raise
    except WrongAnswer as wrong:
        raise Unprepared(str(wrong)) from None


async def survey(target: Target) -> Facts:
    """Look at the server: what it offers, with TLS and without, and how it takes mail.

    Raises:
        Unreachable: there is no such server.
    """
    greeting, plain = await _look(target)
    secure: Mapping[str, str] | None = plain if target.implicit_tls else None
    tls_problem = "" if secure is not None else "STARTTLS is not offered"
    if "STARTTLS" in plain:
        try:
            _, secure = await _look(target, tls=True)
            tls_problem = ""
        except Unreachable as problem:
            tls_problem = str(problem)
    facts = Facts(greeting=greeting, plain=plain, secure=secure, tls_problem=tls_problem)
    refusals = []
    for tls in (False, True) if secure is not plain and secure is not None else (False,):
        offered = secure if tls and secure is not None else plain
        for auth in (False, True) if target.user is not None and _offers(offered, "AUTH PLAIN") else (False,):
            facts = Facts(
                greeting=greeting, plain=plain, secure=secure, tls_problem=tls_problem, route=Route(tls, auth)
            )
            refusal = await _refusal(target, facts)
            if not refusal:
                return facts
            refusals.append(refusal)
    return Facts(
        greeting=greeting,
        plain=plain,
        secure=secure,
        tls_problem=tls_problem,
        refused=f"no message can be sent (try --from, --to, --user): {refusals[-1]}",
    )


async def _look(target: Target, *, tls: bool = False) -> tuple[str, Mapping[str, str]]:
    talk = None
    try:
        with trio.fail_after(target.timeout):
            talk = await target.connect()
            greeting = await talk.reply()
            if greeting.code != "220":
                raise Unreachable(f"its greeting is: {greeting}")
            try:
                await play(talk, EHLO)
            except WrongAnswer:
                return str(greeting), {}
            if tls:
                await play(talk, ask(b"STARTTLS", "220"))
                await talk.start_tls()
                await play(talk, EHLO)
            offered = {
                hidden(talk, keyword): hidden(talk, parameters) for keyword, parameters in talk.extensions.items()
            }
            return str(greeting), offered
    except OSError as error:
        raise Unreachable(f"cannot connect: {reason(error)}") from None
    except WrongAnswer as wrong:
        raise Unreachable(str(wrong)) from None
    except trio.TooSlowError:
        raise Unreachable(f"nothing came within {target.timeout:g} s") from None
    finally:
        if talk is not None:
            await trio.aclose_forcefully(talk.stream)


async def _refusal(target: Target, facts: Facts) -> str:
    talk = None
    try:
        with trio.fail_after(target.timeout):
            talk = await target.connect()
            await prepare(talk, State.RCPT, facts)
    except OSError as error:
        return reason(error)
    except WrongAnswer as wrong:
        return str(wrong)
    except trio.TooSlowError:
        return f"nothing came within {target.timeout:g} s"
    finally:
        if talk is not None:
            await trio.aclose_forcefully(talk.stream)
    return ""


def reason(error: OSError) -> str:
    """Why there is no connection, without what is known already."""
    if isinstance(error.__cause__, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(str(each) for each in error.__cause__.exceptions))
    return error.strerror or str(error)
