"""The server under test: its address, what it offers, and how a session gets to the first step of a case."""

from __future__ import annotations

import os
import re
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from math import inf
from time import time

import trio
from attrs import evolve, field, frozen

from .._client.connect import connect_failure
from ..protocol.arguments import argument, check_callable, check_number, check_type
from ..protocol.hosts import check_port
from ..protocol.timestamps import format_timestamp
from ._case import Case, Stage
from ._connection import CaseFailedError, Connection
from ._report import ADVICE, LIMITED
from ._steps import EHLO, LIMITS, Expect, exchange, masked_text, parse_limit, parse_size, perform_steps


class UnreachableError(Exception):
    """The server cannot be reached, limits the rate of this host, or does not use SMTP. The text is the reason."""


class CaseSetupError(CaseFailedError):
    """A case could not begin: the server refused what comes before it."""


TEXT = argument(check_type, str)
OPTIONAL_TEXT = argument(check_type, str, optional=True)


@frozen(kw_only=True)
class Target:
    """The address of the server, and values for the cases."""

    host: str | os.PathLike[str] = field(validator=argument(check_type, (str, os.PathLike)))
    """A name, an address, or the path of a unix socket, for which `port` has no meaning."""
    port: int = field(default=25, validator=argument(check_port, minimum=1))
    lmtp: bool = field(default=False, validator=argument(check_type, bool))
    """The protocol is LMTP (RFC 2033)."""
    name: str = field(default="conform.test", validator=TEXT)
    """The argument of EHLO."""
    sender: str = field(default="conform@example.com", validator=TEXT)
    recipient: str = field(default="postmaster", validator=TEXT)
    """An accepted recipient. RFC 5321 4.5.1 requires that every server accepts postmaster without a domain."""
    unknown: str | None = field(default=None, validator=OPTIONAL_TEXT)
    """A recipient that is refused at RCPT."""
    burl: str | None = field(default=None, validator=OPTIONAL_TEXT)
    """A URL that the server fetches for BURL: its content ends with CRLF."""
    user: str | None = field(default=None, validator=OPTIONAL_TEXT)
    password: str = field(default="", repr=False, validator=argument(check_type, str, shown=False))
    tls: ssl.SSLContext = field(
        factory=ssl.create_default_context, repr=False, validator=argument(check_type, ssl.SSLContext)
    )
    implicit_tls: bool = field(default=False, validator=argument(check_type, bool))
    proxy_protocol: bool = field(default=False, validator=argument(check_type, bool))
    """The server requires a PROXY header at the beginning of each connection."""
    timeout: float = field(default=30.0, validator=argument(check_number, above=True))
    """Seconds for each case."""
    dial: Callable[[], Awaitable[trio.abc.Stream]] | None = field(
        default=None, validator=argument(check_callable, optional=True)
    )
    """Returns a connection, in place of TCP to `host` and `port`."""

    async def connect(self, *, header: bool = True) -> Connection:
        """Return a new connection. For implicit TLS, the handshake is complete. Without `header`, no PROXY header is sent.

        Raises:
            OSError: No connection could be made.
            CaseFailedError: The TLS handshake failed.
        """
        if self.dial is not None:
            stream = await self.dial()
        else:
            stream = await self._open_stream()
        host = "localhost" if isinstance(self.host, os.PathLike) else self.host
        connection = Connection(stream, self.values(), self.secrets(), tls=self.tls, host=host, lmtp=self.lmtp)
        if self.proxy_protocol and header:
            await connection.send(b"PROXY UNKNOWN\r\n")
        if self.implicit_tls:
            try:
                await connection.start_tls()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return connection

    async def _open_stream(self) -> trio.abc.Stream:
        if isinstance(self.host, os.PathLike):
            return await trio.open_unix_socket(os.fspath(self.host))
        return await trio.open_tcp_stream(self.host, self.port)

    @property
    def address(self) -> str:
        """The address as text: ``HOST:PORT`` or ``unix:PATH``."""
        return f"unix:{os.fspath(self.host)}" if isinstance(self.host, os.PathLike) else f"{self.host}:{self.port}"

    def values(self) -> dict[str, bytes]:
        """Return what ``{name}`` and the like stand for in cases."""
        now = int(time())
        texts = {
            "name": self.name,
            "from": self.sender,
            "to": self.recipient,
            "unknown": self.unknown or "",
            "url": self.burl or "",
            "now": format_timestamp(now),
            "soon": format_timestamp(now + 60),
            "domain": self.sender.rpartition("@")[2] or "example.com",
            "todomain": self.recipient.rpartition("@")[2],
            "toquoted": quoted(self.recipient),
            "toupper": upper(self.recipient),
            "unknownquoted": quoted(self.unknown or ""),
            "header": f"From: <{self.sender}>\r\nSubject: smtp-trio conform\r\n\r\n",
        }
        return {key: text.encode() for key, text in texts.items()}

    def secrets(self) -> dict[str, bytes]:
        """Return values that no record may contain: the password, and responses of PLAIN (RFC 4616), LOGIN and SCRAM."""
        user, password = (self.user or "").encode(), self.password.encode()
        texts = {
            "plain": b"\0" + user + b"\0" + password,
            "wrong": b"\0" + user + b"\0not-" + password,
            "user": user,
            "password": password,
            "scram": b"n,,n=" + user.replace(b"=", b"=3D").replace(b",", b"=2C") + b",r=fyko+d2lbbFgONRv9qkxdawL",
        }
        encoded = {key: b64encode(text) for key, text in texts.items()}
        spaced = encoded["plain"][:4] + b" " + encoded["plain"][4:]
        return encoded | {"spaced": spaced, "secret": password}


def quoted(address: str) -> str:
    """Return the same address with its local-part as a quoted string (RFC 5321 4.1.2)."""
    local, at, domain = address.rpartition("@")
    return f'"{local}"{at}{domain}' if at and not local.startswith('"') else address


def upper(address: str) -> str:
    """Return the same address with its domain in capitals (RFC 5321 2.4)."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.upper()}"


#: Replies to MAIL, or in place of the greeting, by which servers limit how much mail a host sends (RFC 3463 3.8: X.7.Z is
#: policy). Postfix replies 450, others 421.
RATE_LIMIT = re.compile(rb"4(?:21|50)[ -]4\.7\.[0-9]")
#: The same without X.7.0, with which servers also give up after too many errors.
SPECIFIC_RATE_LIMIT = re.compile(rb"4(?:21|50)[ -]4\.7\.[1-9]")


def rate_limit(connection: Connection) -> str:
    """Return the text of the reply by which the server has limited the rate of this host, or an empty string.

    Replies within groups are not assigned to commands, so one after a refusal is not taken for it, nor one that may mean
    too many errors.
    """
    for reply in connection.replies:
        assigned = reply.number == 0 or reply.to == "MAIL"
        if (assigned or reply.to == "") and (RATE_LIMIT if assigned else SPECIFIC_RATE_LIMIT).match(reply.lines[0]):
            return str(reply).removesuffix("\\r\\n")
        if reply.code >= "400":
            break
    return ""


@frozen
class Route:
    """The steps that a session needs before MAIL is accepted."""

    tls: bool = False
    auth: bool = False


@frozen(kw_only=True)
class ServerProfile:
    """The extensions of a server, and the way in which it accepts mail."""

    greeting: str
    plain: Mapping[str, str]
    """The extensions at the beginning of a session."""
    secure: Mapping[str, str] | None = None
    """The extensions inside TLS, where TLS is possible."""
    submission: Mapping[str, str] | None = None
    """The extensions after AUTH, inside TLS where possible, if the user can log in."""
    tls_problem: str = ""
    """Why it is not."""
    route: Route = Route()
    refusal: str = ""
    """Why no message can be sent, or an empty string."""
    refused_with: str = ""
    """The code of the greeting if it is one of `REFUSALS`."""

    def offered(self, stage: Stage) -> Mapping[str, str]:
        """Return what is offered in a stage."""
        if stage is Stage.SUBMISSION and self.submission is not None:
            return self.submission
        return self.secure if self.inside(stage) and self.secure is not None else self.plain

    def inside(self, stage: Stage) -> bool:
        """Return whether a stage is inside TLS."""
        inside = stage in INSIDE or (self.route.tls and stage not in EARLY)
        return inside and self.secure is not None


#: The greatest limit of SIZE for cases that need ``SIZE n`` or ``SIZE small``: the latter send as much.
SIZES = {"n": inf, "small": 2 * 1024 * 1024}
#: The greetings after which no mail is accepted, by their code. After 554 only QUIT can follow (RFC 5321 3.1), which some cases
#: are about. A host that never accepts mail sends 521, and may close the connection at once (RFC 7504 3).
REFUSALS = {
    "554": "the server refuses sessions: ",
    "521": "the server never accepts mail (RFC 7504 3), so nothing can be tested: ",
}
#: The need of cases about sessions that the server refuses with its greeting.
REFUSED_SESSION = "554 greeting"
#: The need of cases for LMTP only. With ``skip if``, these are cases that do not apply to it.
LMTP = "LMTP"
#: The need of cases that begin with a PROXY header of their own, or without one.
PROXY_PROTOCOL = "--proxy-protocol"
EARLY = (Stage.CONNECTED, Stage.GREETED)
INSIDE = (Stage.SECURE, Stage.LOGIN, Stage.SUBMISSION)
TRANSACTION = (Stage.MAIL, Stage.RCPT, Stage.DATA)


def skip_reason(case: Case, profile: ServerProfile, target: Target) -> str:
    """Return why a case cannot be tried, or an empty string."""
    if profile.refused_with and f"{profile.refused_with} greeting" not in case.needs:
        return profile.refusal
    if case.stage is Stage.SECURE and profile.secure is None:
        return profile.tls_problem or "TLS is not possible"
    if case.stage in TRANSACTION and profile.refusal:
        return profile.refusal
    available = {
        "--unknown": target.unknown is not None,
        "--user": target.user is not None,
        "--to with a domain": "@" in target.recipient,
        "MAIL without TLS or AUTH": profile.route == Route(),
        "MAIL only after STARTTLS": profile.route.tls,
        "MAIL only after AUTH": profile.route.auth,
        "unencrypted connection": not (profile.route.tls or target.implicit_tls),
        "MAIL without AUTH": not profile.route.auth,
        "working STARTTLS": profile.secure is not None,
        REFUSED_SESSION: profile.refused_with == "554",
        LMTP: target.lmtp,
        "--burl": target.burl is not None,
        PROXY_PROTOCOL: target.proxy_protocol and not target.implicit_tls,
        **{f"port {port}": target.port == port and isinstance(target.host, str) for port in (25, 587)},
    }
    for need in case.needs:
        if need == "MAIL":
            if profile.refusal:
                return profile.refusal
        elif need in available:
            if not available[need]:
                return f"needs {need}"
        elif not _offers(profile.offered(case.stage), need):
            return f"{need} is not offered"
    if target.lmtp and LMTP in case.skip_if:
        return "does not apply to LMTP"
    for keyword in case.skip_if:
        if _offers(profile.offered(case.stage), keyword):
            return f"{keyword} is offered"
    return ""


def _offers(offered: Mapping[str, str], need: str) -> bool:
    keyword, _, parameter = need.partition(" ")
    if keyword not in offered:
        return False
    if parameter == "minimum":
        return parse_size(offered[keyword].partition(",")[0]) > 1
    if parameter == "class":
        return offered[keyword] != ""
    if parameter == "alone":
        return offered[keyword] == ""
    if parameter in SIZES:
        return 0 < parse_size(offered[keyword]) <= SIZES[parameter]
    if parameter in LIMITS:
        return parse_limit(offered[keyword], parameter) > 0
    return not parameter or parameter in offered[keyword].upper().split()


async def prepare(connection: Connection, stage: Stage, profile: ServerProfile) -> None:
    """Bring a new connection to a stage.

    Raises:
        CaseSetupError: The server refused a command.
    """
    if stage is Stage.CONNECTED:
        return
    try:
        await Expect("220", "a greeting").perform(connection)
        if stage is Stage.GREETED:
            return
        await perform_steps(connection, EHLO)
        if profile.inside(stage) and not connection.secure:
            await _start_tls(connection)
        submission = stage is Stage.SUBMISSION and profile.submission is not None
        if submission or (profile.route.auth and stage not in (Stage.SECURE, Stage.LOGIN)):
            await perform_steps(connection, exchange(b"AUTH PLAIN {plain}", "235"))
        if submission:
            await perform_steps(connection, EHLO)
        if stage in TRANSACTION:
            await perform_steps(connection, exchange(b"MAIL FROM:<{from}>", "250"))
        if stage in (Stage.RCPT, Stage.DATA):
            await perform_steps(connection, exchange(b"RCPT TO:<{to}>", "250|251"))
        if stage is Stage.DATA:
            await perform_steps(connection, exchange(b"DATA", "354"))
    except CaseFailedError as failure:
        raise CaseSetupError(str(failure)) from None


async def _start_tls(connection: Connection) -> None:
    await perform_steps(connection, exchange(b"STARTTLS", "220"))
    await connection.start_tls()
    await perform_steps(connection, EHLO)


async def survey(target: Target) -> ServerProfile:
    """Find out what the server offers, with and without TLS, and how it accepts mail.

    Raises:
        UnreachableError: The server cannot be reached, limits the rate of this host, or does not use SMTP.
    """
    greeting, plain = await _look(target)
    if (code := greeting[:3]) in REFUSALS:
        return ServerProfile(greeting=greeting, plain={}, refusal=REFUSALS[code] + greeting, refused_with=code)
    secure: Mapping[str, str] | None = plain if target.implicit_tls else None
    tls_problem = "" if secure is not None else "STARTTLS is not offered"
    if "STARTTLS" in plain:
        try:
            _, secure = await _look(target, tls=True)
            tls_problem = ""
        except UnreachableError as problem:
            tls_problem = str(problem)
    inside = secure is not None and not target.implicit_tls
    submission = None
    if target.user is not None and _offers(plain if secure is None else secure, "AUTH PLAIN"):
        with suppress(UnreachableError):
            _, submission = await _look(target, tls=inside, login=True)
    profile = ServerProfile(
        greeting=greeting, plain=plain, secure=secure, submission=submission, tls_problem=tls_problem
    )
    refusal = ""
    # The simplest way to send a message comes first.
    for tls in (False, True) if secure is not plain and secure is not None else (False,):
        offered = secure if tls and secure is not None else plain
        for auth in (False, True) if target.user is not None and _offers(offered, "AUTH PLAIN") else (False,):
            profile = evolve(profile, route=Route(tls, auth))
            refusal = await _refusal(target, profile)
            if not refusal:
                return profile
    refusal = f"no message can be sent (try --from, --to, --user): {refusal}"
    return evolve(profile, route=Route(), refusal=refusal)


async def _look(target: Target, *, tls: bool = False, login: bool = False) -> tuple[str, Mapping[str, str]]:
    """Return the greeting, and what EHLO lists."""
    connection = None
    try:
        with trio.fail_after(target.timeout):
            connection = await target.connect()
            greeting = await connection.read_reply()
            if greeting.code in REFUSALS:
                return str(greeting), {}
            if greeting.code != "220":
                raise UnreachableError(f"expected a 220 greeting, got {greeting}")
            try:
                await perform_steps(connection, EHLO)
            except CaseFailedError:
                return str(greeting), {}
            if tls:
                await _start_tls(connection)
            if login:
                await perform_steps(connection, exchange(b"AUTH PLAIN {plain}", "235"))
                await perform_steps(connection, EHLO)
            offered = connection.extensions.items()
            return str(greeting), {
                masked_text(connection, key): masked_text(connection, value) for key, value in offered
            }
    except (OSError, UnicodeError) as error:
        raise UnreachableError(f"cannot connect: {describe_connect_error(error)}") from None
    except CaseFailedError as failure:
        raise UnreachableError(str(failure)) from None
    except trio.TooSlowError:
        raise UnreachableError(f"received nothing within {target.timeout:g} s") from None
    finally:
        if connection is not None:
            await trio.aclose_forcefully(connection.stream)


async def _refusal(target: Target, profile: ServerProfile) -> str:
    """Return why no recipient is accepted on this route, or an empty string.

    Raises:
        UnreachableError: The server limits the rate of this host, so that no case could be tried.
    """
    connection = None
    try:
        with trio.fail_after(target.timeout):
            connection = await target.connect()
            await prepare(connection, Stage.RCPT, profile)
    except OSError as error:
        return describe_connect_error(error)
    except CaseFailedError as failure:
        if connection is not None and (reply := rate_limit(connection)):
            raise UnreachableError(f"{LIMITED}: {reply}; {ADVICE}") from None
        return str(failure)
    except trio.TooSlowError:
        return f"received nothing within {target.timeout:g} s"
    finally:
        if connection is not None:
            await trio.aclose_forcefully(connection.stream)
    return ""


def describe_connect_error(error: OSError | UnicodeError) -> str:
    """Return why no connection could be made, without the address."""
    return "invalid host name" if isinstance(error, UnicodeError) else connect_failure(error)
