"""``smtp-trio send --mx``: in a process of its own with a name server and exchangers on loopback addresses, and in memory."""

from __future__ import annotations

import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio
from attrs import frozen
from processes import run, running
from routing.certificates import Issued
from routing.name_server import NameServerOnLoopback, name_server

from smtp_trio import Body, Hooks, Server
from smtp_trio._cli.main import main
from smtp_trio._cli.message_files import MessageFile
from smtp_trio._cli.send_mx import MxSender, print_attempt
from smtp_trio._cli.send_report import SendReport
from smtp_trio.routing import SendSettings, StsPolicies
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

from .test_send import ME, MESSAGE, Recorder

#: Records by name and type, in the format of RFC 1035 5.
Zone = Mapping[tuple[str, str], Sequence[str]]

ZONE: Zone = {
    ("one.test", "MX"): ["10 a.one.test.", "20 b.one.test."],
    ("a.one.test", "A"): ["127.0.0.2"],
    ("b.one.test", "A"): ["127.0.0.1"],
    ("two.test", "A"): ["127.0.0.1"],
    ("dead.test", "MX"): ["10 mx.dead.test."],
    ("mx.dead.test", "A"): ["127.0.0.3"],
    ("null.test", "MX"): ["0 ."],
    ("broken.test", "MX"): [],
}


@frozen
class Resolving:
    """Answers from a zone, and for broken.test with SERVFAIL. ``secure`` are the names that are signed."""

    zone: Zone
    secure: Sequence[str] = ()

    def __call__(self, request: dns.message.Message, tcp: bool) -> dns.message.Message:
        reply = dns.message.make_response(request, recursion_available=True)
        [question] = request.question
        name, kind = question.name.to_text().lower()[:-1], dns.rdatatype.to_text(question.rdtype)
        if name == "broken.test":
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif records := self.zone.get((name, kind)):
            reply.answer.append(dns.rrset.from_text_list(f"{name}.", 60, "IN", kind, records))
        else:
            soa = "ns.test. root.test. 1 1 1 1 1"
            reply.authority.append(dns.rrset.from_text("test.", 60, "IN", "SOA", soa))
            if not any(known.endswith(name) for known, _ in self.zone):
                reply.set_rcode(dns.rcode.NXDOMAIN)
        if any(name.endswith(each) for each in self.secure):
            reply.flags |= dns.flags.AD
        return reply


@frozen
class Exchangers:
    """The name server, and a port at which servers listen on several addresses."""

    names: NameServerOnLoopback
    port: int

    async def send(self, *options: str, cwd: Path) -> tuple[int, list[str], str]:
        """Run ``smtp-trio send --mx``; return its exit code, the lines of its output, and its errors."""
        code, out, err = await run(*self.arguments(*options), cwd=cwd)
        assert "Traceback" not in err
        return code, out.splitlines(), err

    def arguments(self, *options: str) -> list[str]:
        """Return the arguments of Python."""
        own = ("--mx", "--loopback", f"--resolver=127.0.0.1:{self.names.port}", f"--port={self.port}")
        return ["-m", "smtp_trio", "send", *own, "--no-mta-sts", *options]


@asynccontextmanager
async def exchangers(
    hooks: Mapping[str, Hooks], zone: Zone = ZONE, secure: Sequence[str] = (), tls: ssl.SSLContext | None = None
) -> AsyncIterator[Exchangers]:
    """Run servers, by their loopback addresses, and a name server."""
    servers = [Server(each, name="mx.test", tls=tls) for each in hooks.values()]
    async with name_server(Resolving(zone, secure)) as names, trio.open_nursery() as nursery:
        port = 0
        for server, address in zip(servers, hooks, strict=True):
            (listener,) = await nursery.start(partial(server.serve, port, address))
            port = listener.socket.getsockname()[1]
        yield Exchangers(names, port)
        for server in servers:
            await server.stop()


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    path = tmp_path / "mail.eml"
    path.write_bytes(MESSAGE)
    return path


def statuses(lines: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the status, the recipient and the beginning of the reply in each line."""
    return [(*line.split("  ")[:2], line.split("  ")[2][:9]) for line in lines]


async def test_each_domain_gets_the_message(tmp_path: Path, mail: Path) -> None:
    """The addresses of the header are used, and the first exchanger of each domain."""
    header = f"From: {ME}\nTo: x@one.test, y@two.test\nCc: z@one.test\nBcc: w@two.test\n"
    await trio.Path(mail).write_text(f"{header}\nhello\n")
    first, second = Recorder(), Recorder()
    async with exchangers({"127.0.0.1": first, "127.0.0.2": second}) as found:
        code, lines, err = await found.send("mail.eml", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert statuses(lines) == [
        ("accepted", "<x@one.test>", "250 2.0.0"),
        ("accepted", "<y@two.test>", "250 2.0.0"),
        ("accepted", "<z@one.test>", "250 2.0.0"),
        ("accepted", "<w@two.test>", "250 2.0.0"),
    ]
    assert first.envelopes == [(ME, "y@two.test", "w@two.test")]
    assert second.envelopes == [(ME, "x@one.test", "z@one.test")]
    assert b"Bcc" not in first.messages[0]
    assert first.messages == second.messages


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("recipient", "status", "reply", "code"),
    [
        ("you@one.test", "accepted", "250 2.0.0", 0),  # by the second exchanger; the first one does not listen
        pytest.param("nobody@two.test", "refused", "550 5.1.1", 1, marks=SLOW),
        pytest.param("busy@two.test", "deferred", "450 4.2.1", 75, marks=SLOW),
        ("you@dead.test", "deferred", "451 4.4.1", 75),
        ("you@null.test", "refused", "556 5.1.10", 1),
        pytest.param("you@gone.example", "refused", "550 5.1.2", 1, marks=SLOW),
        ("you@broken.test", "deferred", "451 4.4.3", 75),
        pytest.param("you@[127.0.0.1]", "accepted", "250 2.0.0", 0, marks=SLOW),
    ],
)
async def test_outcomes(tmp_path: Path, mail: Path, recipient: str, status: str, reply: str, code: int) -> None:
    async with exchangers({"127.0.0.1": Recorder()}) as found:
        result = await found.send("--to", recipient, "mail.eml", cwd=tmp_path)
    assert (result[0], result[2]) == (code, "")
    [line] = result[1]
    assert line.startswith(f"{status}  <{recipient}>  {reply} ")
    assert line.endswith("  mail.eml")


@pytest.mark.slow
async def test_permanent_refusal_takes_precedence(tmp_path: Path, mail: Path) -> None:
    names = ["a@two.test", "b@dead.test", "c@null.test"]
    options = [option for name in names for option in ("--to", name)]
    async with exchangers({"127.0.0.1": Recorder()}) as found:
        code, lines, err = await found.send(*options, "mail.eml", "mail.eml", cwd=tmp_path)
    assert (code, err) == (1, "")
    assert [line.split("  ")[0] for line in lines] == ["accepted", "deferred", "refused"] * 2


async def test_verbose(tmp_path: Path, mail: Path) -> None:
    """Attempts have the domain, the exchanger, its TLS and what happened; lines of the dialogue, their connection."""
    options = ["--to", "a@one.test", "--to", "b@null.test", "-v"]
    async with exchangers({"127.0.0.1": Recorder()}) as found:
        code, _, err = await found.send(*options, "mail.eml", cwd=tmp_path)
    assert code == 1
    lines = err.splitlines()
    refused, connected = (line for line in lines if line.startswith("=== one.test: "))
    assert refused == (
        "=== one.test: a.one.test [127.0.0.2], opportunistic TLS: 451 4.4.1 CONNECT: cannot connect to "
        f"127.0.0.2 port {found.port}: Connection refused"
    )
    assert connected == "=== one.test: b.one.test [127.0.0.1], opportunistic TLS: connected without TLS"
    assert "=== null.test: 556 5.1.10 null.test does not accept mail (null MX)" in lines
    dialogue = [line for line in lines if line.startswith("[1] ")]
    assert dialogue[0] == f"[1] === Connected to 127.0.0.1:{found.port}"
    assert "[1]  -> RCPT TO:<a@one.test>" in dialogue
    assert len(dialogue) > 10
    assert {line[:3] for line in lines} == {"===", "[1]"}


# --- TLS ------------------------------------------------------------------------------------------------------------

ISSUED, OTHER = Issued.make("a.one.test", dns=["a.one.test"]), Issued.make("other", dns=["a.one.test"])


@pytest.mark.parametrize(
    ("certificate", "options", "code", "attempt"),
    [
        (ISSUED, [], 0, "DANE: connected with TLSv1.3, certificate verified"),
        (OTHER, [], 75, "DANE: 451 4.7.5 STARTTLS: TLS handshake failed: "),
        (ISSUED, ["--dane", "required"], 0, "DANE: connected with TLSv1.3, certificate verified"),
        (OTHER, ["--dane", "never"], 0, "opportunistic TLS: connected with TLSv1.3, certificate not verified"),
    ],
)
async def test_dane(
    tmp_path: Path, mail: Path, certificate: Issued, options: list[str], code: int, attempt: str
) -> None:
    hooks = Recorder()
    zone = {("one.test", "MX"): ["10 a.one.test."], ("a.one.test", "A"): ["127.0.0.1"]}
    async with exchangers({"127.0.0.1": hooks}, zone, ["one.test"], certificate.server_context(tmp_path)) as found:
        zone[f"_{found.port}._tcp.a.one.test", "TLSA"] = [str(ISSUED.record(3, 1, 1))]
        found_code, _, err = await found.send("-v", "--to", "you@one.test", *options, "mail.eml", cwd=tmp_path)
    assert found_code == code
    assert f"=== one.test: a.one.test [127.0.0.1], {attempt}" in err
    assert len(hooks.messages) == (code == 0)


async def test_dane_that_is_required_and_missing(tmp_path: Path, mail: Path) -> None:
    async with exchangers({"127.0.0.1": Recorder()}) as found:
        code, lines, _ = await found.send("--dane=required", "--to", "a@two.test", "mail.eml", cwd=tmp_path)
    assert code == 75
    assert statuses(lines) == [("deferred", "<a@two.test>", "451 4.7.5")]


# --- interruptions and errors -----------------------------------------------------------------------------------------


async def test_sigint_reports_the_message_in_progress(tmp_path: Path, mail: Path) -> None:
    """One domain has accepted the message, and another one has not replied to it."""

    class Waiting(Hooks):
        def __init__(self) -> None:
            self.arrived, self.released = trio.Event(), trio.Event()

        async def data(self, session: object, body: Body) -> None:
            await body.read()
            self.arrived.set()
            await self.released.wait()

    waiting, accepting = Waiting(), Recorder()
    async with exchangers({"127.0.0.1": waiting, "127.0.0.2": accepting}) as found:
        arguments = found.arguments("--to", "a@one.test", "--to", "b@two.test", "mail.eml", "-v")
        async with running(*arguments, cwd=tmp_path) as program:
            await waiting.arrived.wait()
            await program.err.wait_for(r"<-  250 2\.0\.0 Ok: queued")
            program.signal(signal.SIGINT)
            assert await program.wait() == 130
        waiting.released.set()
    assert statuses(program.out.text.splitlines()) == [
        ("accepted", "<a@one.test>", "250 2.0.0"),
        ("unknown", "<b@two.test>", "no reply "),
    ]


INVALID = [
    ("--mx --server x", "--server cannot be combined with --mx"),
    ("--mx --tls never", "--tls cannot be combined with --mx"),
    ("--mx --lmtp", "--lmtp cannot be combined with --mx"),
    ("--mx --user x", "--user cannot be combined with --mx"),
    ("--resolver 192.0.2.1", "--resolver requires --mx"),
    ("--dane never", "--dane requires --mx"),
    ("--no-mta-sts", "--no-mta-sts requires --mx"),
    ("--port 25", "--port requires --mx"),
    ("--own x", "--own requires --mx"),
    ("--max-domains 1", "--max-domains requires --mx"),
    ("--loopback", "--loopback requires --mx"),
    ("--trust-resolver", "--trust-resolver requires --mx"),
    ("--mx --trust-resolver", "--trust-resolver requires --resolver"),
    ("--mx --own=a..b", "--own: invalid host name: 'a..b'"),
    ("--mx --name a_b.c/", "--name: "),
    ("--mx --cafile none", "cannot read none: No such file or directory"),
    ("--mx --to postmaster", "mail.eml: recipient 'postmaster' has no domain"),
    ("--mx --to x@192.0.2.1", "mail.eml: recipient 'x@192.0.2.1': '192.0.2.1' needs brackets"),
    ("--mx --max-domains 0", "argument --max-domains: must be a number from 1 to 10000, got '0'"),
    *[
        (
            f"--mx --resolver {text}",
            f"argument --resolver: must be IPv4, IPv4:PORT, IPv6 or [IPv6]:PORT, with a port from 1 to 65535, got '{text}'",
        )
        for text in ("x", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.256", "[::1", "[::1]:", "[192.0.2.1]x")
    ],
]  # fmt: skip


@pytest.mark.parametrize(("options", "error"), INVALID)
def test_invalid_options(
    tmp_path: Path,
    mail: Path,
    options: str,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["send", "mail.eml", *options.split()])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(f"smtp-trio: error: {error}")


@pytest.mark.parametrize(
    ("missing", "options", "code", "error"),
    [
        (
            "dns",
            "",
            2,
            "smtp-trio: error: --mx needs dnspython, which is not installed: python -m pip install 'smtp-trio[dns]'\n",
        ),
        (
            "cryptography",
            "",
            2,
            "smtp-trio: error: --mx needs cryptography, which is not installed: python -m pip install 'smtp-trio[dns]'\n",
        ),
        (
            "httpx2",
            "",
            2,
            "smtp-trio: error: --mx needs httpx2, which is not installed: python -m pip install 'smtp-trio[dns]'\n",
        ),
        ("httpx2", "--no-mta-sts", 0, ""),
        ("cryptography", "--dane never", 0, ""),
    ],
)
def test_package_that_is_missing(
    tmp_path: Path,
    missing: str,
    options: str,
    code: int,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A directory without messages is enough to check the options, and nothing is looked up."""
    monkeypatch.setitem(sys.modules, missing, None)
    (tmp_path / "mail.eml").write_bytes(MESSAGE)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["send", "--mx", *options.split(), "mail.eml" if code else "empty"]) == code
    if error:
        assert capsys.readouterr().err == error


# --- in memory --------------------------------------------------------------------------------------------------------

RECORDS: dict[str, Any] = {
    "one.example": {"MX": [(10, "mx.one.example")]},
    "mx.one.example": {"A": ["192.0.2.1"]},
    "two.example": {"A": ["192.0.2.2"]},
}


async def send_in_memory(octets: bytes, recipients: Sequence[str], *, verbose: bool = False) -> SendReport:
    report = SendReport(verbose=verbose)
    sender = MxSender(25, {"resolver": MemoryResolver(RECORDS)}, report)
    await sender.send_all([MessageFile("mail.eml", ME, recipients, "", octets)])
    return report


async def test_message_is_encoded_for_the_domain_that_needs_it(capsys: pytest.CaptureFixture[str]) -> None:
    octets = b"Subject: hi\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nh\xc3\xa9\r\n"
    eight, seven = Inbox(), Inbox()
    async with memory_network({"192.0.2.1": eight, "192.0.2.2": Server(seven, extensions=())}):
        report = await send_in_memory(octets, ["a@one.example", "b@two.example"])
    assert report.exit_code == 0
    assert eight.mails[0].raw == octets
    assert seven.mails[0].raw.isascii()
    assert b"h=C3=A9" in seven.mails[0].raw
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["accepted", "accepted"]


async def test_message_that_one_server_cannot_be_sent(capsys: pytest.CaptureFixture[str]) -> None:
    octets = "From: h\xe9@example.net\r\n\r\nhi\r\n".encode()
    async with memory_network({"192.0.2.1": Inbox(), "192.0.2.2": Server(Inbox(), extensions=())}):
        report = await send_in_memory(octets, ["a@one.example", "b@two.example"])
    assert report.exit_code == 1
    accepted, refused = capsys.readouterr().out.splitlines()
    assert accepted.startswith("accepted  <a@one.example>  250 2.0.0 ")
    assert refused.startswith("refused  <b@two.example>  554 5.6.3 the header of the message is not ASCII")


async def test_message_that_cannot_be_sent(capsys: pytest.CaptureFixture[str]) -> None:
    report = await send_in_memory(MESSAGE, ["a@one.example", "postmaster"])
    assert report.exit_code == 1
    assert capsys.readouterr().out == (
        "refused  <a@one.example>  recipient 'postmaster' has no domain  mail.eml\n"
        "refused  <postmaster>  recipient 'postmaster' has no domain  mail.eml\n"
    )


async def test_mta_sts_in_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    """A policy that is being tested, and one that is enforced, with servers that have no TLS."""
    policies = {
        "one.example": b"version: STSv1\nmode: testing\nmx: mx.one.example\nmax_age: 86400\n",
        "two.example": b"version: STSv1\nmode: enforce\nmx: two.example\nmax_age: 86400\n",
    }

    async def fetch(domain: str) -> bytes:
        return policies[domain]

    announced = {f"_mta-sts.{name}": {"TXT": ["v=STSv1; id=1;"]} for name in policies}
    resolver = MemoryResolver({**RECORDS, **announced})
    report = SendReport(verbose=True)
    settings: SendSettings = {"resolver": resolver, "sts": StsPolicies(resolver, fetch), "on_attempt": print_attempt}
    async with memory_network({"192.0.2.1": Inbox(), "192.0.2.2": Inbox()}):
        await MxSender(25, settings, report).send_all(
            [MessageFile("mail.eml", ME, ["a@one.example", "b@two.example"], "", MESSAGE)]
        )
    assert report.exit_code == 75
    out, err = capsys.readouterr()
    assert [line.split("  ")[:2] for line in out.splitlines()] == [
        ["accepted", "<a@one.example>"],
        ["deferred", "<b@two.example>"],
    ]
    assert sorted(err.splitlines()) == [
        "=== one.example: mx.one.example [192.0.2.1], MTA-STS (testing): connected without TLS",
        "=== one.example: mx.one.example: starttls-not-supported: the server does not offer STARTTLS, and TLS is required",
        "=== two.example: two.example [192.0.2.2], MTA-STS (enforce): 451 4.7.4 the server does not offer STARTTLS, "
        "and TLS is required",
    ]


def test_file_that_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = SendReport()
    sender = MxSender(25, {"resolver": MemoryResolver(RECORDS)}, report)
    trio.run(sender.send_all, [MessageFile(str(tmp_path / "gone"), ME, ["a@one.example"], "a note")])
    assert report.exit_code == 75
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"smtp-trio: note: {tmp_path / 'gone'}: a note\n"
        f"smtp-trio: error: cannot read {tmp_path / 'gone'}: No such file or directory\n"
    )
