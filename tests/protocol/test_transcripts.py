"""Whole sessions, written as they went over the wire: each one in one piece, byte by byte, and cut at random.

In ``tests/transcripts``: ``C:`` is a line of the client's, ``C>`` octets of the client's with nothing added, ``S:`` a line of the
server's, ``%`` settings, ``#`` a remark.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from attrs import Factory, define

from .talk import Talk

FILES = sorted((Path(__file__).parent.parent / "transcripts").glob("*.txt"))


@define
class Transcript:
    settings: dict[str, Any]
    #: What the client says, and what it is told before it says more.
    turns: list[tuple[bytes, bytes]] = Factory(list)

    @property
    def client(self) -> bytes:
        return b"".join(says for says, _ in self.turns)

    @property
    def server(self) -> bytes:
        return b"".join(hears for _, hears in self.turns)


def read(file: Path) -> Transcript:
    transcript = Transcript({})
    says, hears = b"", b""
    for line in file.read_text().splitlines():
        kind, text = line[:2], line[2:].removeprefix(" ")
        if kind == "% ":
            words = (word.split("=") for word in text.split())
            transcript.settings = {
                name: value.split(",") if name == "hooks" else value == "True" or int(value) for name, value in words
            }
        elif kind == "S:":
            hears += text.encode() + b"\r\n"
        elif kind in ("C:", "C>"):
            if hears:
                transcript.turns.append((says, hears))
                says, hears = b"", b""
            says += (
                text.encode() + b"\r\n"
                if kind == "C:"
                else text.encode("latin-1").decode("unicode_escape").encode("latin-1")
            )
        else:
            assert kind == "# ", line
    transcript.turns.append((says, hears))
    return transcript


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def transcript(request: pytest.FixtureRequest) -> Transcript:
    return read(request.param)


def test_turn_by_turn(transcript: Transcript) -> None:
    talk = Talk(**transcript.settings)
    for says, hears in transcript.turns:
        talk.send(says)
        assert talk.output.endswith(hears)
    assert talk.output == transcript.server
    assert talk.over


def test_in_one_piece(transcript: Transcript) -> None:
    assert Talk(**transcript.settings).split(transcript.client, []).output == transcript.server


def test_byte_by_byte(transcript: Transcript) -> None:
    octets = transcript.client
    assert Talk(**transcript.settings).split(octets, range(1, len(octets))).output == transcript.server


def test_cut_at_random(transcript: Transcript) -> None:
    octets = transcript.client
    rng = random.Random(octets)
    whole = Talk(**transcript.settings).split(octets, [])
    for _ in range(50):
        cuts = sorted(rng.sample(range(len(octets)), rng.randrange(1, 20)))
        talk = Talk(**transcript.settings).split(octets, cuts)
        assert (talk.output, talk.story) == (whole.output, whole.story)


def test_there_are_some() -> None:
    assert len(FILES) >= 6
