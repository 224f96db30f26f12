"""Each extension is added to a server and removed from it: nothing changes but what that extension declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import frozen

from smtp_trio.protocol import Command, EndOfData, Extension, Mail, Rcpt, Reply, Vrfy
from smtp_trio.protocol.commands import VERBS
from smtp_trio.protocol.extensions import KNOWN, Auth, BurlExtension, FutureRelease, LimitsExtension, Lmtp
from smtp_trio.protocol.extensions.auth import AuthCommand
from smtp_trio.protocol.extensions.lmtp import Lhlo
from smtp_trio.protocol.grammar import Grammar

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver

#: The known extensions, with settings that make a server offer each of them. `SECURE` are those that need TLS.
NOW = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
SETTINGS: dict[str, Extension] = {
    "AUTH": Auth(cleartext=True),
    "LIMITS": LimitsExtension(mail_max=3, rcpt_max=4, rcpt_domain_max=2),
    "BURL": BurlExtension(authenticated=False),
    "FUTURERELEASE": FutureRelease(3600, authenticated=False),
}
ALL = tuple(SETTINGS.get(extension.keyword, extension) for extension in KNOWN)
SECURE = {"REQUIRETLS"}
TRUSTED = frozenset({"XCLIENT", "XFORWARD"})
HOOKS = {"auth"} | {verb.hook for extension in ALL for verb in extension.verbs if verb.hook is not None}


@frozen
class Probe:
    """Lines after EHLO whose last reply depends on one extension: ``reply`` with it, ``without`` without it."""

    lines: tuple[str, ...]
    reply: str
    without: str


def parameter(line: str) -> Probe:
    """Return a probe of a parameter of MAIL, or of RCPT."""
    lines = (SENDER, f"{RECIPIENT} {line[5:]}") if line.startswith("RCPT ") else (f"{SENDER} {line}",)
    return Probe(lines, "250", "555")


#: What a client can do because of an extension.
PROBES: dict[str, tuple[Probe, ...]] = {
    "SIZE": (parameter("SIZE=100"), parameter("size=100")),
    "8BITMIME": (parameter("BODY=8BITMIME"), parameter("BODY=7BIT")),
    "SMTPUTF8": (
        parameter("SMTPUTF8"),
        Probe(("MAIL FROM:<\u00e9@x.test> SMTPUTF8",), "250", "555"),
        Probe(("VRFY \u00e9 SMTPUTF8",), "252", "252"),
    ),
    "STARTTLS": (Probe(("STARTTLS",), "220", "502"),),
    "AUTH": (Probe(("AUTH PLAIN AGEAc2VjcmV0",), "235", "502"), parameter("AUTH=<>")),
    "CHUNKING": (Probe((SENDER, RECIPIENT, "BDAT 0 LAST"), "250", "502"),),
    "BINARYMIME": (
        Probe((f"{SENDER} BODY=BINARYMIME",), "250", "501"),
        Probe((f"{SENDER} BODY=BINARYMIME", RECIPIENT, "DATA"), "503", "503"),
    ),
    "DSN": (
        parameter("RET=HDRS"),
        parameter("ENVID=QQ314159"),
        parameter("RCPT NOTIFY=NEVER"),
        parameter("RCPT ORCPT=rfc822;a@b.test"),
    ),
    "REQUIRETLS": (parameter("REQUIRETLS"),),
    "DELIVERBY": (parameter("BY=120;R"), parameter("BY=-30;nt")),
    "FUTURERELEASE": (parameter("HOLDFOR=3600"), parameter("HOLDUNTIL=2026-01-01T00:59:59Z")),
    "MT-PRIORITY": (parameter("MT-PRIORITY=-9"), parameter("MT-PRIORITY=0")),
    "RRVS": (parameter("RCPT RRVS=2014-04-03T23:01:00Z;C"),),
    "NO-SOLICITING": (parameter("SOLICIT=net.example:ADV"),),
    "MTRK": (parameter("ENVID=a MTRK=QUJD"),),
    "ETRN": (Probe(("ETRN x.test",), "250", "500"),),
    "ATRN": (Probe(("AUTH PLAIN AGEAc2VjcmV0", "ATRN x.test"), "250", "500"), Probe(("ATRN",), "530", "500")),
    "BURL": (Probe((SENDER, RECIPIENT, "BURL imap://x.test/1 LAST"), "250", "500"), Probe(("BURL x:y",), "503", "500")),
    "XCLIENT": (Probe(("XCLIENT ADDR=192.0.2.1",), "220", "500"),),
    "XFORWARD": (Probe(("XFORWARD SOURCE=LOCAL",), "250", "500"),),
    "LIMITS": (
        Probe((SENDER, *(RECIPIENT,) * 5), "452", "250"),
        Probe((SENDER, *(f"RCPT TO:<a@{name}.test>" for name in "abc")), "452", "250"),
        Probe((*(SENDER, "RSET") * 3, SENDER), "421", "250"),
        # as many as are announced
        Probe((SENDER, *(f"RCPT TO:<a@{name}.test>" for name in "abab")), "250", "250"),
        Probe((*(SENDER, "RSET") * 2, SENDER), "250", "250"),
    ),
}
#: Extensions that change nothing but the reply to EHLO, or, for ENHANCEDSTATUSCODES, each reply.
WITHOUT_PROBES = {"PIPELINING", "ENHANCEDSTATUSCODES", "EXPN", "HELP"}
#: Commands that no extension changes.
COMMON = tuple(
    Probe(lines, "", "")
    for lines in (
        ("NOOP",), ("RSET",), ("HELO x.test",), ("VRFY a",), ("EXPN a",), ("HELP MAIL",), ("HELP FOO",), ("FOO",), ("DATA",),
        (SENDER, "DATA"), (SENDER, RECIPIENT, "DATA", "x", "."), ("MAIL FROM:<a@b> FOO=1",), ("RCPT TO:<a@b> FOO",),
        (SENDER, SENDER), ("SEND x",), ("QUIT",),
    )
)  # fmt: skip


def closure(extension: Extension) -> list[Extension]:
    """Return the extensions that ``extension`` requires, and those that they require."""
    found: list[Extension] = []
    for other in ALL:
        if other.keyword in extension.requires:
            found += [*closure(other), other]
    return list(dict.fromkeys(found))


def requires(other: Extension, extension: Extension) -> bool:
    return extension in closure(other)


def sets(extension: Extension) -> list[tuple[list[Extension], list[Extension]]]:
    """Return servers with the extension and the same without it: with all the others, and with none."""
    crowd = [other for other in ALL if not requires(other, extension)]
    alone = closure(extension)
    return [
        (crowd, [other for other in crowd if other is not extension]),
        ([*alone, extension], alone),
    ]


def driver(extensions: Iterable[Extension] | Grammar, *, secure: bool = False, **settings: Any) -> ServerDriver:
    def answer(command: Command) -> Reply | None:
        return None if command.default_reply.accepted or command.default_reply.code != 502 else Reply(250, "Ok")

    return ServerDriver(
        extensions=extensions, trusted=TRUSTED, tls=True, secure=secure, hooks=HOOKS, answer=answer, now=lambda: NOW, **settings
    )  # fmt: skip


def ehlo(extensions: Iterable[Extension], *, secure: bool) -> list[str]:
    return [line[4:] for line in driver(extensions, secure=secure).send_lines(HELLO)[1].split("\n")[1:]]


def replies(extensions: Iterable[Extension], probe: Probe, *, secure: bool) -> list[str]:
    """Return the replies to a probe, without enhanced status codes."""
    session = driver(extensions, secure=secure)
    session.send_lines(HELLO)
    found = [reply for line in probe.lines for reply in session.send_lines(line)]
    if session.protocol.grammar.has("ENHANCEDSTATUSCODES"):
        found = [without_status(reply) for reply in found]
    return found


def without_status(reply: str) -> str:
    """Return a reply without its enhanced status code (RFC 2034 4)."""
    code, _, text = reply.partition(" ")
    status, _, rest = text.partition(" ")
    return f"{code} {rest}" if status.replace(".", "").isdigit() and status.count(".") == 2 else reply


each_extension = pytest.mark.parametrize("extension", ALL, ids=lambda extension: extension.keyword)
each_security = pytest.mark.parametrize("secure", [False, True], ids=["plaintext", "tls"])


def test_each_extension_is_probed() -> None:
    assert PROBES.keys() | WITHOUT_PROBES == {extension.keyword for extension in ALL}


@each_security
@each_extension
def test_ehlo_differs_by_one_line(extension: Extension, secure: bool) -> None:
    for with_it, without in sets(extension):
        shown, hidden = ehlo(with_it, secure=secure), ehlo(without, secure=secure)
        line = extension.advertise(driver(with_it, secure=secure).protocol.state)
        assert (line is None) == (
            secure if extension.keyword == "STARTTLS" else extension.keyword in SECURE and not secure
        )
        if line is None:
            assert shown == hidden
        else:
            assert line.split()[0] == extension.keyword
            assert [other for other in shown if other != line] == hidden
            assert shown.count(line) == 1


@each_extension
def test_grammar_differs_by_what_the_extension_declares(extension: Extension) -> None:
    for with_it, without in sets(extension):
        more, less = Grammar(with_it), Grammar(without)
        declared = {verb.verb: verb for verb in extension.verbs}
        assert more.verbs == {**less.verbs, **declared}
        assert less.verbs == {verb: cls for verb, cls in more.verbs.items() if verb in VERBS or verb not in declared}
        for command in (Mail, Rcpt, Vrfy, EndOfData, AuthCommand):
            kept = {param for other in without for param in other.params.get(command, ())}
            assert set(less.params(command)) == kept
            assert set(more.params(command)) == kept | set(extension.params.get(command, ()))
        assert more.line_limits == {**less.line_limits, **extension.line_limits}
        assert set(more.line_limits) - set(less.line_limits) == set(extension.line_limits)
        assert more.continuations.keys() - less.continuations.keys() == extension.continuations.keys()
        rows = {command for part in (extension.table.accepted, extension.table.refused) for command in part}
        changed = {
            command for command in more.table.allowed if more.table.allowed[command] != less.table.allowed.get(command)
        }
        assert changed <= rows | set(extension.table.proceed)


@each_extension
def test_line_limit_differs_by_the_octets_of_the_parameters(extension: Extension) -> None:
    for with_it, without in sets(extension):
        kept = {param for other in without for params in other.params.values() for param in params}
        own = {param for params in extension.params.values() for param in params} - kept
        octets = [limit(with_it), limit(without)]
        assert octets[0] - octets[1] == sum(param.extra_octets for param in own)
        assert octets == [longest_line(with_it), longest_line(without)]


def limit(extensions: Iterable[Extension]) -> int:
    return Grammar(extensions).line_limit


def longest_line(extensions: Sequence[Extension], hello: str = HELLO) -> int:
    """Return the octets of the longest line that a server reads, with CRLF: one more gets 500."""
    octets = limit(extensions)
    found = []
    for length in (octets, octets + 1):
        session = driver(Grammar(extensions), secure=False)
        session.send_lines(hello)
        found.append(session.send_lines("NOOP ".ljust(length - 2, "x"))[0][:3])
    assert found == ["250", "500"]
    return octets


@each_security
@each_extension
def test_replies_differ_for_what_the_extension_declares(extension: Extension, secure: bool) -> None:
    for with_it, without in sets(extension):
        keywords = {other.keyword for other in without}
        for probe in PROBES.get(extension.keyword, ()):
            found = replies(with_it, probe, secure=secure), replies(without, probe, secure=secure)
            offered = extension.advertise(driver(with_it, secure=secure).protocol.state) is not None
            expected = probe.reply if offered else "503" if extension.keyword == "STARTTLS" else probe.without
            assert [answers[-1][:3] for answers in found] == [expected, probe.without]
        for probe in [*COMMON, *(probe for keyword in keywords for probe in PROBES.get(keyword, ()))]:
            assert replies(with_it, probe, secure=secure) == replies(without, probe, secure=secure)


@each_extension
def test_status_codes_differ_with_one_extension_only(extension: Extension) -> None:
    for with_it, without in sets(extension):
        found = []
        for extensions in (with_it, without):
            session = driver(extensions, secure=False)
            session.send_lines(HELLO)
            found.append(session.send_lines("NOOP")[0])
        assert (found[0] != found[1]) == (extension.keyword == "ENHANCEDSTATUSCODES")


# --- LMTP, which has no keyword, and replaces verbs ---------------------------------------------------------------------

LHLO = "LHLO client.test"
#: A server with LMTP alone, and one with all extensions too.
each_server = pytest.mark.parametrize("others", [closure(Lmtp()), ALL], ids=["alone", "all"])


def last_replies(extensions: Iterable[Extension], hello: str, lines: Sequence[str]) -> list[str]:
    """Return the replies to the last line."""
    session = driver(extensions)
    for line in (hello, *lines):
        found = session.send_lines(line)
    return found


@each_server
def test_lmtp_changes_the_verbs_and_nothing_else_of_the_grammar(others: Sequence[Extension]) -> None:
    with_it, without = Grammar([Lmtp(), *others]), Grammar(others)
    assert {verb: cls for verb, cls in with_it.verbs.items() if verb != "LHLO"} == {
        verb: cls for verb, cls in without.verbs.items() if verb not in ("EHLO", "HELO")
    }
    assert with_it.verbs["LHLO"] is Lhlo
    assert (with_it.line_limit, with_it.line_limits) == (without.line_limit, without.line_limits)
    for command in (Mail, Rcpt, Vrfy, EndOfData, AuthCommand):
        assert with_it.params(command) == without.params(command)
    assert longest_line([Lmtp(), *others], LHLO) == longest_line(others)


@each_server
def test_reply_to_lhlo_is_that_to_ehlo(others: Sequence[Extension]) -> None:
    assert last_replies([Lmtp(), *others], LHLO, ())[1] == last_replies(others, HELLO, ())[1]


def test_greeting_names_the_protocol() -> None:
    assert driver(closure(Lmtp())).send(b"") == ["220 mx.test ESMTP"]
    assert driver([*closure(Lmtp()), Lmtp()]).send(b"") == ["220 mx.test LMTP"]


@each_server
def test_other_hellos_are_not_accepted(others: Sequence[Extension]) -> None:
    """RFC 2033 4.1: the reply must not be positive, and 500 is recommended."""
    for hello in (HELLO, "HELO client.test"):
        assert driver([Lmtp(), *others]).feed(f"{hello}\r\n".encode()).splitlines()[1].startswith(b"500 5.5.1")
    assert driver(others).feed(f"{LHLO}\r\n".encode()).splitlines()[1].startswith(b"500 5.5.1")


@each_server
def test_commands_with_lmtp(others: Sequence[Extension]) -> None:
    """The replies are those of SMTP, but for a DATA whose recipients were all refused (RFC 2033 4.2)."""
    probes = [*COMMON, *(probe for other in others for probe in PROBES.get(other.keyword, ()))]
    for probe in probes:
        if probe.lines[0].startswith(("HELO", "HELP", "XCLIENT")):  # their replies name verbs, or the protocol
            continue
        assert last_replies([Lmtp(), *others], LHLO, probe.lines) == last_replies(others, HELLO, probe.lines), probe
    refused = (SENDER, "RCPT TO:<no@mx.test> X", "DATA")
    assert last_replies([Lmtp(), *others], LHLO, refused)[0].startswith("503 5.5.1")
    assert last_replies(others, HELLO, refused)[0].startswith("554 5.5.1")


@each_server
@pytest.mark.parametrize("recipients", [1, 2, 3])
def test_replies_to_a_message_with_lmtp(others: Sequence[Extension], recipients: int) -> None:
    for extensions, hello, due in (([Lmtp(), *others], LHLO, recipients), (others, HELLO, 1)):
        session = driver(extensions)
        session.send_lines(hello, SENDER, *(RECIPIENT,) * recipients, "DATA")
        octets = session.feed(b"x\r\n.\r\n")
        assert octets.count(b"250 2.0.0 ") == octets.count(b"\r\n") == due
