"""The end of a message: sequences of line ends and dots that are, or look like, the end marker (RFC 5321 4.1.1.4)."""

from __future__ import annotations

import itertools
import re

import pytest

from smtp_trio.protocol import Limits, Reply
from smtp_trio.protocol.extensions import BinaryMime, standard
from smtp_trio.protocol.framing import DotTerminatedReader, ReceiveBuffer

from .driver import RECIPIENT, SENDER, ServerDriver, codes

BARE = "550 5.5.2"
NUL = "550 5.6.0"
OK = "250 2.0.0"

#: Octets between "a" and "b" that do not end the message: the message as received, with normalized newlines, and the
#: reply if bare CR and LF, and NUL, are refused; NUL is refused if they are normalized, too.
NO_END: dict[bytes, tuple[bytes, bytes, str]] = {
    b"\n.\n": (b"a\n.\nb\r\n", b"a\r\n.\r\nb\r\n", BARE),
    b"\n.\r\n": (b"a\n.\r\nb\r\n", b"a\r\n.\r\nb\r\n", BARE),
    b"\r\n.\n": (b"a\r\n\nb\r\n", b"a\r\n\r\nb\r\n", BARE),
    b"\r.\r": (b"a\r.\rb\r\n", b"a\r\n.\r\nb\r\n", BARE),
    b"\r.\r\n": (b"a\r.\r\nb\r\n", b"a\r\n.\r\nb\r\n", BARE),
    b"\r\n.\r": (b"a\r\n\rb\r\n", b"a\r\n\r\nb\r\n", BARE),
    b"\n.\r": (b"a\n.\rb\r\n", b"a\r\n.\r\nb\r\n", BARE),
    b"\r\n.\r\r\n": (b"a\r\n\r\r\nb\r\n", b"a\r\n\r\nb\r\n", BARE),
    b"\r\r\n.\r\r\n": (b"a\r\r\n\r\r\nb\r\n", b"a\r\n\r\nb\r\n", BARE),
    b"\r.\r\r\n": (b"a\r.\r\r\nb\r\n", b"a\r\n.\r\nb\r\n", BARE),
    b"\n\n.\r\n": (b"a\n\n.\r\nb\r\n", b"a\r\n\r\n.\r\nb\r\n", BARE),
    # NUL is not a line end.
    b"\r\n\0.\r\n": (b"a\r\n\0.\r\nb\r\n", b"a\r\n\0.\r\nb\r\n", NUL),
    b"\r\n.\0\r\n": (b"a\r\n\0\r\nb\r\n", b"a\r\n\0\r\nb\r\n", NUL),
    b"\r\n..\r\n": (b"a\r\n.\r\nb\r\n", b"a\r\n.\r\nb\r\n", OK),
}
#: Octets that end the message: the message is what comes before, and "b" and "." are commands.
AN_END: dict[bytes, tuple[bytes, bytes, str]] = {
    b"\r\n.\r\n": (b"a\r\n", b"a\r\n", OK),
    b"\r\r\n.\r\n": (b"a\r\r\n", b"a\r\n", BARE),
    b"\r\r\r\n.\r\n": (b"a\r\r\r\n", b"a\r\n", BARE),
    b"\n\r\n.\r\n": (b"a\n\r\n", b"a\r\n\r\n", BARE),
}
MODES = ("reject", "normalize", "preserve")


def name(octets: object) -> str:
    return repr(octets)[2:-1] if isinstance(octets, bytes) else str(octets)


def begin(mode: str) -> ServerDriver:
    driver = ServerDriver(newlines=mode).begin(SENDER, RECIPIENT)
    assert codes(driver.send_lines("DATA")) == ["354"]
    return driver


def expected(row: tuple[bytes, bytes, str], mode: str) -> tuple[list[bytes], str]:
    """Return the accepted messages and the reply."""
    kept, normalized, strict = row
    if mode == "reject":
        return ([kept] if strict == OK else []), strict
    if strict == NUL and mode == "normalize":
        return [], NUL
    return [kept if mode == "preserve" else normalized], OK


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seq", [*NO_END, *AN_END], ids=name)
def test_sequences_in_data_in_all_segments(seq: bytes, mode: str) -> None:
    messages, answer = expected(NO_END.get(seq) or AN_END[seq], mode)
    replies = [answer, OK] if seq in NO_END else [answer, "500 5.5.1", "500 5.5.1", OK]
    octets = b"a" + seq + b"b\r\n.\r\nNOOP\r\n"
    for cut in range(len(octets)):
        driver = begin(mode)
        begun = len(driver.output)
        driver.send_in_segments(octets, [cut])
        assert codes(driver.output[begun:].decode().splitlines()) == replies
        assert driver.messages == messages
    assert begin(mode).send_in_segments(octets, range(1, len(octets))).messages == messages


def test_refusal_names_bare_cr_or_lf() -> None:
    for body, cause in (
        (b"a\nb", "bare LF"),
        (b"a\rb", "bare CR"),
        (b"a\r", "bare CR"),
        (b"\n\r", "bare LF"),
        (b"\r\n\n", "bare LF"),
    ):
        assert cause in begin("reject").send(body + b"\r\n.\r\n")[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seq", [*NO_END, *AN_END], ids=name)
def test_sequences_in_bdat_do_not_end_the_message(seq: bytes, mode: str) -> None:
    body = b"a" + seq + b"b\r\n"
    stripped = body.replace(b"\r\n", b"")
    fault = NUL if b"\0" in body else BARE if b"\r" in stripped or b"\n" in stripped else OK
    normalized = re.sub(rb"\r+\n|\r|\n", b"\r\n", body)
    command = f"BDAT {len(body)} LAST\r\n".encode()
    for cut in range(len(body) + 1):
        for binary in (False, True):
            driver = ServerDriver(newlines=mode, extensions=standard(BinaryMime()))
            driver.begin(f"{SENDER} BODY={'BINARYMIME' if binary else '8BITMIME'}", RECIPIENT)
            begun = len(driver.output)
            driver.send_in_segments(command + body + b"NOOP\r\n", [len(command) + cut])
            refused = (mode == "reject" or (mode == "normalize" and fault == NUL)) and fault != OK and not binary
            assert codes(driver.output[begun:].decode().splitlines()) == [fault if refused else OK, OK]
            assert driver.messages == ([] if refused else [normalized if mode == "normalize" and not binary else body])


def test_refused_message_is_read_to_its_end() -> None:
    driver = begin("reject")
    smuggled = b"a\n.\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<you@mx.test>\r\nDATA\r\nhello\r\n.\r\n"
    assert codes(driver.send(smuggled)) == [BARE]
    assert driver.messages == []
    assert driver.protocol.state.mail is None


def reference(octets: bytes) -> tuple[bytes, bytes] | None:
    """Return the message and the octets after it, by a literal implementation of RFC 5321 4.5.2."""
    message: list[bytes] = []
    while b"\r\n" in octets:
        line, _, octets = octets.partition(b"\r\n")
        if line == b".":
            return b"".join(message), octets
        message.append(line.removeprefix(b".") + b"\r\n")
    return None


def test_all_line_ends_around_a_dot() -> None:
    parts = [bytes(part) for n in range(4) for part in itertools.product(b"\r\n\0 \t", repeat=n)]
    ends = 0
    for before, after in itertools.product(parts, repeat=2):
        octets = b"a" + before + b"." + after + b"b\r\n.\r\n"
        buffer = ReceiveBuffer()
        buffer.add(octets)
        reader = DotTerminatedReader(buffer)
        message = reader.read()
        assert reader.ended
        assert (message, buffer.take(99)) == reference(octets)
        ends += reader.ended and (before[-2:], after[:2]) == (b"\r\n", b"\r\n")
    assert ends == 6 * 6  # CRLF alone or after one of five octets, times CRLF alone or before one of them


def test_fault_does_not_depend_on_segments() -> None:
    """If a message has several faults, the first one decides."""
    bodies = [b"x" * 39 + tail for tail in (b"\n", b"x\n", b"\r", b"xx", b"\rx", b"x\r", b"x\r\n\n", b"\r\n\n")]
    bodies += [
        b"Received:\r\n" + b"x" * n + b"\r\nRECEIVED:" + tail
        for n in (8, 18, 19, 20)
        for tail in (b"", b"\n", b"\r", b"x")
    ]
    for body in bodies:
        octets = body + b"\r\n.\r\n"
        faults: set[Reply] = set()
        for cut in range(len(octets)):
            driver = ServerDriver(size=40, limits=Limits(received=1)).begin(SENDER, RECIPIENT)
            driver.send_lines("DATA")
            driver.send_in_segments(octets, [cut])
            faults.add(driver.events[-1][-1])  # type: ignore[index]
        assert len(faults) == 1, (body, faults)
