"""BURL (RFC 4468): parts of a message that the application fetches."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import (
    BadCommandError,
    ClientProtocol,
    Command,
    Ehlo,
    Extension,
    Limits,
    Mail,
    NotOfferedError,
    Path,
    Rcpt,
    Reply,
    ServerProtocol,
    standard,
)
from smtp_trio.protocol.extensions import BinaryMime, BurlExtension, Chunking, EightBitMime
from smtp_trio.protocol.extensions.burl import (
    CANNOT_FETCH,
    CONVERSION_REQUIRED,
    NOT_TRUSTED,
    UNAVAILABLE,
    Burl,
    BurlLast,
    check_url,
)
from smtp_trio.protocol.grammar import Grammar

from .driver import HELLO, NAME, RECIPIENT, SENDER, ServerDriver, codes

URL = "imap://x.test/outbox"


def begun(
    *lines: str, user: str | None = "harry", urls: dict[str, list[bytes]] | None = None, **settings: Any
) -> ServerDriver:
    """Return a driver after EHLO, AUTH and these lines."""
    settings = {"hooks": {"burl"}, "extensions": standard(BurlExtension()), **settings}
    driver = ServerDriver(secure=True, **settings).begin()
    driver.urls = {URL: [b"Subject: hi\r\n\r", b"\nhello\r\n"]} if urls is None else urls
    if user is not None:
        driver.protocol.set_authenticated(user)
    assert all(code[0] == "2" for code in codes(driver.send_lines(*lines)))
    return driver


def test_whole_message() -> None:
    driver = begun(SENDER, RECIPIENT)
    assert codes(driver.send_lines(f"BURL {URL} LAST")) == ["250 2.0.0"]
    assert driver.messages == [b"Subject: hi\r\n\r\nhello\r\n"]
    assert codes(driver.send_lines(SENDER)) == ["250 2.1.0"]


def test_whole_transaction_in_one_segment() -> None:
    driver = begun()
    assert codes(driver.send_lines(SENDER, RECIPIENT, f"burl {URL} last", "QUIT")) == [
        "250 2.1.0", "250 2.1.5", "250 2.0.0", "221 2.0.0",
    ]  # fmt: skip
    assert driver.messages == [b"Subject: hi\r\n\r\nhello\r\n"]


def test_mixed_with_chunks() -> None:
    driver = begun(SENDER, RECIPIENT)
    fetched = b"Subject: hi\r\n\r\nhello\r\n"
    assert codes(driver.send(f"BDAT 6\r\nA: b\r\nBURL {URL}\r\nBDAT 6\r\n.\r\nend".encode())) == [
        "250 2.0.0", "250 2.5.0", "250 2.0.0",
    ]  # fmt: skip
    assert codes(driver.send(f"NOOP\r\nBURL {URL}\r\nBDAT 0 LAST\r\n".encode())) == [
        "250 2.0.0",
        "250 2.5.0",
        "250 2.0.0",
    ]
    assert driver.messages == [b"A: b\r\n" + fetched + b".\r\nend" + fetched]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\nb\r\n"], "554 5.6.3"), ([b"a\0b\r\n"], "554 5.6.3"), ([b"x" * 1001], "552 5.3.4"), ([], "250 2.0.0"),
        ([b"\xff\r\n"], "250 2.0.0"), ([b"x" * 1000], "250 2.0.0"), ([b"x\r"], "554 5.6.3"), ([b"."], "250 2.0.0"),
        ([b"Received: x\r\n"] * 9, "554 5.4.6"),
    ],
)  # fmt: skip
def test_fetched_octets_are_checked_like_others(pieces: list[bytes], expected: str) -> None:
    driver = begun(SENDER, RECIPIENT, urls={URL: pieces}, size=1000, limits=Limits(received=5))
    assert codes(driver.send_lines(f"BURL {URL} LAST", "NOOP")) == [expected, "250 2.0.0"]
    assert driver.messages == ([b"".join(pieces)] if expected[0] == "2" else [])


def test_refused_part_ends_the_message() -> None:
    """As a refused BDAT does (RFC 3030 2)."""
    driver = begun(SENDER, RECIPIENT, answer=lambda c: CANNOT_FETCH if c == Burl("x:bad") else None)
    assert codes(driver.send_lines("BURL x:bad", f"BURL {URL} LAST", "BDAT 0 LAST", SENDER, "RSET", SENDER)) == [
        "554 5.6.6", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0", "250 2.1.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "expected"),
    [(NOT_TRUSTED, "554 5.7.14"), (CANNOT_FETCH, "554 5.6.6"), (UNAVAILABLE, "451 4.4.1"), (CONVERSION_REQUIRED, "554 5.6.3")],
)  # fmt: skip
def test_application_refuses_the_last_part(reply: Reply, expected: str) -> None:
    driver = begun(SENDER, RECIPIENT, answer=lambda c: reply if isinstance(c, BurlLast) else None)
    assert codes(driver.send_lines(f"BURL {URL} LAST", SENDER)) == [expected, "250 2.1.0"]
    assert driver.messages == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "503 5.5.0"), ([SENDER], "503 5.5.0"), ([SENDER, "RCPT TO:<no@x>"], "554 5.5.0"),
        ([SENDER, RECIPIENT, "BDAT 0"], "250 2.0.0"),
    ],
)  # fmt: skip
def test_recipients_are_required(lines: list[str], expected: str) -> None:
    driver = begun()
    driver.send_lines(*lines)
    assert codes(driver.send_lines(f"BURL {URL} LAST", "NOOP")) == [expected, "250 2.0.0"]


INVALID = [
    "",
    "imap",
    "imap:",
    f"{URL} FIRST",
    f"{URL} LAST LAST",
    "/outbox",
    "1:x",
    f"{URL} LA\u017fT",
    "x:\u00e9",
    "imap LAST",
]


@pytest.mark.parametrize("argument", INVALID)
@pytest.mark.parametrize("lines", [(), ("BDAT 0",), (f"BURL {URL}",)], ids=["first", "after BDAT", "after BURL"])
def test_invalid_burl(argument: str, lines: tuple[str, ...]) -> None:
    """A part of the message is missing, so no later part can complete it (RFC 3030 2)."""
    driver = begun(SENDER, RECIPIENT)
    driver.send_lines(*lines)
    assert codes(driver.send_lines(f"BURL {argument}", "NOOP", "BDAT 0 LAST", f"BURL {URL} LAST", SENDER, "RSET", SENDER)) == [
        "501 5.5.4", "250 2.0.0", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0", "250 2.1.0"
    ]  # fmt: skip
    assert driver.messages == []


@pytest.mark.parametrize("lines", [(), ("BDAT 0",)], ids=["first", "after BDAT"])
def test_line_that_is_too_long(lines: tuple[str, ...]) -> None:
    driver = begun(SENDER, RECIPIENT)
    driver.send_lines(*lines)
    assert codes(driver.send_lines(f"BURL {URL}{'x' * 3000}", "BDAT 0 LAST", "RSET")) == [
        "500 5.5.2", "503 5.5.1", "250 2.0.0"
    ]  # fmt: skip
    assert driver.messages == []


@pytest.mark.parametrize("line", [f"BURL {URL}\n", f"BURL {URL} LAST\rx", f" burl {URL}\n"])
def test_line_with_a_bare_line_end(line: str) -> None:
    driver = begun(SENDER, RECIPIENT, "BDAT 0")
    assert codes(driver.send_lines(line, "BDAT 0 LAST", "RSET"))[-2:] == ["503 5.5.1", "250 2.0.0"]
    assert driver.messages == []


@pytest.mark.parametrize("lines", [(HELLO,), (HELLO, SENDER)], ids=["no transaction", "no recipient"])
def test_invalid_burl_outside_of_a_message(lines: tuple[str, ...]) -> None:
    driver = begun(*lines)
    assert codes(driver.send_lines("BURL imap", RECIPIENT if SENDER in lines else SENDER))[0] == "501 5.5.4"
    assert driver.protocol.state.mail is not None


def test_invalid_burl_can_be_one_error_too_many() -> None:
    driver = begun(SENDER, RECIPIENT, "BDAT 0", limits=Limits(errors=2))
    assert codes(driver.send_lines("BURL imap", "BURL imap")) == ["501 5.5.4", "421 4.7.0"]
    assert driver.protocol.closed


# --- 8-bit and binary (RFC 4468 4, 6) --------------------------------------------------------------------------------

BINARY_SENDER = f"{SENDER} BODY=BINARYMIME"


@pytest.mark.parametrize("body", ["", " BODY=7BIT", " BODY=8BITMIME"])
def test_text_with_8_bits_is_accepted(body: str) -> None:
    """As by DATA. The program that passes it on to a server of 7 bits has to convert it."""
    driver = begun(SENDER + body, RECIPIENT, urls={URL: [b"A: b\r\n\r\n", b"\xc3", b"\xbc\r\n"]})
    assert codes(driver.send_lines(f"BURL {URL} LAST")) == ["250 2.0.0"]
    assert driver.messages == [b"A: b\r\n\r\n\xc3\xbc\r\n"]


BINARY = [[b"a\0b"], [b"a\n"], [b"a\rb"], [b"a\r", b"b"], [b"a\r\n", b"\n"], [b"\r"]]


@pytest.mark.parametrize("pieces", BINARY)
@pytest.mark.parametrize("body", ["", " BODY=8BITMIME"])
def test_binary_data_needs_a_conversion(pieces: list[bytes], body: str) -> None:
    driver = begun(SENDER + body, RECIPIENT, urls={URL: pieces})
    assert codes(driver.send_lines(f"BURL {URL} LAST", SENDER)) == ["554 5.6.3", "250 2.1.0"]
    assert driver.messages == []
    # what the client sends itself has the usual replies
    assert codes(driver.send_lines("RSET", SENDER + body, RECIPIENT))[-1] == "250 2.1.5"
    assert codes(driver.send(b"BDAT 4 LAST\r\na\0\r\n")) == ["550 5.6.0"]


@pytest.mark.parametrize("pieces", BINARY)
def test_binary_message(pieces: list[bytes]) -> None:
    extensions = standard(BurlExtension(), BinaryMime())
    driver = begun(BINARY_SENDER, RECIPIENT, urls={URL: pieces}, extensions=extensions)
    # The message goes on after an octet that could begin a CRLF.
    assert codes(driver.send(f"BURL {URL}\r\nBDAT 2 LAST\r\n\0\n".encode())) == ["250 2.5.0", "250 2.0.0"]
    assert driver.messages == [b"".join(pieces) + b"\0\n"]
    assert codes(driver.send_lines(BINARY_SENDER, RECIPIENT, "DATA"))[-1] == "503 5.5.1"


def test_binary_message_is_not_offered_by_default() -> None:
    driver = begun()
    assert codes(driver.send_lines(BINARY_SENDER)) == ["501 5.5.4"]
    assert {"8BITMIME", "CHUNKING"} < {line[4:] for line in driver.send_lines(HELLO)[0].split("\n")}


@pytest.mark.parametrize("source", ["imap\r\nAUTH PLAIN", "imap\n", "a b", "", "\u00e9"])
def test_sources_are_words_of_the_offer(source: str) -> None:
    with pytest.raises(ValueError, match="sources must be words"):
        BurlExtension(["imap", source])


def test_client_ignores_invalid_sources() -> None:
    assert BurlExtension().parse_offer(["imap", "\u00e9", "imap://x.test"]).sources == ("imap", "imap://x.test")


@pytest.mark.parametrize("needed", [Chunking, EightBitMime])
def test_extension_requires_others(needed: type[Extension]) -> None:
    """RFC 4468 4: a server that offers BURL must offer 8BITMIME."""
    with pytest.raises(ValueError, match=f"BURL requires {needed.keyword}"):
        Grammar(
            [extension for extension in (BurlExtension(), Chunking(), EightBitMime()) if type(extension) is not needed]
        )


# --- offers ----------------------------------------------------------------------------------------------------------


def test_sources_are_shown_after_auth() -> None:
    driver = begun(user=None, extensions=standard(BurlExtension(["imap", "imap://imap.x.test"])))
    assert "BURL" in {line[4:] for line in driver.send_lines(HELLO)[0].split("\n")}
    assert codes(driver.send_lines(SENDER, RECIPIENT, f"BURL {URL} LAST")) == ["250 2.1.0", "250 2.1.5", "530 5.7.0"]
    driver.protocol.set_authenticated("harry")
    assert "BURL imap imap://imap.x.test" in {line[4:] for line in driver.send_lines(HELLO)[0].split("\n")}
    anyone = begun(SENDER, RECIPIENT, user=None, extensions=standard(BurlExtension(authenticated=False)))
    assert codes(anyone.send_lines(f"BURL {URL} LAST")) == ["250 2.0.0"]


def test_without_the_hook_it_is_not_implemented() -> None:
    driver = begun(SENDER, RECIPIENT, hooks=set())
    assert "BURL" not in driver.send_lines("EHLO x")[0]
    driver.send_lines(SENDER, RECIPIENT)
    assert codes(driver.send_lines(f"BURL {URL} LAST", "NOOP")) == ["502 5.5.1", "250 2.0.0"]


def test_end_of_the_input_does_not_end_the_fetch() -> None:
    driver = begun(SENDER, RECIPIENT)
    driver.protocol.receive_data(f"BURL {URL} LAST\r\n".encode())
    driver.protocol.receive_data(b"")
    driver.feed(b"")
    assert driver.messages == [b"Subject: hi\r\n\r\nhello\r\n"]


def test_application_is_asked_for_octets() -> None:
    protocol: ServerProtocol = begun(SENDER, RECIPIENT).protocol
    assert not protocol.fetching
    protocol.receive_data(f"BURL {URL} LAST\r\nNOOP\r\n".encode())
    assert protocol.next_event() == BurlLast(URL)
    assert [protocol.next_event().__class__.__name__ for _ in range(2)] == ["Signal"] * 2
    assert protocol.fetching
    protocol.add_fetched(b"a\r\n")
    assert protocol.next_event() == b"a\r\n"
    protocol.close(Reply(421, f"{NAME} stopping"))
    assert not protocol.fetching


# --- the client ------------------------------------------------------------------------------------------------------


def client(*lines: str) -> ClientProtocol:
    protocol = ClientProtocol()
    replies = ["220 mx.test", *(f"250-{line}" for line in ("mx.test", "PIPELINING", *lines)), "250 HELP"]
    commands: list[Command] = [Ehlo("client.test")]
    protocol.receive_data(f"{replies[0]}\r\n".encode())
    protocol.next_event()
    protocol.send_command(commands[0])
    protocol.receive_data("".join(f"{line}\r\n" for line in replies[1:]).encode())
    protocol.next_event()
    protocol.data_to_send()
    return protocol


def test_client_sends_a_transaction_in_one_group() -> None:
    protocol, path = client("8BITMIME", "CHUNKING", "BURL imap"), Path("a@b", "a", "b")
    assert protocol.offered["BURL"] == BurlExtension(("imap",))
    for command in (Mail(path), Rcpt(path), Burl(URL), BurlLast("imap://x.test/2")):
        protocol.send_command(command)
    assert protocol.data_to_send().split(b"\r\n")[2:4] == [f"BURL {URL}".encode(), b"BURL imap://x.test/2 LAST"]


def test_client_needs_the_offer_and_a_url() -> None:
    with pytest.raises(NotOfferedError):
        client("CHUNKING").send_command(Burl(URL))
    with pytest.raises(ValueError, match="absolute URI"):
        check_url("outbox")
    assert check_url(URL) == URL
    with pytest.raises(TypeError, match="url"):
        check_url(b"x:y")  # type: ignore[arg-type]
    with pytest.raises(BadCommandError):
        Burl.decode("", {})
