"""Transcripts of whole sessions: each is played in one segment, octet by octet, and in random segments.

The files in ``tests/transcripts`` have ``C:`` for a line of the client, ``C>`` for octets of the client without CRLF,
``S:`` for a line of the server, ``%`` for settings and ``#`` for comments.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from attrs import Factory, define

from .driver import ServerDriver

FILES = sorted((Path(__file__).parent.parent / "transcripts").glob("*.txt"))


@define
class Transcript:
    settings: dict[str, Any]
    #: The octets of the client, and those of the server before the client sends more.
    turns: list[tuple[bytes, bytes]] = Factory(list)

    @property
    def client(self) -> bytes:
        return b"".join(client_octets for client_octets, _ in self.turns)

    @property
    def server(self) -> bytes:
        return b"".join(server_octets for _, server_octets in self.turns)


def read_transcript(file: Path) -> Transcript:
    transcript = Transcript({})
    client_octets, server_octets = b"", b""
    for line in file.read_text().splitlines():
        kind, text = line[:2], line[2:].removeprefix(" ")
        if kind == "% ":
            words = (word.split("=") for word in text.split())
            transcript.settings = {
                name: value.split(",") if name == "hooks" else value == "True" or int(value) for name, value in words
            }
        elif kind == "S:":
            server_octets += text.encode() + b"\r\n"
        elif kind in ("C:", "C>"):
            if server_octets:
                transcript.turns.append((client_octets, server_octets))
                client_octets, server_octets = b"", b""
            client_octets += (
                text.encode() + b"\r\n"
                if kind == "C:"
                else text.encode("latin-1").decode("unicode_escape").encode("latin-1")
            )
        else:
            assert kind == "# ", line
    transcript.turns.append((client_octets, server_octets))
    return transcript


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def transcript(request: pytest.FixtureRequest) -> Transcript:
    return read_transcript(request.param)


def test_one_turn_at_a_time(transcript: Transcript) -> None:
    driver = ServerDriver(**transcript.settings)
    for client_octets, server_octets in transcript.turns:
        driver.send(client_octets)
        assert driver.output.endswith(server_octets)
    assert driver.output == transcript.server
    assert driver.closed


def refused_data(transcript: Transcript) -> list[int]:
    """Return the positions after each DATA that is refused. The client must wait there (RFC 2920 3.1)."""
    ends = []
    at = 0
    for client_octets, server_octets in transcript.turns:
        at += len(client_octets)
        if client_octets.endswith(b"DATA\r\n") and not server_octets.startswith(b"354"):
            ends.append(at)
    return ends


def test_largest_segments(transcript: Transcript) -> None:
    driver = ServerDriver(**transcript.settings).send_in_segments(transcript.client, refused_data(transcript))
    assert driver.output == transcript.server


def test_one_octet_at_a_time(transcript: Transcript) -> None:
    octets = transcript.client
    assert (
        ServerDriver(**transcript.settings).send_in_segments(octets, range(1, len(octets))).output == transcript.server
    )


def test_random_segments(transcript: Transcript) -> None:
    octets = transcript.client
    rng = random.Random(octets)
    waits = refused_data(transcript)
    whole = ServerDriver(**transcript.settings).send_in_segments(octets, waits)
    for _ in range(50):
        cuts = sorted({*rng.sample(range(len(octets)), rng.randrange(1, 20)), *waits})
        driver = ServerDriver(**transcript.settings).send_in_segments(octets, cuts)
        assert (driver.output, driver.events) == (whole.output, whole.events)


def test_transcripts_are_found() -> None:
    assert len(FILES) >= 6
