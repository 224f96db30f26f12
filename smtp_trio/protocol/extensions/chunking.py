"""CHUNKING and BINARYMIME, RFC 3030: a message in counted chunks, with no dot to look for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .. import syntax
from ..commands import Command, CountedCommand, Data, Ehlo, Helo, Noop, Quit, Rset
from ..dialogue import CLOSED, READY, RECIPIENT, PhaseEnum, Table, unchanged
from ..errors import BadCommandError
from ..extension import Commands, Extension
from ..params import KnownParams
from ..replies import Reply
from ..session_state import SessionState
from .eightbitmime import BODY


class ChunkPhase(PhaseEnum):
    """The phases that BDAT brings along."""

    CHUNKS = "between chunks"
    SPOILT = "a chunk was refused, RSET must follow"


CHUNKS, SPOILT = ChunkPhase

BINARY_WANTS_BDAT = Reply(503, "BODY=BINARYMIME needs BDAT, not DATA", "5.5.1")
BAD_SIZE = Reply(501, "Syntax: BDAT size [LAST]; closing, since nobody knows where the chunk ends", "5.5.4")


class Bdat(CountedCommand):
    """BDAT: ``size`` octets of the message follow (RFC 3030 2). It is answered behind its octets."""

    __slots__ = ()

    verb = "BDAT"
    usage = "BDAT size [LAST]"
    groupable = True  # RFC 3030 4.2: BDAT commands may be pipelined
    codes: ClassVar[frozenset[int]] = frozenset({250, 450, 452, 503, 550, 552, 554})

    def encode(self) -> str:
        return f"BDAT {self.size}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Bdat:
        count, *rest = argument.rstrip(" \t").split(" ")
        last = len(rest) == 1 and rest[0].isascii() and rest[0].upper() == "LAST"
        # A count that makes no sense loses the framing for good: to guess would turn message text into commands. Nobody means
        # 2**64 octets or more.
        if syntax.DIGITS.fullmatch(count) is None or int(count) >= 2**64 or (rest and not last):
            raise BadCommandError(BAD_SIZE, verb="BDAT", close=True)
        return BdatLast(int(count)) if last else Bdat(int(count))


class BdatLast(Bdat):
    """BDAT … LAST: the last chunk, whose answer is the answer to the message (RFC 3030 2)."""

    __slots__ = ()

    last = True

    def encode(self) -> str:
        return f"BDAT {self.size} LAST"


class Chunking(Extension):
    """Counted chunks (RFC 3030)."""

    keyword = "CHUNKING"
    verbs: ClassVar[Commands] = (Bdat,)
    table: ClassVar[Table] = Table(
        accepted={
            Bdat: {RECIPIENT: CHUNKS, CHUNKS: CHUNKS},
            BdatLast: {RECIPIENT: READY, CHUNKS: READY},
            Rset: {CHUNKS: READY, SPOILT: READY},
            Ehlo: {CHUNKS: READY, SPOILT: READY},
            Helo: {CHUNKS: READY, SPOILT: READY},
            Noop: unchanged(CHUNKS, SPOILT),
            Quit: {CHUNKS: CLOSED, SPOILT: CLOSED},
        },
        proceed={},
        refused={
            # RFC 3030 2: after a failed BDAT the client MUST issue RSET; a failed LAST ends the message as a failed DATA does.
            Bdat: {RECIPIENT: SPOILT, CHUNKS: SPOILT},
            BdatLast: {RECIPIENT: READY, CHUNKS: READY},
        },
    )


class BinaryMime(Extension):
    """Messages that are no lines at all (RFC 3030 3). Not in `STANDARD`: few can be sent one."""

    keyword = "BINARYMIME"
    checks: ClassVar[Commands] = (Data,)
    requires: ClassVar[Sequence[str]] = ("CHUNKING", "8BITMIME")  # RFC 3030 3 (3)

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        # RFC 3030 3: BINARYMIME with DATA MUST be refused with 503.
        if isinstance(command, Data) and state.mail is not None and state.mail.params.get(BODY) == "BINARYMIME":
            return BINARY_WANTS_BDAT
        return None
