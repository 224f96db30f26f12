"""Transcripts: the octets of a session with their times, to be recorded, printed, compared and replayed."""

from __future__ import annotations

import difflib
import os
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

import trio

from ..._client.client import Client
from ..._server.session import Session
from ...protocol.arguments import check_choice, check_items, check_type
from .boundaries import replace_boundaries
from .entry import Entry, Event, Side
from .recording import RecordedStream, Tap
from .replay import Replay
from .text import parse, pattern, render

if TYPE_CHECKING:
    import ssl

#: The environment variable with which `Transcript.compare` rewrites files that differ.
UPDATE = "SMTP_TRIO_UPDATE_TRANSCRIPTS"


class Transcript:
    """The octets of one session or several, in order and with their times. Its text masks secrets.

    A transcript is recorded at one end of each connection, so the order is the one that this end observed, and does not
    depend on the order in which Trio ran other tasks.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = list(check_items(entries, "entries", Entry))
        self._began: float | None = None
        self._sessions = 0

    def __repr__(self) -> str:
        return f"<Transcript of {len(self.entries)} entries>"

    def __len__(self) -> int:
        return len(self.entries)

    def __bool__(self) -> bool:
        return True  # an empty transcript is a transcript

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def octets(self, side: Side, *, session: str | None = None) -> bytes:
        """Return all octets that one side sent, in ``session`` or in all of them. Secrets are not masked."""
        check_choice(side, "side", get_args(Side))
        return b"".join(entry.data for entry in self.entries if entry.side == side and session in (None, entry.session))

    # --- recording -----------------------------------------------------------------------------------------------

    def record(self, stream: trio.abc.Stream, *, side: Side, session: str | None = None) -> RecordedStream:
        """Return a stream around the end of ``side`` that records what is sent and received over it.

        Of TLS only the beginning is recorded; use `follow` for what is inside. ``session`` is the session's name, by
        default a number.
        """
        check_type(stream, "stream", trio.abc.Stream)
        check_choice(side, "side", get_args(Side))
        return RecordedStream(stream, self, side, self._new(session))

    def follow(self, end: Client | Session, *, session: str | None = None) -> None:
        """Record what this `Client` or `Session` sends and receives from now on, inside TLS as well."""
        check_type(end, "end", (Client, Session))
        if isinstance(end, Client):
            Tap(end._exchange.wire, self, "C", self._new(session), encrypted=False)
        else:
            Tap(end._wire, self, "S", self._new(session), encrypted=False)

    def add(self, side: Side, data: bytes | bytearray | memoryview, *, session: str = "1") -> None:
        """Record octets that ``side`` has sent now."""
        if data:
            self.entries.append(Entry(self._now(), side, bytes(data), session=session))

    def note(self, side: Side, event: Event, *, session: str = "1") -> None:
        """Record an event of ``side``: "closes", "resets" or "begins TLS"."""
        self.entries.append(Entry(self._now(), side, event=event, session=session))

    def _new(self, session: str | None) -> str:
        check_type(session, "session", str, optional=True)
        self._now()
        self._sessions += 1
        return session or str(self._sessions)

    def _now(self) -> float:
        """Return the seconds since the first call."""
        time = trio.current_time()
        if self._began is None:
            self._began = time
        return time - self._began

    # --- text -------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self.text()

    def text(self, *, times: bool = True, pieces: bool = False) -> str:
        """Return the transcript as text, in the format of docs/testing.

        ``times`` includes the times, and ``pieces`` the ends of the pieces in which the octets were sent.
        """
        return "".join(line + "\n" for line in render(self.entries, times=times, pieces=pieces))

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Self:
        """Return the transcript of a text, or of a file if ``text`` is a path.

        Raises ValueError for an invalid line.
        """
        return cls(parse(_lines(text)))

    def with_fixed_boundaries(self) -> Transcript:
        """Return a copy with other MIME boundaries (RFC 2046 5.1.1), which mail programs choose at random.

        The first boundary that is declared becomes the number 1, the second one 2, and so on, each with as many leading
        zeros as keep its length. So two sessions with the same messages have the same text, and can still be replayed.
        """
        return Transcript(replace_boundaries(self.entries))

    def compare(
        self, expected: str | os.PathLike[str], *, times: bool = True, pieces: bool = False, update: bool | None = None
    ) -> None:
        """Compare this transcript with a text, or with a file if ``expected`` is a path.

        ``***`` in a line of the text matches any text. ``update`` rewrites a file that differs, and keeps its comments
        at its top; by default that is done if the environment variable ``SMTP_TRIO_UPDATE_TRANSCRIPTS`` is set.

        Raises AssertionError with the differences.
        """
        file = Path(expected) if isinstance(expected, os.PathLike) else None
        actual = render(self.entries, times=times, pieces=pieces)
        if file is not None and (update if update is not None else bool(os.environ.get(UPDATE))):
            old = _lines(file) if file.exists() else []
            if not file.exists() or _filled(_content(old), actual) != actual:
                comments = [line for line in old if line.startswith("#")]
                file.write_text("".join(line + "\n" for line in [*comments, *actual]), "utf-8")
            return
        if file is not None and not file.exists():
            raise AssertionError(f"{file} does not exist; {UPDATE}=1 writes it:\n{self.text(times=times)}")
        wanted = _filled(_content(_lines(expected)), actual)
        if wanted != actual:
            hint = f"\n({UPDATE}=1 rewrites the file)" if file is not None else ""
            diff = difflib.unified_diff(wanted, actual, str(file or "expected"), "this session", lineterm="", n=5)
            raise AssertionError("the session differs from the expected transcript:\n" + "\n".join(diff) + hint)

    # --- replay ----------------------------------------------------------------------------------------------

    async def replay_client(
        self,
        stream: trio.abc.Stream,
        *,
        session: str | None = None,
        secrets: Iterable[bytes] = (),
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> Transcript:
        """Play the client of this session to a server at the other end of ``stream``, and close the stream at the end.

        What the client sent is sent again at the same times, in seconds since the beginning. The server must send the
        same octets as in this transcript, in which ``***`` matches any text within a line. A transcript that was parsed
        from a text has no passwords; ``secrets`` are sent in their place, in order. A session with TLS requires
        ``ssl_context``. ``session`` selects one of several sessions. Returns the transcript of the new session.

        Raises AssertionError when the server sends something else, with the transcript up to there, and ValueError when
        an argument is missing.
        """
        return await self._replay("C", stream, session, secrets, ssl_context, server_hostname)

    async def replay_server(
        self,
        stream: trio.abc.Stream,
        *,
        session: str | None = None,
        secrets: Iterable[bytes] = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> Transcript:
        """Play the server of this session to a client at the other end of ``stream``.

        All else is as in `replay_client`.
        """
        return await self._replay("S", stream, session, secrets, ssl_context, None)

    async def _replay(
        self,
        side: Side,
        stream: trio.abc.Stream,
        session: str | None,
        secrets: Iterable[bytes],
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
    ) -> Transcript:
        names = list(dict.fromkeys(entry.session for entry in self.entries))
        if session is None and len(names) > 1:
            raise ValueError(f"this transcript has several sessions, and session= must select one: {', '.join(names)}")
        entries = [entry for entry in self.entries if session in (None, entry.session)]
        log = Transcript()
        await Replay(entries, stream, side, log, secrets, ssl_context, server_hostname).run()
        return log


def _lines(text: str | os.PathLike[str]) -> list[str]:
    text = textwrap.dedent(text) if isinstance(text, str) else Path(text).read_text("utf-8")
    # Not splitlines, which also splits at the other ends of line that Unicode defines.
    return text.strip("\n").split("\n") if text.strip("\n") else []


def _content(lines: Iterable[str]) -> list[str]:
    """Return the lines that are neither empty nor comments."""
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]


def _filled(wanted: list[str], actual: list[str]) -> list[str]:
    """Return the expected lines, in which lines with ``***`` are replaced by the actual lines that they match."""
    filled, at = [], 0
    for line in wanted:
        fits = pattern(line).fullmatch if "***" in line else line.__eq__
        found = next((place for place in range(at, len(actual)) if fits(actual[place])), None)
        if found is not None:
            line, at = actual[found], found + 1
        filled.append(line)
    return filled
