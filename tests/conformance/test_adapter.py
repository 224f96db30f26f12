"""The adapter for conformance runners, against scripted servers: what goes over the wire, and what is raised, and when."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from adapter import run

HOST = "127.0.0.1"
MESSAGE = r"Subject: x\r\n\r\nbody\r\n"


class Peer:
    """The server's end of one connection: says what it is told to, and keeps all that it hears."""

    def __init__(self, connection: socket.socket) -> None:
        self.heard: bytes = b""
        self._socket = connection
        self._file = connection.makefile("rb")

    def say(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def hear(self, start: bytes) -> None:
        """A line, which begins like this."""
        line = self._file.readline()
        self.heard += line
        assert line.startswith(start), line

    def ask(self, reply: bytes, then: bytes) -> None:
        """Say a reply, and hear a line."""
        self.say(reply + b"\r\n")
        self.hear(then)

    def message(self) -> bytes:
        """The octets of a message, to its very end."""
        lines = []
        while (line := self._file.readline()) != b".\r\n":
            assert line, "the message has no end"
            lines.append(line)
        return b"".join(lines)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self._socket = secure = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._file = secure.makefile("rb")
        secure.do_handshake()

    def part(self) -> None:
        """Hear what is still said, until the client has closed. QUIT is answered."""
        with suppress(ConnectionError, ssl.SSLError):
            for line in self._file:
                self.heard += line
                if line == b"QUIT\r\n":
                    self.say(b"221 bye\r\n")

    def leave(self) -> None:
        """From now on there are no answers, which the client gets to know."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


Script = Callable[[Peer], None]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def cafile(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return str(path)


@contextmanager
def serving(script: Script) -> Iterator[tuple[int, Callable[[], Peer]]]:
    """A server for one connection. Yields its port, and what gives the peer once the script is over, or raises as it did."""

    def serve() -> Peer:
        connection, _ = listener.accept()
        connection.settimeout(20)
        peer = Peer(connection)
        try:
            peer.ask(b"220 mx.test ESMTP", b"EHLO client.test\r\n")
            script(peer)
            peer.part()
        finally:
            peer.close()
        return peer

    with socket.create_server((HOST, 0)) as listener, ThreadPoolExecutor(1) as threads:
        listener.settimeout(20)
        server = threads.submit(serve)
        yield listener.getsockname()[1], server.result


def talk(script: Script, cafile: str, **call: Any) -> tuple[dict[str, Any], bytes]:
    """One send to such a server: what the adapter says of it, and what the server heard."""
    call = {"mail_from": "a@client.test", "rcpts": ["user@example.com"], "data": MESSAGE, "cafile": cafile, **call}
    with serving(script) as (port, peer):
        outcome = run(HOST, port, call)
        return outcome, peer().heard


def envelope(peer: Peer, offer: bytes = b"250 mx.test") -> None:
    """As far as 354."""
    peer.ask(offer, b"MAIL FROM:<a@client.test>")
    peer.ask(b"250 ok", b"RCPT TO:<user@example.com>\r\n")
    peer.ask(b"250 ok", b"DATA\r\n")
    peer.say(b"354 go\r\n")


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        (MESSAGE, b"Subject: x\r\n\r\nbody\r\n"),
        (r"\r\n.start\r\nx\r\n", b"\r\n..start\r\nx\r\n"),
        (r"\r\na\r\n.\r\nb\r\n", b"\r\na\r\n..\r\nb\r\n"),
        (r"\r\na\n.\nMAIL FROM:<x@y>\r.\rz", b"\r\na\r\n..\r\nMAIL FROM:<x@y>\r\n..\r\nz\r\n"),
        (r"\r\nlast", b"\r\nlast\r\n"),
        (r"\r\na\r\n.", b"\r\na\r\n..\r\n"),
    ],
    ids=["plain", "dot first", "lone dot", "bare LF and CR", "no line end", "dot at the end"],
)
def test_dots_and_line_ends_are_right_on_the_wire(data: str, wire: bytes, cafile: str) -> None:
    def script(peer: Peer) -> None:
        envelope(peer)
        assert peer.message() == wire
        peer.say(b"250 queued\r\n")

    assert talk(script, cafile, data=data)[0] == {"ok": True, "exc": None}


def test_data_can_be_repeated(cafile: str) -> None:
    def script(peer: Peer) -> None:
        envelope(peer)
        assert peer.message() == b"Subject: x\r\n\r\nbody\r\n" + b"yy\r\n" * 50000
        peer.say(b"250 queued\r\n")

    assert talk(script, cafile, data_repeat=[r"yy\r\n", 50000])[0]["ok"]


@pytest.mark.parametrize(
    "call",
    [
        {"mail_from": "a@client.test>\r\nRCPT TO:<evil@evil.test"},
        {"mail_from": "a@client.test>\nRCPT TO:<evil@evil.test"},
        {"mail_from": "a@client.test>\rRCPT TO:<evil@evil.test"},
        {"mail_from": "a\0@client.test"},
        {"mail_from": "a@client.test> SIZE=1 X=<"},
        {"rcpts": ["user@example.com", "user@example.com>\r\nDATA"]},
        {"rcpts": ["user@example.com\tX"]},
        {"rcpts": [""]},
        {"mail_options": ["BODY=8BITMIME\r\nDATA"]},
    ],
    ids=lambda call: ascii(call),
)
def test_an_argument_that_would_be_more_than_one_is_a_value_error_and_not_sent(
    call: dict[str, Any], cafile: str
) -> None:
    def script(peer: Peer) -> None:
        peer.say(b"250-mx.test\r\n250 8BITMIME\r\n")

    outcome, heard = talk(script, cafile, **call)

    assert outcome["exc"].startswith("ValueError(")
    assert heard == b"EHLO client.test\r\n"


def test_a_field_that_would_be_more_than_one_is_a_value_error() -> None:
    call = {"mail_from": "", "rcpts": [], "data": MESSAGE, "headers": {"Subject": "x\r\nBcc: evil@evil.test"}}

    assert run(HOST, 0, call)["exc"].startswith("ValueError(")


def test_an_option_goes_out_as_it_was_given(cafile: str) -> None:
    def script(peer: Peer) -> None:
        envelope(peer, b"250-mx.test\r\n250 8BITMIME")
        peer.message()
        peer.say(b"250 queued\r\n")

    outcome, heard = talk(script, cafile, mail_options=["BODY=8BITMIME"])

    assert outcome["ok"]
    assert b"MAIL FROM:<a@client.test> BODY=8BITMIME\r\n" in heard


def test_a_bcc_is_not_sent(cafile: str) -> None:
    def script(peer: Peer) -> None:
        envelope(peer)
        assert b"hidden" not in peer.message()
        peer.say(b"250 queued\r\n")

    assert talk(script, cafile, headers={"Bcc": "hidden@example.com"})[0]["ok"]


# --- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "raised"),
    [
        (b"250-first\r\n550 second\r\n", "RemoteProtocolError"),  # RFC 5321 4.2.1
        (b"hello there\r\n", "RemoteProtocolError"),
        (b"999 ok\r\n", "RemoteProtocolError"),
        (b"100 hold\r\n", "RemoteProtocolError"),
        (b"250 ok\n", "RemoteProtocolError"),
        (b"354 go\r\n", "RemoteProtocolError"),
        (b"221 bye\r\n", "RemoteProtocolError"),
        (b"250-more\r\n" * 1000, "RemoteProtocolError"),
        (b"450 4.2.1 later\r\n", "AllRecipientsRejectedError"),
        (b"550 5.7.1 no\r\n", "AllRecipientsRejectedError"),
        (b"421 4.3.2 gone\r\n", "AllRecipientsRejectedError"),
    ],
    ids=["two codes", "no code", "9yz", "1yz", "bare LF", "3yz", "221", "no end", "4yz", "5yz", "421"],
)
def test_what_is_no_yes_to_mail_is_never_taken_for_one(reply: bytes, raised: str, cafile: str) -> None:
    def script(peer: Peer) -> None:
        peer.ask(b"250 mx.test", b"MAIL FROM:<a@client.test>")
        peer.say(reply)

    outcome, heard = talk(script, cafile)

    assert outcome["exc"].startswith(f"{raised}(")
    assert b"RCPT" not in heard


@pytest.mark.parametrize("surprise", [b"250 surprise\r\n", b"250 surp"])
def test_a_reply_that_nobody_asked_for_never_answers_the_next_question(surprise: bytes, cafile: str) -> None:
    def script(peer: Peer) -> None:
        peer.say(b"250 mx.test\r\n" + surprise)

    outcome, heard = talk(script, cafile)

    assert outcome["exc"].startswith("RemoteProtocolError(")
    assert heard == b"EHLO client.test\r\n"


def test_the_verdict_in_the_middle_of_a_message_is_what_is_raised(cafile: str) -> None:
    def script(peer: Peer) -> None:
        envelope(peer)
        peer.hear(b"Subject: x\r\n")
        peer.say(b"552 5.3.4 too big\r\n")

    outcome, _ = talk(script, cafile, data_repeat=["y" * 998 + r"\r\n", 20000])

    assert outcome["exc"].startswith("AllRecipientsRejectedError(")
    assert "552 5.3.4 too big" in outcome["exc"]


@pytest.mark.parametrize("reply", [b"", b"354 go on\r\n", b"what?\r\n"])
def test_no_answer_to_a_whole_message_leaves_it_open_whether_it_was_taken(reply: bytes, cafile: str) -> None:
    def script(peer: Peer) -> None:
        envelope(peer)
        peer.message()
        peer.say(reply)
        peer.leave()

    assert talk(script, cafile)[0]["exc"].startswith("DeliveryUnknownError(")


# --- TLS and AUTH ---------------------------------------------------------------------------------------------------


def test_only_220_starts_tls(cafile: str) -> None:
    def script(peer: Peer) -> None:
        peer.ask(b"250-mx.test\r\n250 STARTTLS", b"STARTTLS\r\n")
        peer.say(b"250 sure\r\n")

    outcome, heard = talk(script, cafile, require_tls=True)

    assert outcome["exc"].startswith("RemoteProtocolError(")
    assert b"MAIL" not in heard


def test_tls_that_is_needed_and_not_offered_ends_it(cafile: str) -> None:
    outcome, heard = talk(lambda peer: peer.say(b"250 mx.test\r\n"), cafile, require_tls=True)

    assert outcome["exc"].startswith("NotOfferedError(")
    assert heard == b"EHLO client.test\r\nQUIT\r\n"


@pytest.mark.parametrize(("name", "ok"), [(HOST, True), ("other.test", False)])
def test_the_certificate_must_be_the_hosts(name: str, ok: bool, ca: trustme.CA, cafile: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)

    def script(peer: Peer) -> None:
        peer.ask(b"250-mx.test\r\n250 STARTTLS", b"STARTTLS\r\n")
        peer.say(b"220 go\r\n")
        try:
            peer.start_tls(context)
        except (ssl.SSLError, ConnectionError):
            assert not ok
            return
        peer.hear(b"EHLO client.test\r\n")
        envelope(peer)
        peer.message()
        peer.say(b"250 queued\r\n")

    outcome, heard = talk(script, cafile, require_tls=True)

    assert outcome["ok"] == ok
    assert (b"MAIL" in heard) == ok
    assert ok or outcome["exc"].startswith("TlsHandshakeError(")


def test_a_refused_password_is_not_in_what_is_raised(cafile: str) -> None:
    def script(peer: Peer) -> None:
        peer.ask(b"250-mx.test\r\n250 AUTH PLAIN", b"AUTH PLAIN AHRlc3QAczNjcjN0\r\n")
        peer.say(b"535 5.7.8 no\r\n")

    outcome, heard = talk(script, cafile, username="test", password="s3cr3t", allow_cleartext=True)

    assert outcome["exc"].startswith("ReplyError(")
    assert "s3cr3t" not in outcome["exc"]
    assert b"MAIL" not in heard


def test_a_password_does_not_go_in_clear_text_unless_that_is_allowed(cafile: str) -> None:
    outcome, heard = talk(lambda peer: peer.say(b"250 AUTH PLAIN\r\n"), cafile, username="test", password="s3cr3t")

    assert not outcome["ok"]
    assert b"AUTH" not in heard
