"""The fixture server itself, asked over real sockets: its mailboxes, its faults, its profiles."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURE = Path(__file__).with_name("fixture.py")
PROFILES = ("mx", "submission", "smtps")
SECRET = base64.b64encode(b"\0test\0secret").decode()
# The certificate is made when the fixture starts and leaves it with nobody: these tests look at SMTP, not at trust.
BLIND = ssl.create_default_context()
BLIND.check_hostname = False
BLIND.verify_mode = ssl.CERT_NONE


class Peer:
    """A client that says what it is told to and reads one reply at a time."""

    def __init__(self, port: int, *, tls: bool = False) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        if tls:
            self.upgrade()
        else:
            self.file = self.socket.makefile("rb")

    def upgrade(self) -> None:
        self.socket = BLIND.wrap_socket(self.socket)
        self.file = self.socket.makefile("rb")

    def reply(self) -> str:
        lines = [self.file.readline()]
        while lines[-1][3:4] == b"-":
            lines.append(self.file.readline())
        return b"".join(lines).decode()

    def say(self, line: str | bytes) -> str:
        self.socket.sendall((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.reply()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sink")


@pytest.fixture(scope="module")
def ports(sink: Path) -> Iterator[dict[str, int]]:
    command = [sys.executable, str(FIXTURE), "--port=0", "--submission-port=0", "--smtps-port=0", f"--sink={sink}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline().split() for _ in PROFILES]
            yield {profile: int(port) for profile, _, port in lines}
        finally:
            server.terminate()
            assert server.wait(10) == 0


@pytest.fixture
def mx(ports: dict[str, int]) -> Iterator[Peer]:
    with session(ports["mx"]) as peer:
        yield peer


@contextmanager
def session(port: int, *, tls: bool = False) -> Iterator[Peer]:
    peer = Peer(port, tls=tls)
    try:
        assert peer.reply().startswith("220 mx.test ")
        assert peer.say("EHLO client.test").startswith("250-mx.test")
        yield peer
        assert peer.say("QUIT").startswith("221 2.0.0 mx.test")
        assert peer.file.read() == b""
    finally:
        peer.close()


def deliver(peer: Peer, content: bytes, *, sender: str = "a@client.test", to: str = "user@example.com") -> str:
    assert peer.say(f"MAIL FROM:<{sender}>").startswith("250 2.1.0 ")
    assert peer.say(f"RCPT TO:<{to}>").startswith("250 ")
    assert peer.say("DATA").startswith("354 ")
    return peer.say(content + b"\r\n.")


@pytest.mark.parametrize(
    ("recipient", "answer"),
    [
        ("user@example.com", "250 2.1.5 "),
        ("recipient@EXAMPLE.com", "250 2.1.5 "),
        ("ok-whoever@example.com", "250 2.1.5 "),
        ("PostMaster", "250 2.1.5 "),
        ("pOSTmASTER@example.com", "250 2.1.5 "),
        ("@relay.test:user@example.com", "250 2.1.5 "),
        ("nobody@example.com", "550 5.1.1 "),
        ("later@example.com", "450 4.2.1 "),
        ("user@elsewhere.test", "550 5.7.1 "),
        ("postmaster@elsewhere.test", "550 5.7.1 "),
        ("crash@example.com", "451 4.3.0 "),
        ("badcode@example.com", "451 4.3.0 "),
    ],
)
def test_every_mailbox_has_its_answer(mx: Peer, recipient: str, answer: str) -> None:
    assert mx.say("MAIL FROM:<a@client.test>").startswith("250 ")

    said = mx.say(f"RCPT TO:<{recipient}>")

    assert said.startswith(answer)
    assert "SECRET" not in said


def test_a_line_break_in_a_reply_makes_one_reply_of_two_lines(mx: Peer) -> None:
    assert mx.say("MAIL FROM:<a@client.test>").startswith("250 ")

    assert mx.say("RCPT TO:<crlfreply@example.com>").splitlines() == ["250-2.1.5 ok", "250 2.1.5 221 bye"]
    assert mx.say("NOOP").startswith("250 2.0.0 ")


def test_a_message_lands_in_the_sink(mx: Peer, sink: Path) -> None:
    before = set(sink.iterdir())

    assert deliver(mx, b"Subject: x\r\n\r\n..\r\n", sender="").startswith("250 2.0.0 ")

    (file,) = set(sink.iterdir()) - before
    assert file.read_bytes() == b"ENV <> <user@example.com>\nSubject: x\r\n\r\n.\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "to", "answer"),
    [
        (b"x", "ok-crashdata@example.com", "451 4.3.0 "),
        (b"x\n.\r\ny", "user@example.com", "550 5.5.2 "),
        (b"x" * 1048575, "user@example.com", "552 5.3.4 "),
    ],
    ids=["hook raises", "bare LF", "too big"],
)
def test_what_is_refused_leaves_nothing(mx: Peer, sink: Path, content: bytes, to: str, answer: str) -> None:
    before = set(sink.iterdir())

    said = deliver(mx, content, to=to)

    assert said.startswith(answer)
    assert "SECRET" not in said
    assert set(sink.iterdir()) == before


def test_a_message_may_have_a_hundred_recipients(mx: Peer) -> None:
    assert mx.say("MAIL FROM:<a@client.test>").startswith("250 ")
    for number in range(100):
        assert mx.say(f"RCPT TO:<ok-{number}@example.com>").startswith("250 ")

    assert mx.say("RCPT TO:<user@example.com>").startswith("452 4.5.3 ")


def test_submission_wants_tls_then_a_password(ports: dict[str, int]) -> None:
    with session(ports["submission"]) as peer:
        assert peer.say("MAIL FROM:<test@example.com>").startswith("530 5.7.0 ")
        assert peer.say(f"AUTH PLAIN {SECRET}").startswith("530 5.7.0 ")
        assert peer.say("STARTTLS").startswith("220 ")
        peer.upgrade()
        assert "AUTH PLAIN LOGIN" in peer.say("EHLO client.test")
        assert peer.say("MAIL FROM:<test@example.com>").startswith("530 5.7.0 ")
        assert peer.say("AUTH PLAIN AHRlc3QAd3Jvbmc=").startswith("535 5.7.8 ")
        assert peer.say(f"AUTH PLAIN {SECRET}").startswith("235 2.7.0 ")
        assert deliver(peer, b"x").startswith("250 ")


def test_a_response_that_is_too_long_ends_the_exchange_and_lets_nobody_in(ports: dict[str, int]) -> None:
    with session(ports["submission"]) as peer:
        assert peer.say("STARTTLS").startswith("220 ")
        peer.upgrade()
        assert peer.say("EHLO client.test").startswith("250-")
        assert peer.say("AUTH PLAIN").startswith("334 ")
        assert peer.say("A" * 12290).startswith("500 5.5.6 ")  # RFC 4954 4: 12288 octets are to be taken
        assert peer.say("NOOP").startswith("250 ")
        assert peer.say("MAIL FROM:<test@example.com>").startswith("530 5.7.0 ")


def test_smtps_is_encrypted_from_the_first_octet_on(ports: dict[str, int]) -> None:
    with session(ports["smtps"], tls=True) as peer:
        assert peer.say(f"AUTH PLAIN {SECRET}").startswith("235 2.7.0 ")
        assert deliver(peer, b"x").startswith("250 ")
