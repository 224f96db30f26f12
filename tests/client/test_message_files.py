"""Messages as real programs write them, and how each is sent to servers with and without 8BITMIME and SMTPUTF8.

tests/data/messages has the messages. ``CASES`` tells for each which octets a server gets, or why it gets none; the octets
that differ from those of the message are in tests/data/sent.
"""

from __future__ import annotations

import codecs
import email
import email.policy
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import field, frozen
from helpers import serve
from hypothesis import given, settings, strategies as st
from processes import HOST, run
from trio.testing import memory_stream_pair

from smtp_trio import Body, Client, Hooks, LocalProtocolError, Server, Session
from smtp_trio._client.message import prepare_message
from smtp_trio.protocol.extensions import standard

DATA = Path(__file__).parents[1] / "data"
ME, YOU = "me@example.org", "you@example.org"
POLICIES = {"default": email.policy.default, "SMTP": email.policy.SMTP, "compat32": email.policy.compat32}

#: The servers, and the extensions that each of them does not offer.
SERVERS: dict[str, frozenset[str]] = {
    "plain": frozenset({"8BITMIME", "SMTPUTF8"}),
    "8BITMIME": frozenset({"SMTPUTF8"}),
    "SMTPUTF8": frozenset(),
}


@frozen
class Refused:
    """The message is refused before MAIL is sent, with an error of this type whose text has this pattern."""

    error: type[Exception]
    pattern: str


AS_IS = "as is"  # the octets of the message, with CRLF at the end of each line
NO_8BITMIME = Refused(LocalProtocolError, "octets above 127.*not offer 8BITMIME")
NO_SMTPUTF8 = Refused(LocalProtocolError, "needs SMTPUTF8|not ASCII.*not offer SMTPUTF8")
NOT_UTF8 = Refused(LocalProtocolError, "neither ASCII nor UTF-8")
NUL = Refused(LocalProtocolError, "NUL")
DAMAGED = Refused(ValueError, "the header is damaged")
BCC_IN_BODY = Refused(ValueError, "a Bcc field would be sent as a part of the body")
NO_SENDER = Refused(ValueError, "no sender")

#: AS_IS, the name of a file in tests/data/sent, or a refusal.
Outcome = str | Refused


@frozen
class Case:
    """What happens to one message. Each outcome is one for all servers, or one for each of the three.

    ``octets`` is the outcome as bytes, as a file and as an iterable, and ``parsed`` that as an email message. ``to`` are
    the recipients that `send_message` finds, with the domain example.org unless they have another, or its error.
    ``compat32`` is the outcome with that policy if it differs.
    """

    name: str
    octets: Outcome | tuple[Outcome, Outcome, Outcome] = AS_IS
    parsed: Outcome | tuple[Outcome, Outcome, Outcome] = AS_IS
    to: str | Refused = "you"
    compat32: Outcome | None = field(default=None, kw_only=True)


ENCODED_BODY = (NO_8BITMIME, AS_IS, AS_IS)
UTF8_HEADER = (NO_SMTPUTF8, NO_SMTPUTF8, AS_IS)
LATIN1_HEADER = (NO_SMTPUTF8, NO_SMTPUTF8, NOT_UTF8)

# fmt: off
CASES = [
    # A line in the header that is not a field; in the first one, the empty line is missing.
    Case("damaged-no-empty-line", parsed="damaged-no-empty-line", to=DAMAGED),
    Case("damaged-line", parsed=BCC_IN_BODY, to=DAMAGED),
    Case("damaged-bcc", parsed=BCC_IN_BODY, to=DAMAGED),
    Case("damaged-continuation", parsed="damaged-continuation", to=DAMAGED),
    Case("damaged-colon", parsed="damaged-colon", to=DAMAGED),
    # Bcc is removed from email messages only.
    Case("bcc", parsed="bcc", to="you hidden secret"),
    Case("bcc-several", parsed="bcc-several", to="you hidden secret"),
    # Address lists whose names have commas, colons and encoded words.
    Case("folded-comma", to="you her"),
    Case("folded-groups", to="you her them"),
    Case("folded-encoded"),
    # VT, FF, FS, GS and RS in fields.
    Case("separators"),
    Case("separators-part"),
    Case("nul-body", NUL, NUL),
    Case("nul-header", NUL, NUL),
    # Line ends: CR CR LF on all lines and on some, LF, CR, and all of them. The parser takes CR CR LF in the header for two.
    Case("crcrlf", to="you her"),
    Case("crcrlf-bcc", parsed="crcrlf-bcc", to="you hidden"),
    Case("crcrlf-some", parsed="crcrlf-some-parsed"),
    Case("lf"),
    Case("cr"),
    Case("mixed-line-ends"),
    # UTF-8 in the header.
    Case("utf8-subject", UTF8_HEADER, ("utf8-subject-ascii", "utf8-subject-ascii", AS_IS)),
    Case("utf8-names", UTF8_HEADER, ("utf8-names-ascii", "utf8-names-ascii", AS_IS), to="you her them"),
    Case("utf8-attachment", ENCODED_BODY, ("utf8-attachment-7bit", "utf8-attachment-8bit", AS_IS)),
    # ISO 8859-1 in the header.
    Case("latin1-subject", LATIN1_HEADER, "latin1-subject-ascii"),
    Case("latin1-names", LATIN1_HEADER, ("latin1-names-7bit", "latin1-names-8bit", "latin1-names-8bit")),
    # Octets above 127 in the body, without and with a character set.
    Case("8bit-no-charset", ENCODED_BODY, ("8bit-no-charset-7bit", AS_IS, AS_IS)),
    Case("8bit-charset", ENCODED_BODY, ("8bit-charset-7bit", AS_IS, AS_IS)),
    Case("8bit-unknown-charset", ENCODED_BODY, ("8bit-unknown-charset-7bit", AS_IS, AS_IS)),
    Case("8bit-binary", ENCODED_BODY, ("8bit-binary-7bit", AS_IS, AS_IS)),
    # Addresses outside ASCII.
    Case("idn", UTF8_HEADER, ("idn-ascii", "idn-ascii", AS_IS), to="you@xn--bcher-kva.example her@xn--bcher-kva.example"),
    Case("idn-full-stops", UTF8_HEADER, ("idn-full-stops-ascii", "idn-full-stops-ascii", AS_IS),
         to="you@xn--r8jz45g.example her them"),
    Case("idn-local-part", UTF8_HEADER, UTF8_HEADER, to="\u00e4nnchen@xn--bcher-kva.example"),
    # An mbox line and a byte order mark before the header. The parser takes the first line of the third one for an mbox line.
    Case("mbox", "mbox", "mbox"),
    Case("mbox-quoted", "mbox-quoted", "mbox-quoted"),
    Case("mbox-like", parsed="mbox-like", to=DAMAGED),
    Case("bom", (NO_8BITMIME, "bom", "bom"), ("bom-7bit", "bom", "bom")),
    Case("bom-mbox", "bom-mbox", "bom-mbox"),
    # Bodies whose first line looks like a part of the header.
    Case("body-space"),
    Case("body-tab"),
    Case("body-field"),
    # Lines of more than 998 octets. With compat32, parsed fields cannot be told from others, which are folded.
    Case("long-body"),
    Case("long-subject", compat32="long-subject-compat32"),
    Case("long-to", to=" ".join(f"user{n}" for n in range(60)), compat32="long-to-compat32"),
    # Parts that are missing. The email package writes an empty line after each header.
    Case("empty", parsed="empty", to=NO_SENDER),
    Case("empty-line", to=NO_SENDER),
    Case("header-only", parsed="header-only"),
    Case("header-unterminated", parsed="header-unterminated"),
    Case("body-only", to=NO_SENDER),
    Case("dots"),
]
# fmt: on


def message_path(name: str) -> Path:
    return DATA / "messages" / f"{name}.eml"


def octets_of(name: str, outcome: str) -> bytes:
    """Return the octets that a server gets."""
    if outcome != AS_IS:
        return (DATA / "sent" / f"{outcome}.eml").read_bytes()
    lines = re.split(rb"\r+\n|\r|\n", message_path(name).read_bytes())
    return b"\r\n".join(lines if lines[-1] == b"" else [*lines, b""])


class Keep(Hooks):
    """Hooks that keep the sender, the recipients and the octets of each message."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, list[str], bytes]] = []

    async def data(self, session: Session, body: Body) -> None:
        envelope = body.envelope
        octets = await body.read()
        # RFC 6152 2 and RFC 6531 3.6: the client declares what it sends.
        assert octets.isascii() or envelope.body_type == "8BITMIME"
        assert octets.partition(b"\r\n\r\n")[0].isascii() or octets.startswith(b"\r\n") or envelope.smtputf8
        self.messages.append((str(envelope.sender), [str(path) for path in envelope.recipients], octets))


def new_server(hooks: Hooks, name: str) -> Server:
    extensions = [each for each in standard() if each.keyword not in SERVERS[name]]
    return Server(hooks, newlines="reject", extensions=extensions)


@asynccontextmanager
async def connected(name: str) -> AsyncGenerator[tuple[Client, Keep]]:
    """Run one of the servers over a stream in memory; yield a client and the hooks of the server."""
    hooks = Keep()
    client_stream, server_stream = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, new_server(hooks, name), server_stream)
        async with Client(client_stream, name="client.test", tls="never") as client:
            yield client, hooks


async def check(
    send: Callable[[], Awaitable[object]], hooks: Keep, name: str, to: Sequence[str], outcome: Outcome
) -> None:
    """Send a message, and compare what the server got with the outcome."""
    hooks.messages.clear()
    if isinstance(outcome, Refused):
        with pytest.raises(outcome.error, match=outcome.pattern):
            await send()
        assert hooks.messages == []
    else:
        await send()
        assert hooks.messages == [(ME, list(to), octets_of(name, outcome))]


def for_server(outcome: Outcome | tuple[Outcome, Outcome, Outcome], server: str) -> Outcome:
    return outcome[list(SERVERS).index(server)] if isinstance(outcome, tuple) else outcome


def recipients_of(case: Case) -> list[str]:
    assert isinstance(case.to, str)
    return [name if "@" in name else f"{name}@example.org" for name in case.to.split()]


def test_all_messages_have_a_case() -> None:
    assert sorted(case.name for case in CASES) == sorted(path.stem for path in (DATA / "messages").glob("*.eml"))
    used = {
        outcome
        for case in CASES
        for outcomes in (case.octets, case.parsed, case.compat32)
        for outcome in (outcomes if isinstance(outcomes, tuple) else [outcomes])
        if isinstance(outcome, str)
    }
    assert used - {AS_IS} == {path.stem for path in (DATA / "sent").glob("*.eml")}


cases = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
servers = pytest.mark.parametrize(
    "server", [pytest.param(name, marks=() if name == "8BITMIME" else pytest.mark.slow) for name in SERVERS]
)


@servers
@cases
async def test_octets(case: Case, server: str) -> None:
    """As bytes, as a file, and as an iterable of pieces of 7 octets."""
    outcome = for_server(case.octets, server)
    path = message_path(case.name)

    async def pieces() -> AsyncIterator[bytes]:
        octets = path.read_bytes()
        for start in range(0, len(octets), 7):
            yield octets[start : start + 7]

    async with connected(server) as (client, hooks):
        for message in (path.read_bytes(), path):
            await check(partial(client.send, ME, [YOU], message), hooks, case.name, [YOU], outcome)
            assert client.usable
        params: dict[str, Any] = {"smtputf8": True} if server == "SMTPUTF8" else {}
        send = partial(client.send, ME, [YOU], pieces(), **params)
        if isinstance(outcome, Refused):  # what is wrong is found while the message is sent
            with pytest.raises(outcome.error):
                await send()
            assert hooks.messages == []
        else:
            await check(send, hooks, case.name, [YOU], outcome)


@servers
@cases
async def test_email_message(case: Case, server: str) -> None:
    """With the envelope from the header, and with another one."""
    text = message_path(case.name).read_bytes()
    async with connected(server) as (client, hooks):
        for name, policy in POLICIES.items():
            outcome = for_server(case.parsed, server)
            if name == "compat32" and case.compat32 is not None:
                outcome = case.compat32
            message: Any = email.message_from_bytes(text, policy=policy)
            send = partial(client.send_message, message, add_headers=False)
            await check(partial(send, ME, [YOU]), hooks, case.name, [YOU], outcome)
            if isinstance(case.to, Refused):
                await check(send, hooks, case.name, [], case.to)
            else:
                await check(send, hooks, case.name, recipients_of(case), outcome)
            for part, other in zip(message.walk(), email.message_from_bytes(text, policy=policy).walk(), strict=True):
                assert list(part.raw_items()) == list(other.raw_items())  # the message was not modified
            assert client.usable


#: What ``smtp-trio send`` refuses: the text that is printed.
INVALID = {
    "empty": "is not a message",
    "empty-line": "is not a message",
    "body-only": "is not a message",
    "mbox-like": "is not a message",
    "damaged-no-empty-line": "'Hello,' is not a header field",
    "damaged-line": "'this line is not a field' is not a header field",
    "damaged-bcc": "'Bcc : hidden@example.org' is not a header field",
    "damaged-continuation": "is not a message",
    "damaged-colon": "is damaged",
}


@servers
async def test_program(server: str) -> None:
    """``smtp-trio send`` sends the octets of a file without Bcc, or encodes them as those of an email message."""
    valid = [case for case in CASES if case.name not in INVALID]
    hooks = Keep()
    async with trio.open_nursery() as nursery:
        running = new_server(hooks, server)
        [listener] = await nursery.start(running.serve, 0, HOST)
        option = f"--server={HOST}:{listener.socket.getsockname()[1]}"
        files = [f"{case.name}.eml" for case in valid]
        code, out, _ = await run("-m", "smtp_trio", "send", option, *files, cwd=DATA / "messages")
        await running.stop()

    expected = []
    refused = []
    for case in valid:
        octets, parsed = for_server(case.octets, server), for_server(case.parsed, server)
        outcome = parsed if isinstance(octets, Refused) or "bcc" in case.name else octets
        if isinstance(outcome, Refused):
            refused.append(f"{case.name}.eml")
        else:
            expected.append((ME, recipients_of(case), octets_of(case.name, outcome)))
    assert hooks.messages == expected
    assert code == 1
    lines = [line.split("  ") for line in out.splitlines()]
    assert {line[-1] for line in lines if line[0] == "refused"} == set(refused)


@pytest.mark.slow
@pytest.mark.parametrize("name", INVALID)
async def test_program_refuses_a_file(name: str) -> None:
    code, out, err = await run("-m", "smtp_trio", "send", "--server=localhost:1", f"{name}.eml", cwd=DATA / "messages")
    assert (code, out) == (2, "")
    assert INVALID[name] in err


# --- messages changed at random ---------------------------------------------------------------------------------------

TEXTS = [path.read_bytes() for path in sorted((DATA / "messages").glob("*.eml"))]
PIECES = [
    *(b"\r\n", b"\n", b"\r", b"\r\r\n", b" ", b"\t", b": ", b";", b'"', b"(", b")", b"<", b">", b"@", b",", b"\\", b"--x"),
    *("\u00e9".encode(), b"\xe9", "\u3002".encode(), "\U0001f600".encode(), codecs.BOM_UTF8, b"=?utf-8?q?=C3=A9?=", b"\0", b"\v"),
    *(b"From ", b"Bcc: h@x\r\n", b"To: \xe9 <\xe9@\xe9>\r\n", b'filename*0="\xc3\xa9"', b"name=\xe9", b"charset=utf-8"),
    *(b"Content-Type: multipart/mixed; boundary=x\r\n", b"Content-Type: message/rfc822\r\n", b"base64", b"quoted-printable\r\n"),
    b"Content-Transfer-Encoding: ",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
async def test_no_message_gains_fields(data: st.DataObject) -> None:
    """An email message is refused, or sent with fields that it has, without Bcc."""
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(text)))
        text = (
            text[:start]
            + data.draw(st.sampled_from(PIECES))
            + text[start + data.draw(st.sampled_from([0, 0, 1, 5, 30])) :]
        )
    policy = data.draw(st.sampled_from(list(POLICIES.values())))
    missing = SERVERS[data.draw(st.sampled_from(list(SERVERS)))]
    message = email.message_from_bytes(text, policy=policy)
    try:
        sent = await prepare_message(message, eight_bit="8BITMIME" not in missing, utf8="SMTPUTF8" not in missing)
    except (ValueError, LocalProtocolError):
        return
    assert sent.octets is not None
    assert sent.octets.isascii() or "8BITMIME" not in missing
    names = {name.lower() for name in email.message_from_bytes(sent.octets).keys()}  # noqa: SIM118
    lines = re.split(rb"[\r\n]+", text.replace(codecs.BOM_UTF8, b""))
    fields = {match[1].decode().lower() for line in lines if (match := re.match(rb"([!-9;-~]+)[ \t]*:", line))}
    assert names <= (fields - {"bcc"}) | {"mime-version", "content-transfer-encoding"}
