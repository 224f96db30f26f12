"""Cases detect the fault that they are about: each fails with a mutant of our server that has the fault."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve, frozen
from trio.testing import memory_stream_pair

from smtp_trio import Hello, Hooks, Limits, Reply, Server, Session, open_unix_listener, standard
from smtp_trio.conform import Outcome, Result, Target, check_server, server_cases
from smtp_trio.protocol import Rcpt
from smtp_trio.protocol.extensions import Auth, FutureRelease, LimitsExtension
from smtp_trio.protocol.session_state import SessionState

from .our_servers import HOST, MECHANISMS, PASSWORD, USER, Accounts, Closed, Mailboxes

Line = bytes
Serve = Callable[[trio.abc.HalfCloseableStream], Awaitable[object]]


@frozen
class Mutation:
    """A fault: commands that match a pattern are answered with `reply`, or, without one, replaced by `command`."""

    pattern: bytes
    reply: Line = b""
    command: bytes = b""

    def matches(self, line: Line) -> bool:
        return re.match(self.pattern, line, re.IGNORECASE) is not None


async def mutate(
    client: trio.abc.HalfCloseableStream, server: trio.abc.HalfCloseableStream, mutation: Mutation
) -> None:
    """Forward octets between a client and a server, with a mutation."""
    sending = trio.Lock()

    async def forward_replies() -> None:
        with suppress(trio.BrokenResourceError):
            async for data in server:
                async with sending:
                    await client.send_all(data)
            await client.aclose()

    async def forward_commands() -> None:
        rest = b""
        async for data in client:
            *lines, rest = (rest + data).split(b"\n")
            for line in (each + b"\n" for each in lines):
                if not mutation.matches(line):
                    await server.send_all(line)
                elif mutation.reply:
                    async with sending:
                        await client.send_all(mutation.reply)
                else:
                    await server.send_all(re.sub(mutation.pattern, mutation.command, line, flags=re.IGNORECASE))
        await server.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward_replies)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await forward_commands()


def accepts_everything(*keywords: str) -> Serve:
    """Return a server that lists extensions, has the codes of RFC 5321, and does not check any argument."""
    lines = (HOST, *keywords)
    ehlo = "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines).encode()
    replies = {b"EHLO": ehlo, b"DATA": b"354 Go on\r\n", b"QUIT": b"221 mx.test\r\n"}

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"220 mx.test\r\n")
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                for line in bytes(data).split(b"\r\n")[:-1]:
                    await stream.send_all(replies.get(line[:4].upper(), b"250 Ok\r\n"))

    return serve


async def results(
    server: Server | Serve, ids: Sequence[str], mutation: Mutation | None = None, **settings: Any
) -> list[Result]:
    """Return the results of cases with a server, which has a fault if there is a mutation. `settings` are those of `Target`."""
    serve: Serve = partial(server.serve_stream, implicit_tls=False) if isinstance(server, Server) else server
    requirements = [requirement for requirement in server_cases() if requirement.id in ids]
    assert len(requirements) == len(ids)
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.Stream:
            near, far = memory_stream_pair()
            if mutation is not None:
                outer = far
                inner, far = memory_stream_pair()
                nursery.start_soon(mutate, outer, inner, mutation)
            nursery.start_soon(serve, far)
            return near

        target = Target(
            host=HOST,
            port=25,
            recipient="user@example.com",
            unknown="nobody@example.com",
            user=USER,
            password=PASSWORD,
            dial=dial,
        )
        report = await check_server(evolve(target, **settings), requirements)
        nursery.cancel_scope.cancel()
    return list(report.results)


def listed(keyword: str) -> bytes:
    """Return a reply to EHLO that lists a keyword."""
    return f"250-{HOST}\r\n250 {keyword}\r\n".encode()


def challenge(text: bytes) -> bytes:
    """Return a challenge of AUTH."""
    return b"334 " + b64encode(text) + b"\r\n"


MUTANTS: Sequence[tuple[Mutation, str]] = (
    # Invalid characters and dots in local parts and domains (RFC 5321 4.1.2).
    *(
        (Mutation(rb"MAIL FROM:<[^>]*%s" % pattern, b"250 2.1.0 Ok\r\n"), f"mail.{name}")
        for pattern, name in (
            (rb"_", "domain-underscore"), (rb"!form", "domain-exclamation"), (rb"/", "domain-slash"),
            (rb"@con,", "domain-comma"), (rb"\.conform@", "bad-dot-first"), (rb"\.@", "bad-dot-last"),
            (rb"con\.\.", "bad-dots-two"), (rb"con,form@", "bad-comma"), (rb"\(", "bad-parenthesis"),
            (rb"\[", "bad-bracket"), (rb"\\", "bad-backslash"), (rb"@-", "bad-hyphen-first"), (rb"-\.", "bad-hyphen-last"),
            (rb"@\.", "bad-domain-dot"),
        )
    ),
    *(
        (Mutation(rb"RCPT TO:<%s@" % pattern, b"250 2.1.5 Ok\r\n"), f"rcpt.bad-{name}")
        for pattern, name in (
            (rb"\.\w+", "dot-first"), (rb"\w+\.", "dot-last"), (rb"\w+\.\.\w+", "dots-two"), (rb"\w+,\w+", "comma"),
            (rb"con@form", "two-ats"), (rb'"conform', "quote-open"), (rb"con form", "space"),
        )
    ),
    # Valid mailboxes (RFC 5321 4.1.2 and 4.5.3.1).
    *(
        (Mutation(rb"MAIL FROM:<%s" % pattern, b"501 5.1.7 Invalid\r\n"), f"mail.{name}")
        for pattern, name in (
            (rb'"a b"', "quoted"), (rb'"a\\', "quoted-pair"), (rb"!#", "atoms"), (rb"a\.b", "dots"), (rb"a{64}@", "local-64"),
        )
    ),
    # VRFY (RFC 5321 4.5.1 and 7.3).
    (Mutation(rb"VRFY", b"502 5.5.1 Not implemented\r\n"), "commands.vrfy"),
    (Mutation(rb"VRFY", b"500 5.5.1 What?\r\n"), "commands.vrfy"),
    (Mutation(rb"VRFY", b"550 5.1.1 No such user\r\n"), "commands.vrfy-disabled"),
    (Mutation(rb"VRFY nobody", b"250 2.1.5 <nobody@example.com>\r\n"), "commands.vrfy-unknown"),
    # Postmaster (RFC 5321 4.5.1).
    *(
        (Mutation(rb"RCPT TO:<postmaster", b"550 5.1.1 No such user\r\n"), f"rcpt.postmaster{name}")
        for name in ("", "-lower", "-upper", "-domain", "-domain-lower", "-domain-upper")
    ),
    # HELO (RFC 5321 2.2.1).
    (Mutation(rb"HELO", b"502 5.5.1 Not implemented\r\n"), "ehlo.helo-mail"),
    # 501 for an unacceptable argument (RFC 5321 4.1.4).
    (Mutation(rb"MAIL FROM:\r", b"500 5.5.1 What?\r\n"), "mail.argument-none"),
    (Mutation(rb"MAIL TO", b"500 5.5.1 What?\r\n"), "mail.argument-to"),
    (Mutation(rb"MAIL conform", b"500 5.5.1 What?\r\n"), "mail.argument-text"),
    # Source routes (RFC 5321 4.1.2).
    (Mutation(rb"MAIL FROM:<@", b"501 5.1.7 Invalid\r\n"), "mail.route"),
    (Mutation(rb"RCPT TO:<@", b"501 5.1.3 Invalid\r\n"), "rcpt.route"),
    (Mutation(rb"RCPT TO:<@", b"550 5.7.1 No routes\r\n"), "rcpt.route-ignored"),
    # One SIZE parameter (RFC 1870 6), and MAIL lines that extensions make longer (RFC 1870 3, RFC 4954 3, RFC 6531 3.1).
    (Mutation(rb"MAIL.*SIZE.*SIZE", b"250 2.1.0 Ok\r\n"), "size.twice"),
    *(
        (Mutation(rb"MAIL.{508}", b"500 5.5.2 Line too long\r\n"), name)
        for name in ("size.line-538", "encoding.line-522", "encoding.line-548", "auth.mail-line", "auth.line-1012")
    ),
    # The empty challenge (RFC 4954 4).
    (Mutation(rb"AUTH PLAIN\r", b"250 2.0.0 Ok\r\n"), "auth.no-initial"),
    # The right login with a space in its base64 (RFC 4954 4).
    (Mutation(rb"(?!AUTH)(\w{4}) (\w+=*)\r\n", command=rb"\1\2\r\n"), "auth.base64-space"),
    # Lines of AUTH whose rest is taken for another command (RFC 4954 4).
    *(
        (Mutation(rb"(AUTH PLAIN )?A{9999}", b"500 5.5.6 Too long\r\n500 5.5.1 What?\r\n"), f"auth.too-long-{name}")
        for name in ("initial", "response")
    ),
    # First messages of SCRAM, and a wrong proof that is accepted (RFC 5802 5.1, RFC 7677 3).
    *(
        (Mutation(rb"AUTH SCRAM", challenge(b"r=%b,s=%b,i=%b" % values)), f"auth.scram-{name}")
        for name in ("sha1", "sha256")
        for values in (
            (b"other", b"c2FsdA==", b"4096"), (b"fyko+d2lbbFgONRv9qkxdawL", b"c2FsdA==", b"4096"),
            (b"fyko+d2lbbFgONRv9qkxdawLx", b"sal", b"4096"), (b"fyko+d2lbbFgONRv9qkxdawLx", b"c2FsdA==", b"0"),
        )
    ),
    *(
        (Mutation(rb"AUTH SCRAM", challenge(b"r=fyko+d2lbbFgONRv9qkxdawLx,s=c2FsdA==,i=4095")), f"auth.scram-count-{name}")
        for name in ("sha1", "sha256")
    ),
    (Mutation(rb"AUTH SCRAM", b"334 *\r\n"), "auth.scram-sha256"),
    *((Mutation(rb"Yz1", b"235 2.7.0 Ok\r\n"), f"auth.scram-proof-{name}") for name in ("sha1", "sha256")),
    # The server's signature, the client's last line and a second login (RFC 5802 3, RFC 4954 4).
    (Mutation(rb"Yz1", challenge(b"v=" + b64encode(bytes(32)))), "auth.scram-login-sha256"),
    (Mutation(rb"Yz1", challenge(b"e=other-error")), "auth.scram-login-sha256"),
    (Mutation(rb"Yz1", b"235 2.7.0 Ok\r\n"), "auth.scram-login-sha1"),
    (Mutation(rb"AUTH SCRAM", b"334 *\r\n"), "auth.scram-login-sha1"),
    (Mutation(rb"\r", b"535 5.7.8 Invalid\r\n"), "auth.scram-login-sha256"),
    *((Mutation(rb"\*", b"235 2.7.0 Ok\r\n"), f"auth.scram-cancel-{name}") for name in ("sha1", "sha256")),
    # The challenge of CRAM-MD5, the right digest, a wrong one, and a challenge that is not base64 (RFC 2195 2, RFC 4954 4).
    (Mutation(rb"AUTH CRAM-MD5", challenge(b"1896.697170952")), "auth.cram"),
    (Mutation(rb"YWRh", b"535 5.7.8 Invalid\r\n"), "auth.cram-login"),
    (Mutation(rb"AUTH CRAM-MD5", challenge(b"<other@mx.test>")), "auth.cram-login"),
    (Mutation(rb"AUTH CRAM-MD5", b"334 *\r\n"), "auth.cram-login"),
    (Mutation(rb"Y29uZm9ybSA", b"235 2.7.0 Ok\r\n"), "auth.cram-digest"),
    # Tokens (RFC 7628 3.2.3), unknown mechanisms (RFC 4954 4).
    (Mutation(rb"AUTH OAUTHBEARER", b"235 2.7.0 Ok\r\n"), "auth.token-refused"),
    (Mutation(rb"AQ==", b"235 2.7.0 Ok\r\n"), "auth.token-refused"),
    (Mutation(rb"AUTH XCONFORM", b"504 5.7.4 Unknown\r\n"), "auth.unknown-mechanism-status"),
    # EXTERNAL and ANONYMOUS (RFC 4422, RFC 4505).
    (Mutation(rb"AUTH EXTERNAL", b"235 2.7.0 Ok\r\n"), "auth.external"),
    (Mutation(rb"AUTH ANONYMOUS", b"535 5.7.8 Invalid\r\n"), "auth.anonymous"),
    (Mutation(rb"AUTH ANONYMOUS", b"235 2.7.0 Ok\r\n"), "auth.anonymous-long"),
    # AUTH after HELO, and the parameter AUTH= of MAIL (RFC 4954 5).
    (Mutation(rb"AUTH PLAIN", b"334 \r\n"), "auth.after-helo"),
    *(
        (Mutation(rb"MAIL.* AUTH=", b"530 5.7.0 Authentication required\r\n"), f"auth.mail-unauthenticated-{name}")
        for name in ("null", "xtext")
    ),
    (Mutation(rb"MAIL.* AUTH=bad", b"555 5.5.4 Invalid\r\n"), "auth.mail-bad-code"),
    (Mutation(rb"MAIL.* AUTH=bad", b"501 5.5.2 Invalid\r\n"), "auth.mail-bad-status"),
    # Limits that are not those of the server (RFC 9422).
    (Mutation(rb"EHLO", listed("LIMITS RCPTMAX=010")), "limits.values"),
    (Mutation(rb"EHLO", listed("LIMITS MAILMAX=20 RCPTMAX")), "limits.values"),
    (Mutation(rb"RSET", b"421 4.5.3 Too many\r\n"), "limits.mailmax"),
    # Addresses that only a proxy may state.
    (Mutation(rb"PROXY", b"250 2.0.0 Ok\r\n"), "connection.proxy"),
    (Mutation(rb"XCLIENT", b"220 mx.test ESMTP\r\n"), "connection.xclient"),
    (Mutation(rb"XFORWARD", b"250 2.0.0 Ok\r\n"), "connection.xforward"),
    # The deviations of our own server by default, which a strict one refuses.
    (Mutation(rb"EHLO \w*_", b"250 mx.test\r\n"), "ehlo.underscore"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("mutation", "id"), MUTANTS, ids=[f"{name}-{each.reply[:3].decode()}" for each, name in MUTANTS]
)
async def test_case_fails_with_a_mutant(mutation: Mutation, id: str, autojump_clock: trio.testing.MockClock) -> None:
    extensions = standard(Auth(cleartext=True, mechanisms=MECHANISMS), LimitsExtension(mail_max=9, rcpt_max=9))
    server = Server(Accounts(), name=HOST, size=1048576, strict=True, extensions=extensions)
    (original,) = await results(server, [id])
    (mutant,) = await results(server, [id], mutation)
    assert (original.outcome, mutant.outcome) == (Outcome.PASSED, Outcome.FAILED), (original.reason, mutant.reason)


#: Cases about the length of a line: what the server lists, and the octets of the line.
LINES: Sequence[tuple[str, Sequence[str], int]] = (
    ("size.line-538", ["SIZE"], 538),
    ("encoding.line-522", ["SMTPUTF8"], 522),
    ("encoding.line-548", ["SIZE", "SMTPUTF8"], 548),
    ("chunking.line-528", ["CHUNKING", "BINARYMIME"], 528),
    ("auth.line-1012", ["AUTH PLAIN"], 1012),
    ("dsn.line-622", ["DSN"], 622),
    ("dsn.line-1036", ["DSN"], 1036),
)


@pytest.mark.parametrize(("id", "keywords", "octets"), LINES, ids=[each[0] for each in LINES])
async def test_longest_line_of_an_extension(
    id: str, keywords: Sequence[str], octets: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A server passes if this is its limit, and fails if the limit is lower (RFC 5321 4.5.3.1.4)."""

    async def outcome(limit: int) -> Outcome:
        # The line without its LF is longer than this.
        too_long = Mutation(rb".{%d}" % limit, b"500 Line too long\r\n")
        (result,) = await results(accepts_everything(*keywords), [id], too_long)
        return result.outcome

    assert [await outcome(limit) for limit in (octets, octets - 1, 512)] == [
        Outcome.PASSED, Outcome.FAILED, Outcome.FAILED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("id", "mutation"),
    [
        ("dsn.envid-100", Mutation(rb"MAIL.* ENVID=\S{94}", b"501 ENVID too long\r\n")),
        ("dsn.envid-100", Mutation(rb"MAIL.* RET=HDRS", b"555 RET\r\n")),
        ("dsn.orcpt-500", Mutation(rb"RCPT.* ORCPT=\S{494}", b"501 ORCPT too long\r\n")),
        ("dsn.orcpt-500", Mutation(rb"RCPT.* NOTIFY=\S{21}", b"501 NOTIFY too long\r\n")),
    ],
)
async def test_longest_parameters_of_dsn(id: str, mutation: Mutation, autojump_clock: trio.testing.MockClock) -> None:
    """RFC 3461 5.4."""
    server = accepts_everything("DSN")
    assert [each.outcome for each in await results(server, [id])] == [Outcome.PASSED]
    assert [each.outcome for each in await results(server, [id], mutation)] == [Outcome.FAILED]


async def test_values_that_are_not_checked(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 3461 4.5 and 5.1, RFC 4954 4, RFC 4616 2."""
    names = ["ret-unknown", "ret-empty", "ret-twice", "envid-empty", "envid-bad", "envid-twice"]
    unchecked = await results(accepts_everything("DSN"), [f"dsn.{name}" for name in names])
    assert {result.outcome for result in unchecked} == {Outcome.FAILED}
    # A server without challenges is asked with an initial response.
    names = ["no-initial", "base64-alphabet", "base64-space", "base64-initial", "empty-initial", "no-nul"]
    unchecked = await results(accepts_everything("AUTH PLAIN"), [f"auth.{name}" for name in names])
    assert {result.outcome for result in unchecked} == {Outcome.FAILED}


#: What the wrong servers below offer: everything that the cases of these chapters need.
EVERYTHING = (
    *("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "DSN", "AUTH PLAIN", "DELIVERBY 60", "REQUIRETLS"),
    *("FUTURERELEASE 60 2050-01-01T00:00:00Z", "MT-PRIORITY", "RRVS", "NO-SOLICITING net.example:ADV", "MTRK", "ETRN"),
    *("ATRN", "BURL", "XCLIENT ADDR", "XFORWARD ADDR"),
)
#: The parameters and verbs of these extensions.
USED = rb"(?:MAIL|RCPT).* \w+(?:-\w+)?(?:=|\r)|ETRN|ATRN|BURL|XCLIENT|XFORWARD|BDAT"
URL = "imap://imap.test/"
CASES = [case.id for case in server_cases() if case.group in ("dsn", "delivery", "burl", "proxy")]


def behind_a_balancer(valid: Callable[[bytes], bool]) -> Serve:
    """Return a server that discards the first segment, or closes the connection if it is not valid."""

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        if valid(bytes(await stream.receive_some())):
            await accepts_everything(*EVERYTHING)(stream)
        await stream.aclose()

    return serve


def wrong_servers() -> Mapping[str, tuple[Serve, Mutation | None, Mapping[str, Any]]]:
    """Return servers with the mutation and the settings of `Target` under which the cases are tried."""
    accepts, none = accepts_everything(*EVERYTHING), accepts_everything()
    user: Mapping[str, Any] = {"burl": URL}
    return {
        "accepts everything": (accepts, None, user),
        "refuses what it offers": (accepts, Mutation(USED, b"502 5.5.1 Not implemented\r\n"), user),
        "accepts what it does not offer": (none, None, user),
        "lists invalid keywords": (accepts_everything(*(f"{each.split()[0]} ;" for each in EVERYTHING)), None, user),
        "lists too little": (accepts_everything("ATRN", "BURL"), None, user),
        "reverses no roles": (accepts, Mutation(b"220 ", b"250 Ok\r\n"), user),
        "offers it at another port": (accepts_everything("ETRN", "REQUIRETLS", "STARTTLS"), None, {"port": 587}),
        "reads any header": (behind_a_balancer(lambda header: True), None, {"proxy_protocol": True}),
        "reads one header": (behind_a_balancer(b"PROXY UNKNOWN\r\n".__eq__), None, {"proxy_protocol": True}),
    }


class OtherAuth(Auth):
    """Lists a mechanism that it does not have."""

    def advertise(self, state: SessionState) -> str:
        return "AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS"


async def test_downgrade_that_is_not_refused(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 5802 6."""
    extensions = [*standard(without=(Auth,)), OtherAuth(mechanisms=("SCRAM-SHA-256",))]
    (result,) = await results(Server(Accounts(), name=HOST, extensions=extensions), ["auth.scram-downgrade"])
    assert (result.outcome, result.reason) == (Outcome.FAILED, "expected a refusal, got the signature of the server")


async def test_auth_before_tls(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 4954 4. The case does not apply to a server that lists the mechanism outside TLS."""
    unlisted = await results(accepts_everything("STARTTLS"), ["auth.before-tls"])
    assert [result.outcome for result in unlisted] == [Outcome.FAILED]
    listed = await results(accepts_everything("STARTTLS", "AUTH PLAIN"), ["auth.before-tls"])
    assert [(result.outcome, result.reason) for result in listed] == [(Outcome.SKIPPED, "AUTH PLAIN is offered")]


@cache
def outcomes_with_wrong_servers() -> Mapping[str, set[Outcome]]:
    """Return the outcomes of these cases with each of the wrong servers."""
    outcomes: dict[str, set[Outcome]] = {each: set() for each in CASES}

    async def run() -> None:
        for server, mutation, settings in wrong_servers().values():
            for result in await results(server, CASES, mutation, **settings):
                outcomes[result.requirement.id].add(result.outcome)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return outcomes


#: The cases about the longest lines have a test of their own.
@pytest.mark.parametrize("id", [each for each in CASES if each not in [line[0] for line in LINES]])
def test_case_fails_with_a_wrong_server(id: str) -> None:
    """Our servers pass each of these cases (test_our_servers), so a case that a wrong one fails distinguishes them."""
    assert Outcome.FAILED in outcomes_with_wrong_servers()[id]


async def test_limits_that_are_not_those_of_the_server(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 9422 4.1 to 4.3."""
    over = ["limits.rcptmax-over", "limits.mailmax-over", "limits.rcptdomainmax-over"]
    limited = LimitsExtension(mail_max=9, rcpt_max=9, rcpt_domain_max=3)
    enforced = Server(Mailboxes(), name=HOST, extensions=standard(limited))
    assert [each.outcome for each in await results(enforced, over)] == [Outcome.PASSED] * 3
    ignored = accepts_everything("LIMITS MAILMAX=9 RCPTMAX=9 RCPTDOMAINMAX=3")
    assert [each.outcome for each in await results(ignored, over)] == [Outcome.FAILED] * 3
    for recipients, outcome in ((101, Outcome.PASSED), (100, Outcome.FAILED)):
        limits = Limits(recipients=recipients)
        fewer = Server(Mailboxes(), name=HOST, limits=limits, extensions=standard(LimitsExtension(rcpt_max=101)))
        assert [each.outcome for each in await results(fewer, ["limits.rcptmax"])] == [outcome]


#: Replies that a server may send in another way than ours, which cases about something else must not count.
ALLOWED: Sequence[tuple[Mutation, str]] = (
    # RFC 5321 4.2.2 and 3.3: other codes for a mailbox that is not accepted.
    (Mutation(rb"MAIL FROM:\r", b"553 5.1.7 Mailbox syntax incorrect\r\n"), "mail.argument-none"),
    (Mutation(rb"MAIL FROM:\r", b"550 5.1.7 No sender\r\n"), "mail.argument-none"),
    *(
        (Mutation(rb"MAIL FROM:<%s" % pattern, b"550 5.7.1 No such senders\r\n"), f"mail.{name}")
        for pattern, name in ((rb'"a b"', "quoted"), (rb"!#", "atoms"), (rb"a\.b", "dots"), (rb"a{64}@", "local-64"))
    ),
    # RFC 4954 4 has MUST for the code of a response that is not base64 only.
    (Mutation(rb"AUTH PLAIN =", b"454 4.7.0 Later\r\n"), "auth.empty-initial"),
    (Mutation(rb"AUTH PLAIN dXNlcg", b"500 5.5.2 What?\r\n"), "auth.no-nul"),
    # Arguments that are accepted although the grammar does not have them: a SHOULD, in mail.to and mail.empty.
    (Mutation(rb"MAIL TO", b"250 2.1.0 Ok\r\n"), "mail.argument-to"),
    (Mutation(rb"MAIL conform", b"250 2.1.0 Ok\r\n"), "mail.argument-text"),
    (Mutation(rb"MAIL FROM\r", b"250 2.1.0 Ok\r\n"), "mail.refused-then-taken"),
    # A mechanism that sends no challenge: auth.no-initial.
    (Mutation(rb"AUTH PLAIN\r", b"250 2.7.0 Ok\r\n"), "auth.cancel"),
    (Mutation(rb"AUTH PLAIN\r", b"250 2.7.0 Ok\r\n"), "auth.no-command"),
    (Mutation(rb"AUTH PLAIN\r", b"250 2.7.0 Ok\r\n"), "auth.base64-alphabet"),
    (Mutation(rb"AUTH LOGIN\r", b"250 2.7.0 Ok\r\n"), "auth.cancel-login"),
)


@pytest.mark.parametrize(("mutation", "id"), ALLOWED)
async def test_case_counts_only_what_it_is_about(
    mutation: Mutation, id: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = Server(Accounts(), name=HOST, extensions=standard(Auth(cleartext=True)))
    assert [result.outcome for result in await results(server, [id], mutation)] == [Outcome.PASSED]


class OneHello(Mailboxes):
    """Accepts EHLO once."""

    async def helo(self, session: Session, hello: Hello) -> Reply | None:
        return Reply(550, "Already identified", "5.7.1") if session.hello is not None else None


async def test_refused_second_ehlo_counts_once(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 5321 4.1.4: the state is reset if EHLO is acceptable."""
    server = Server(OneHello(), name=HOST)
    others = ["ehlo.again-resets", "ehlo.again-rcpt", "ehlo.again-mail", "commands.rset-any"]
    assert [result.outcome for result in await results(server, ["ehlo.again"])] == [Outcome.FAILED]
    assert {result.outcome for result in await results(server, others)} == {Outcome.PASSED}


@pytest.mark.parametrize(
    ("keyword", "verb"),
    [("VRFY", "VRFY"), ("EXPN", "EXPN"), ("HELP", "HELP"), ("ETRN", "ETRN"), ("CHUNKING", "BDAT"), ("BURL", "BURL")],
)
@pytest.mark.parametrize("code", ["500", "502"])
async def test_listed_keyword_without_its_command(
    keyword: str, verb: str, code: str, autojump_clock: trio.testing.MockClock
) -> None:
    """RFC 5321 4.2.4."""

    async def serve(stream: trio.abc.Stream, code: str) -> None:
        answers = {b"EHLO": listed(keyword), verb.encode(): f"{code} x\r\n".encode()}
        await stream.send_all(b"220 mx.test\r\n")
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                for line in bytes(data).split(b"\r\n")[:-1]:
                    await stream.send_all(answers.get(line[:4], b"221 mx.test\r\n"))

    (requirement,) = [each for each in server_cases() if each.id == f"commands.listed-{keyword.lower()}"]
    outcomes = []
    async with trio.open_nursery() as nursery:
        for each in ("252", code):

            async def dial(each: str = each) -> trio.abc.Stream:
                near, far = memory_stream_pair()
                nursery.start_soon(serve, far, each)
                return near

            report = await check_server(Target(host=HOST, port=25, dial=dial), [requirement])
            outcomes += [result.outcome for result in report.results]
        nursery.cancel_scope.cancel()
    assert outcomes == [Outcome.PASSED, Outcome.FAILED]


class ComparesOctets(Mailboxes):
    """Compares recipients as they were sent, and accepts two of them."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return None if rcpt.recipient.raw in ("user@example.com", "postmaster") else Reply(550, "No such user", "5.1.1")


class RefusesOctets(Mailboxes):
    """Compares recipients as they were sent, and refuses one of them."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user", "5.1.1") if rcpt.recipient.raw == "nobody@example.com" else None


@pytest.mark.parametrize(
    ("hooks", "ids"),
    [
        (
            ComparesOctets,
            [
                *("rcpt.postmaster-upper", "rcpt.postmaster-domain", "rcpt.postmaster-domain-lower"),
                *("rcpt.postmaster-domain-upper", "rcpt.domain-upper", "rcpt.quoted"),
            ],
        ),
        (RefusesOctets, ["rcpt.quoted-unknown"]),
    ],
)
async def test_recipients_compared_as_they_were_sent(
    hooks: Callable[[], Hooks], ids: Sequence[str], autojump_clock: trio.testing.MockClock
) -> None:
    """RFC 5321 2.4, 4.1.2 and 4.5.1."""
    outcomes = {result.outcome for result in await results(Server(hooks(), name=HOST), ids)}
    assert outcomes == {Outcome.FAILED}
    outcomes = {result.outcome for result in await results(Server(Mailboxes(), name=HOST), ids)}
    assert outcomes == {Outcome.PASSED}


async def test_refused_session_that_does_not_wait_for_quit(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 5321 3.1."""
    ids = ["connection.refused-quit", "connection.refused-commands"]
    closed = Server(Closed(), name=HOST)
    assert [result.outcome for result in await results(closed, ids)] == [Outcome.PASSED] * 2
    mutation = Mutation(rb"EHLO", b"250 mx.test\r\n")
    assert [result.outcome for result in await results(closed, ids, mutation)] == [Outcome.PASSED, Outcome.FAILED]

    async def dial() -> trio.abc.Stream:
        near, far = memory_stream_pair()
        await far.send_all(b"554 mx.test No\r\n")
        await far.send_eof()
        return near

    (requirement, _) = [each for each in server_cases() if each.id in ids]
    report = await check_server(Target(host=HOST, port=25, dial=dial), [requirement])
    assert [result.outcome for result in report.results] == [Outcome.FAILED]


LMTP_MUTANTS: Sequence[tuple[Mutation, str]] = (
    *((Mutation(rb"%b" % verb.encode(), b"250 mx.test\r\n"), f"lmtp.{verb.lower()}") for verb in ("HELO", "EHLO")),
    *(
        (Mutation(rb"%b" % verb.encode(), b"502 5.5.1 No\r\n"), f"lmtp.{verb.lower()}-code")
        for verb in ("HELO", "EHLO")
    ),
    *((Mutation(rb"LHLO", listed("SIZE")), f"lmtp.lists-{name}") for name in ("pipelining", "enhanced", "8bit")),
    *((Mutation(rb"DATA", b"554 5.5.1 No recipients\r\n"), f"lmtp.{name}") for name in ("no-rcpt", "all-refused")),
    (Mutation(rb"QUIT", b"250 2.0.0 Ok\r\n"), "lmtp.quit"),
)


@pytest.mark.parametrize(("mutation", "id"), LMTP_MUTANTS, ids=[name for _, name in LMTP_MUTANTS])
async def test_case_of_lmtp_fails_with_a_mutant(
    mutation: Mutation, id: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = Server(Mailboxes(), name=HOST, lmtp=True)
    (original,) = await results(server, [id], lmtp=True)
    (mutant,) = await results(server, [id], mutation, lmtp=True)
    assert (original.outcome, mutant.outcome) == (Outcome.PASSED, Outcome.FAILED), (original.reason, mutant.reason)


@frozen
class CountingServer:
    """A server of LMTP with as many replies to a message as `count` returns for its recipients: whether each was accepted."""

    count: Callable[[Sequence[bool]], int]
    forgets: bool = True
    """Whether the end of a transaction clears the recipients."""

    async def serve(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mx.test\r\n")
        recipients: list[bool] = []
        unread = bytearray()
        lhlo = b"250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
        fixed = {b"LHLO": lhlo, b"MAIL": b"250 Ok\r\n", b"NOOP": b"250 Ok\r\n", b"DATA": b"354 Go on\r\n"}

        async def read(end: bytes = b"", octets: int = 0) -> bytes:
            while (length := unread.find(end) + len(end) if end in unread and end else octets) > len(
                unread
            ) or not length:
                data = await stream.receive_some()
                if not data:
                    raise trio.BrokenResourceError
                unread.extend(data)
            line = bytes(unread[:length])
            del unread[:length]
            return line

        with suppress(trio.BrokenResourceError):
            while True:
                line = await read(b"\r\n")
                verb, *words = line.split()
                replies = fixed.get(verb, b"")
                if verb == b"RCPT":
                    recipients.append(b"nobody" not in line)
                    replies = b"250 Ok\r\n" if recipients[-1] else b"550 No\r\n"
                elif verb == b"BDAT" and words[1:] != [b"LAST"]:
                    replies = b"250 Ok\r\n"
                if verb == b"BDAT":
                    await read(octets=int(words[0]))
                if verb == b"DATA":
                    await stream.send_all(replies)
                    await read(b"\r\n.\r\n")
                if verb == b"DATA" or (verb == b"BDAT" and not replies):
                    replies = b"250 Ok\r\n" * self.count(recipients)
                if (verb in (b"RSET", b"DATA") or words[1:] == [b"LAST"]) and self.forgets:
                    recipients.clear()
                if verb == b"RSET":
                    replies = b"250 Ok\r\n"
                if verb == b"QUIT":
                    await stream.send_all(b"221 mx.test\r\n")
                    await stream.aclose()
                    return
                await stream.send_all(replies)


@pytest.mark.parametrize(
    ("wrong", "ids"),
    [
        (CountingServer(lambda recipients: 1), ["two", "next", "group", "bdat", "bdat-no-rcpt"]),
        (CountingServer(len), ["refused"]),
        (CountingServer(sum, forgets=False), ["rset", "next"]),
    ],
    ids=["one reply", "refused recipients too", "earlier recipients too"],
)
async def test_wrong_number_of_replies_to_a_message(
    wrong: CountingServer, ids: Sequence[str], autojump_clock: trio.testing.MockClock
) -> None:
    """RFC 2033 4.2 and 4.3."""
    ids = [f"lmtp.{name}" for name in ids]
    right = await results(CountingServer(sum).serve, ids, lmtp=True)
    assert {result.outcome for result in right} == {Outcome.PASSED}, [result.reason for result in right]
    assert {result.outcome for result in await results(wrong.serve, ids, lmtp=True)} == {Outcome.FAILED}


async def test_smtp_server_that_accepts_lhlo(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 2033 5."""
    ids = ["commands.lhlo", "commands.lhlo-25"]
    server, mutation = Server(Mailboxes(), name=HOST), Mutation(rb"LHLO", b"250 mx.test\r\n")
    assert [result.outcome for result in await results(server, ids)] == [Outcome.PASSED] * 2
    assert [result.outcome for result in await results(server, ids, mutation)] == [Outcome.FAILED] * 2
    other_port = await results(server, ids, mutation, port=24)
    assert [(result.outcome, result.reason) for result in other_port][1] == (Outcome.SKIPPED, "needs port 25")


@pytest.mark.parametrize(
    ("password", "outcome", "reason"),
    [(PASSWORD, Outcome.PASSED, ""), ("wrong", Outcome.SKIPPED, "FUTURERELEASE is not offered")],
)
async def test_what_is_offered_to_users_only(
    password: str, outcome: Outcome, reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = Server(Accounts(), name=HOST, extensions=standard(Auth(cleartext=True), FutureRelease(60)))
    (result,) = await results(server, ["delivery.hold-for"], password=password)
    assert (result.outcome, result.reason) == (outcome, reason)


async def test_socket_of_the_server(short_path: Path) -> None:
    path = short_path / "lmtp"
    server = Server(Mailboxes(), name=HOST, lmtp=True)
    cases = [case for case in server_cases() if case.group == "lmtp"]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [await open_unix_listener(path)])
        report = await check_server(Target(host=path, lmtp=True, recipient="bo@x.test"), cases)
        nursery.cancel_scope.cancel()
    assert report.subject == f"unix:{path}"
    assert {result.outcome for result in report.results if "--unknown" not in result.requirement.needs} == {
        Outcome.PASSED
    }
