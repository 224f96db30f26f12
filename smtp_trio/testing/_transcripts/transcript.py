"""What went over the wire in a session, in order and with the times: written down from life, printed, compared, played again."""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trio

from ..._client.client import Client
from .entry import MASK, Entry, Side, What
from .recording import RecordedStream, Tap
from .text import parse, render

if TYPE_CHECKING:
    import ssl

    from ..._server.session import Session

#: Set it, and `Transcript.compare` rewrites the files that differ.
UPDATE = "SMTP_TRIO_UPDATE_TRANSCRIPTS"


class Transcript:
    """All that was said in one session, or in several, in order and with the times. Its text has no secrets in it.

    One end of each connection keeps it, so the order is that in which this end saw things, whoever's turn it was meanwhile.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = list(entries)
        self._began: float | None = None
        self._sessions = 0

    def __repr__(self) -> str:
        return f"<Transcript of {len(self.entries)} entries>"

    def __len__(self) -> int:
        return len(self.entries)

    def __bool__(self) -> bool:
        return True  # one that is still empty is a transcript

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def octets(self, side: Side, *, session: str | None = None) -> bytes:
        """All that this side said, in ``session`` or in every one, and as it was said: with its secrets."""
        return b"".join(entry.data for entry in self.entries if entry.side == side and session in (None, entry.session))

    # --- writing down -----------------------------------------------------------------------------------------------

    def record(self, stream: trio.abc.Stream, *, side: Side, session: str | None = None) -> RecordedStream:
        """Wrap one end of a connection, that of ``side``: what is sent and received over it from now on is written down.

        Of TLS only its beginning is: `follow` looks inside. ``session`` is the connection's name, without it a number.
        """
        return RecordedStream(stream, self, side, self._new(session))

    def follow(self, who: Client | Session, *, session: str | None = None) -> None:
        """Write down what this `Client` or `Session` hears and says from now on, inside TLS too."""
        if isinstance(who, Client):
            Tap(who._exchange.wire, self, "C", self._new(session), encrypted=False)
        else:
            Tap(who._wire, self, "S", self._new(session), encrypted=False)

    def add(self, side: Side, data: bytes | bytearray | memoryview, *, session: str = "1") -> None:
        """This side has sent these octets, just now."""
        if data:
            self.entries.append(Entry(self._now(), side, bytes(data), session=session))

    def note(self, side: Side, event: What, *, session: str = "1") -> None:
        """This side has done something else, just now."""
        self.entries.append(Entry(self._now(), side, event=event, session=session))

    def _new(self, session: str | None) -> str:
        self._now()
        self._sessions += 1
        return session or str(self._sessions)

    def _now(self) -> float:
        """Seconds since this was asked for the first time."""
        time = trio.current_time()
        if self._began is None:
            self._began = time
        return time - self._began

    # --- text -------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self.text()

    def text(self, *, times: bool = True, pieces: bool = False) -> str:
        """The transcript, line by line. ``pieces`` shows also in which pieces it came; what the text means is in docs/testing."""
        return "".join(line + "\n" for line in render(self.entries, times=times, pieces=pieces))

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Self:
        """The transcript that a text, or a file of it, is about. Raises ValueError for a line that is none."""
        return cls(parse(_lines(text)))

    def compare(
        self, expected: str | os.PathLike[str], *, times: bool = True, pieces: bool = False, update: bool | None = None
    ) -> None:
        """This must be what a text, or a file of it, says. Raises AssertionError, with the differences, when it is not.

        ``***`` in a line of the text stands for anything. ``update`` writes the file anew where it differs, with its remarks on top;
        by default that is done when ``SMTP_TRIO_UPDATE_TRANSCRIPTS`` is set in the environment.
        """
        file = Path(expected) if isinstance(expected, os.PathLike) else None
        actual = render(self.entries, times=times, pieces=pieces)
        if file is not None and (update if update is not None else bool(os.environ.get(UPDATE))):
            old = _lines(file) if file.exists() else []
            if not file.exists() or _filled(_told(old), actual) != actual:
                remarks = [line for line in old if line.startswith("#")]
                file.write_text("".join(line + "\n" for line in [*remarks, *actual]), "utf-8")
            return
        if file is not None and not file.exists():
            raise AssertionError(f"{file} is not there; with {UPDATE}=1 it is written:\n{self.text(times=times)}")
        wanted = _filled(_told(_lines(expected)), actual)
        if wanted != actual:
            hint = f"\n(with {UPDATE}=1 the file is rewritten)" if file is not None else ""
            diff = difflib.unified_diff(wanted, actual, str(file or "expected"), "this session", lineterm="", n=5)
            raise AssertionError("the session is not as it should be:\n" + "\n".join(diff) + hint)

    # --- playing again ----------------------------------------------------------------------------------------------

    async def replay_client(
        self,
        stream: trio.abc.Stream,
        *,
        session: str | None = None,
        secrets: Iterable[bytes] = (),
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> Transcript:
        """Play the client of this session to a server at the other end of ``stream``, which is closed at the end.

        What the client said is said again, at the same times; the server must say what it said then, octet for octet, but that
        ``***`` stands for anything in a line. A transcript that was read from a file has no passwords: ``secrets`` are what to say
        in their place, in order. A session with TLS needs an ``ssl_context``. Returns what was said this time.

        Raises AssertionError where the server says something else, with what was said up to there.
        """
        from .replay import Replay

        replay = Replay(self._one(session), stream, "C", secrets, ssl_context, server_hostname)
        return await replay.run()

    async def replay_server(
        self,
        stream: trio.abc.Stream,
        *,
        session: str | None = None,
        secrets: Iterable[bytes] = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> Transcript:
        """Play the server of this session to a client at the other end of ``stream``; all as in `replay_client`."""
        from .replay import Replay

        return await Replay(self._one(session), stream, "S", secrets, ssl_context, None).run()

    def _one(self, session: str | None) -> list[Entry]:
        names = list(dict.fromkeys(entry.session for entry in self.entries))
        if session is None and len(names) > 1:
            raise ValueError(f"this transcript has several sessions: which of {', '.join(names)}?")
        return [entry for entry in self.entries if session in (None, entry.session)]


def _lines(text: str | os.PathLike[str]) -> list[str]:
    text = textwrap.dedent(text) if isinstance(text, str) else Path(text).read_text("utf-8")
    # Not splitlines: it would cut at what Unicode takes for an end of line.
    return text.strip("\n").split("\n") if text.strip("\n") else []


def _told(lines: Iterable[str]) -> list[str]:
    """Those that are more than remarks."""
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]


def pattern(line: str) -> re.Pattern[str]:
    """What ``***`` stands for is anything."""
    return re.compile(".*".join(map(re.escape, line.split(MASK.decode()))), re.DOTALL)


def _filled(wanted: list[str], actual: list[str]) -> list[str]:
    """The lines that are wanted, with what ``***`` stands for put in where it fits."""
    filled, at = [], 0
    for line in wanted:
        fits = pattern(line).fullmatch if "***" in line else line.__eq__
        found = next((place for place in range(at, len(actual)) if fits(actual[place])), None)
        if found is not None:
            line, at = actual[found], found + 1
        filled.append(line)
    return filled
