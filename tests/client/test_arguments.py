"""Arguments of the client: invalid ones, kinds of messages, and the MAIL and RCPT parameters that they need."""

from __future__ import annotations

import email.message
import email.policy
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import (
    EXPECT_CLOSE,
    GO_AHEAD,
    ME,
    MESSAGE,
    OK,
    READ_BODY,
    UNPIPELINED,
    YOU,
    ReadOctets,
    Step,
    hello,
    scripted,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import Client, LocalProtocolError, NotOfferedError, ReplyError

EXTENSIONS = ("8BITMIME", "SMTPUTF8", "SIZE 1000", "DSN")


def message(**fields: str) -> email.message.EmailMessage:
    made = email.message.EmailMessage()
    for name, value in {"From": ME, "To": YOU, "Subject": "hi", **fields}.items():
        made[name.replace("_", "-")] = value
    made.set_content("hello\n")
    return made


def transaction(mail: str = "MAIL FROM:<.*>", *rcpts: str) -> tuple[Step, ...]:
    """Return the steps of a transaction with these command lines."""
    steps = [step for rcpt in rcpts or ("RCPT TO:<.*>",) for step in (rcpt, OK)]
    return mail, OK, *steps, "DATA", GO_AHEAD, READ_BODY, OK


# --- invalid arguments ------------------------------------------------------------------------------------------------

Call = Callable[[Client], Awaitable[Any]]
INVALID: dict[str, Call] = {
    "sender-crlf": lambda client: client.send("a@b.test>\r\nRCPT TO:<x@y.test", [YOU], MESSAGE),
    "sender-name": lambda client: client.send("Me <me@client.test>", [YOU], MESSAGE),
    "recipient-lf": lambda client: client.send(ME, [YOU, "a\n@b.test"], MESSAGE),
    "recipient-nul": lambda client: client.send(ME, ["a\0@b.test"], MESSAGE),
    "recipient-null": lambda client: client.send(ME, [""], MESSAGE),
    "recipient-long": lambda client: client.send(ME, ["a" * 65 + "@b.test"], MESSAGE),
    "recipient-path": lambda client: client.send(ME, ["a@" + "b" * 250 + ".test"], MESSAGE),
    "no-recipients": lambda client: client.send(ME, [], MESSAGE),
    "many": lambda client: client.send_many([("\r\n", [YOU], MESSAGE)]),
    "envid": lambda client: client.send(ME, [YOU], MESSAGE, envid="x" * 101),
    "envid-crlf": lambda client: client.send(ME, [YOU], MESSAGE, envid="a\r\nb"),
    "ret": lambda client: client.send(ME, [YOU], MESSAGE, ret="HALF"),
    "size": lambda client: client.send(ME, [YOU], MESSAGE, size=-1),
    "body": lambda client: client.send(ME, [YOU], MESSAGE, body="9BIT\r\n"),
    "orcpt": lambda client: client.send(ME, [YOU], MESSAGE, orcpt="rfc822;a\n"),
    "mail": lambda client: client.mail("a\r@b.test"),
    "rcpt": lambda client: client.rcpt("a@b.test>\r\nDATA\r\n"),
    "ehlo": lambda client: client.ehlo("a\r\nb"),
    "helo": lambda client: client.helo("a\0b"),
    "vrfy": lambda client: client.vrfy("a\r\nQUIT"),
    "expn": lambda client: client.expn("a\nb"),
    "help": lambda client: client.help("a\0"),
    "vrfy-long": lambda client: client.vrfy("a" * 600),
    "vrfy-utf8": lambda client: client.vrfy("\xe9"),
}


@pytest.mark.parametrize("kind", INVALID)
async def test_invalid_argument_raises_value_error_and_sends_nothing(autojump_clock: MockClock, kind: str) -> None:
    """The connection stays usable."""
    async with scripted(*hello(*EXTENSIONS), *UNPIPELINED) as script, script.client() as client:
        before = list(script.groups)
        with pytest.raises(ValueError):  # noqa: PT011 - each names its own argument
            await INVALID[kind](client)
        await wait_all_tasks_blocked()
        assert script.groups == before
        assert client.usable
        assert (await client.send(ME, [YOU], MESSAGE)).complete


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda client: client.send(ME, [YOU], "a str"), "must not be a str"),
        (lambda client: client.send(ME, [YOU], 7), "not int"),
        (lambda client: client.send(ME, YOU, MESSAGE), "recipients"),
        (lambda client: client.send(ME, [YOU], MESSAGE, nonsense=1), "nonsense"),
        (lambda client: client.mail(ME, notify=("NEVER",)), "notify"),
    ],
)
async def test_argument_of_wrong_type_raises_type_error(autojump_clock: MockClock, call: Call, match: str) -> None:
    async with scripted(*hello(*EXTENSIONS), EXPECT_CLOSE) as script:
        async with script.client() as client:
            with pytest.raises(TypeError, match=match):
                await call(client)
            assert client.usable
            await client.aclose()


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"size": 10}, "SIZE"),
        ({"ret": "FULL"}, "RET"),
        ({"notify": frozenset({"NEVER"})}, "NOTIFY"),
        ({"smtputf8": True}, "UTF8"),
    ],
)
async def test_parameter_that_the_server_does_not_offer(
    autojump_clock: MockClock, params: dict[str, Any], match: str
) -> None:
    async with scripted(*hello(), *UNPIPELINED) as script, script.client() as client:
        with pytest.raises(NotOfferedError, match=match):
            await client.send(ME, [YOU], MESSAGE, **params)
        await client.send(ME, [YOU], MESSAGE)


# --- envelopes from header fields -------------------------------------------------------------------------------------


async def test_send_message_takes_the_envelope_from_the_header(autojump_clock: MockClock) -> None:
    given = message(Cc="Group: cc1@x.test, Two <cc2@x.test>;", Bcc="secret@x.test", Sender="agent@client.test")
    names = [YOU, "cc1@x.test", "cc2@x.test", "secret@x.test"]
    steps = transaction("MAIL FROM:<agent@client.test>", *[f"RCPT TO:<{name}>" for name in names])
    async with scripted(*hello(), *steps) as script, script.client() as client:
        assert (await client.send_message(given)).complete
    assert b"secret" not in script.bodies[0].lower()
    assert given["Bcc"] == "secret@x.test"


async def test_send_message_prefers_resent_fields(autojump_clock: MockClock) -> None:
    given = message(Resent_From="re@client.test", Resent_To="r1@x.test", Resent_Bcc="r2@x.test")
    steps = transaction("MAIL FROM:<re@client.test>", "RCPT TO:<r1@x.test>", "RCPT TO:<r2@x.test>")
    async with scripted(*hello(), *steps) as script, script.client() as client:
        await client.send_message(given)
    assert b"r2@x.test" not in script.bodies[0]


async def test_send_message_prefers_given_sender_and_recipients(autojump_clock: MockClock) -> None:
    steps = transaction("MAIL FROM:<>", "RCPT TO:<only@x.test>")
    async with scripted(*hello(), *steps) as script, script.client() as client:
        await client.send_message(message(), "", ["only@x.test"])


async def test_send_message_without_recipients(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "NOOP", OK) as script, script.client() as client:
        with pytest.raises(ValueError, match="recipient"):
            await client.send_message(message(To="Nobody:;"))
        await client.noop()


# --- 8BITMIME, SMTPUTF8, SIZE, DSN ------------------------------------------------------------------------------------

EIGHT = b"Subject: hi\r\n\r\ncaf\xc3\xa9\r\n"


async def test_body_parameter_is_sent_only_for_8bit_messages(autojump_clock: MockClock) -> None:
    steps = (*transaction("MAIL FROM:<.*> BODY=8BITMIME"), *transaction("MAIL FROM:<[^ ]*>"))
    async with scripted(*hello("8BITMIME"), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], EIGHT)
        await client.send(ME, [YOU], MESSAGE)
    assert script.bodies == [EIGHT, MESSAGE]


async def test_8bit_message_without_8bitmime(autojump_clock: MockClock) -> None:
    """RFC 6152 3: bytes are not sent; an email message is encoded with another transfer encoding."""
    given = message()
    given.set_content("caf\xe9\n", cte="8bit")
    async with scripted(*hello(), *transaction("MAIL FROM:<[^ ]*>")) as script, script.client() as client:
        with pytest.raises(LocalProtocolError, match="8BITMIME"):
            await client.send(ME, [YOU], EIGHT)
        await client.send_message(given)
    assert script.bodies[0].isascii()
    back = email.message_from_bytes(script.bodies[0], policy=email.policy.default)
    assert isinstance(back, email.message.EmailMessage)
    assert back.get_content() == "caf\xe9\r\n"


@pytest.mark.parametrize(
    ("sender", "recipient", "body", "smtputf8"),
    [
        ("m\xe9@client.test", YOU, MESSAGE, True),
        (ME, "you@\xe9x\xe4mple.test", MESSAGE, False),
        (ME, "y\xf6u@mx.test", MESSAGE, True),
        (ME, YOU, "Subject: \xe9\r\n\r\n".encode(), True),
        (ME, YOU, EIGHT, False),
        (ME, YOU, MESSAGE, False),
    ],
)
async def test_smtputf8_parameter_is_sent_only_if_needed(
    autojump_clock: MockClock, sender: str, recipient: str, body: bytes, smtputf8: bool
) -> None:
    """RFC 6531 3.4. A domain can be encoded as A-labels, and an 8-bit body needs only 8BITMIME."""
    mail = "MAIL FROM:<.*>.* SMTPUTF8" if smtputf8 else "MAIL FROM:<.*>(?!.*SMTPUTF8).*"
    rcpt = "RCPT TO:<.*>" if smtputf8 else r"RCPT TO:<[ -~]*>"
    async with scripted(*hello("8BITMIME", "SMTPUTF8"), *transaction(mail, rcpt)) as script, script.client() as client:
        assert (await client.send(sender, [recipient], body)).complete


@pytest.mark.parametrize(
    ("sender", "recipient", "body"),
    [("m\xe9@client.test", YOU, MESSAGE), (ME, "y\xf6u@mx.test", MESSAGE), (ME, YOU, "Subject: \xe9\r\n\r\n".encode())],
)
async def test_utf8_without_smtputf8_raises_and_sends_nothing(
    autojump_clock: MockClock, sender: str, recipient: str, body: bytes
) -> None:
    async with scripted(*hello("8BITMIME"), *UNPIPELINED) as script, script.client() as client:
        with pytest.raises(LocalProtocolError, match="SMTPUTF8"):
            await client.send(sender, [recipient], body)
        assert len(script.groups) == 1
        await client.send(ME, [YOU], MESSAGE)


async def test_size_is_sent_and_the_limit_is_checked(autojump_clock: MockClock) -> None:
    octets = b"x" * 998 + b"\r\n"
    async with scripted(*hello("SIZE 1000"), *transaction("MAIL FROM:<.*> SIZE=1000")) as script:
        async with script.client() as client:
            with pytest.raises(ReplyError) as caught:
                await client.send(ME, [YOU], octets + b"y")
            assert (caught.value.reply.code, len(script.groups)) == (552, 1)
            assert (await client.send(ME, [YOU], octets)).complete


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0"])
async def test_size_without_a_limit(autojump_clock: MockClock, size: str) -> None:
    mail = f"MAIL FROM:<.*> SIZE={len(MESSAGE)}"
    async with scripted(*hello(size), *transaction(mail)) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE)


async def test_dsn_parameters(autojump_clock: MockClock) -> None:
    mail = r"MAIL FROM:<.*> RET=HDRS ENVID=a\+2Bb"
    rcpt = r"RCPT TO:<.*> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a\+2Bb@x\.test"
    async with scripted(*hello("DSN"), *transaction(mail, rcpt, rcpt)) as script, script.client() as client:
        await client.send(
            ME,
            [YOU, "b@x.test"],
            MESSAGE,
            ret="HDRS",
            envid="a+b",
            notify=frozenset({"DELAY", "FAILURE"}),
            orcpt="rfc822;a+b@x.test",
        )


async def test_notify_may_be_a_tuple(autojump_clock: MockClock) -> None:
    async with scripted(*hello("DSN"), *transaction("MAIL.*", "RCPT TO:<.*> NOTIFY=FAILURE")) as script:
        async with script.client() as client:
            await client.send(ME, [YOU], MESSAGE, notify=("FAILURE",))


# --- kinds of messages ------------------------------------------------------------------------------------------------


class DiskFullError(Exception):
    """Stands for an error of the application."""


async def failing_source() -> AsyncIterator[bytes]:
    yield MESSAGE
    raise DiskFullError


@pytest.mark.parametrize("extensions", [(), ("CHUNKING",)])
async def test_exception_of_the_iterable_passes_unchanged_and_closes(
    autojump_clock: MockClock, extensions: tuple[str, ...]
) -> None:
    """The message is half sent, so the connection must be closed, and the server must not keep the message."""
    steps: tuple[Step, ...] = ("MAIL .*", OK, "RCPT .*", OK)
    data: tuple[Step, ...] = () if extensions else ("DATA", GO_AHEAD, "Subject: hi", "", "hello")
    async with scripted(*hello(*extensions), *steps, *data, EXPECT_CLOSE) as script:
        with pytest.raises(DiskFullError):
            async with script.client() as client:
                await client.send(ME, [YOU], failing_source())
        assert not client.usable
        assert client.last_result is not None
        assert client.last_result.unknown == ()


async def test_iterable_with_progress(autojump_clock: MockClock) -> None:
    seen: list[tuple[int, int | None]] = []

    async def pieces() -> AsyncIterator[bytes]:
        yield b"Subject: hi\n"
        yield b"\n.dot"

    async with scripted(*hello(), *UNPIPELINED) as script, script.client() as client:
        await client.send(ME, [YOU], pieces(), progress=lambda sent, size: seen.append((sent, size)))
    assert script.bodies == [b"Subject: hi\r\n\r\n..dot\r\n"]
    assert seen[-1] == (len(b"Subject: hi\r\n\r\n.dot\r\n"), None)


@pytest.mark.parametrize("extensions", [(), ("CHUNKING",)])
async def test_header_of_an_iterable_needs_smtputf8(autojump_clock: MockClock, extensions: tuple[str, ...]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield "Subject: \u00e9\r\n\r\nx\r\n".encode()

    steps: tuple[Step, ...] = ("MAIL FROM:<.*> SMTPUTF8 BODY=8BITMIME", OK, "RCPT .*", OK)
    steps += ("BDAT 18 LAST", ReadOctets(18), OK) if extensions else ("DATA", GO_AHEAD, READ_BODY, OK)
    steps += (
        "MAIL FROM:<.*> BODY=8BITMIME",
        OK,
        "RCPT .*",
        OK,
        *(() if extensions else ("DATA", GO_AHEAD)),
        EXPECT_CLOSE,
    )
    async with scripted(*hello("8BITMIME", "SMTPUTF8", *extensions), *steps) as script, script.client() as client:
        await client.send(ME, [YOU], pieces(), smtputf8=True)
        with pytest.raises(LocalProtocolError, match="smtputf8=True"):
            await client.send(ME, [YOU], pieces())
        assert client.usable is bool(extensions)  # a chunk that is not complete was not begun
        await client.aclose()
    assert script.bodies == ["Subject: \u00e9\r\n\r\nx\r\n".encode()]


async def test_file_with_progress(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(b"x" * 99 + b"\n" + b"y\r\n" * 70_000)
    wanted = b"x" * 99 + b"\r\n" + b"y\r\n" * 70_000
    seen: list[tuple[int, int | None]] = []
    mail = f"MAIL FROM:<.*> SIZE={path.stat().st_size}"
    async with scripted(*hello("SIZE 0"), *transaction(mail)) as script, script.client() as client:
        await client.send(ME, [YOU], path, progress=lambda sent, size: seen.append((sent, size)))
    assert script.bodies == [wanted]
    assert [sent for sent, _ in seen] == sorted({sent for sent, _ in seen})
    assert len(seen) > 3
    assert seen[-1] == (len(wanted), path.stat().st_size)


async def test_missing_file(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with scripted(*hello(), *UNPIPELINED) as script, script.client() as client:
        with pytest.raises(FileNotFoundError):
            await client.send(ME, [YOU], tmp_path / "nothing")
        await client.send(ME, [YOU], MESSAGE)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_like_message(autojump_clock: MockClock, kind: Callable[[bytes], Any]) -> None:
    seen: list[tuple[int, int | None]] = []
    async with scripted(*hello(), *UNPIPELINED) as script, script.client() as client:
        await client.send(ME, [YOU], kind(MESSAGE), progress=lambda *known: seen.append(known))
    assert script.bodies == [MESSAGE]
    assert seen[-1] == (len(MESSAGE), len(MESSAGE))


async def test_empty_message(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), *UNPIPELINED) as script, script.client() as client:
        assert (await client.send(ME, [YOU], b"")).complete
    assert script.bodies == [b""]


@pytest.mark.parametrize(("sender", "recipients"), [(None, [YOU]), (ME, [None]), (ME, b"you@mx.test")])
async def test_addresses_must_be_str(autojump_clock: MockClock, sender: object, recipients: object) -> None:
    async with scripted(*hello()) as script, script.client() as client:
        with pytest.raises(TypeError, match=r"^(sender|recipients|each item of recipients) must be "):
            await client.send(sender, recipients, MESSAGE)  # type: ignore[arg-type]
