"""CHUNKING and BINARYMIME, RFC 3030: a message sent as chunks of a known size instead of lines up to a dot.

CHUNKING adds the verb BDAT and its EHLO keyword. BINARYMIME adds its EHLO keyword and the value ``BODY=BINARYMIME`` of
MAIL (the parameter itself is 8BITMIME's). BINARYMIME is not in `STANDARD`: a relay could pass such a message on to few
servers.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
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
    """The phases that BDAT adds."""

    CHUNKS = "between two chunks"
    CHUNK_REFUSED = "after a refused chunk"


CHUNKS, CHUNK_REFUSED = ChunkPhase

BINARY_REQUIRES_BDAT = Reply(503, "BODY=BINARYMIME requires BDAT, not DATA", "5.5.1")
BAD_SIZE = Reply(501, "Syntax: BDAT size [LAST]; closing, because the end of the chunk is unknown", "5.5.4")
#: More octets than any message has: such a size is treated as malformed.
SIZE_LIMIT = 2**64

# The rules of CHUNKING (RFC 3030 2), and where they are kept:
#
# * The octets of a chunk follow the command line at once, without a reply in between. The server must therefore read
#   them whatever its reply will be, or it would take message text for commands. ``counted`` marks such a command, and
#   `ServerProtocol` consumes ``size`` octets after the line even if it refuses the command (no recipients, wrong phase,
#   too big).
# * If the size is invalid, the server cannot find the end of the chunk. A guess could make it execute message text as
#   commands, so it replies 501 and closes the connection (`BAD_SIZE`, ``close=True``). The same holds for a server
#   without this extension; see `UNSUPPORTED_VERBS` in commands.py.
# * Each chunk gets a reply of its own. A 250 to a chunk before the last means that the server accepts further ones; the
#   reply to the last one, ``BDAT size LAST``, is the reply to the message and has the meaning of the reply after DATA's
#   final dot.
# * After a refused chunk the message cannot be completed: the client has to send RSET, and until then the server
#   answers further chunks, which a pipelining client may have sent already, with 503 (phase CHUNK_REFUSED). If the
#   refused chunk was the last one there is nothing to abandon, and the transaction is over as after a refused DATA.
# * DATA and BDAT must not be mixed in one transaction: DATA has no row for CHUNKS. MAIL and RCPT have none either.
# * BDAT is groupable (RFC 3030 4.2), so a client may send MAIL, RCPT, and all chunks without waiting. Chunks can then
#   arrive for a transaction without recipients; they are consumed and refused.


#: The rows of the state table for a chunk: one that is not the last, one that is, and the refusal of the first kind.
CHUNK: Mapping[enum.Enum, enum.Enum] = {RECIPIENT: CHUNKS, CHUNKS: CHUNKS}
LAST_CHUNK: Mapping[enum.Enum, enum.Enum] = {RECIPIENT: READY, CHUNKS: READY}
REFUSED_CHUNK: Mapping[enum.Enum, enum.Enum] = {RECIPIENT: CHUNK_REFUSED, CHUNKS: CHUNK_REFUSED}
CHUNK_CODES = frozenset({250, 450, 452, 503, 550, 552, 554})


def split_last(argument: str) -> tuple[list[str], bool]:
    """Return the words of an argument without the LAST at its end, and whether that is there."""
    words = argument.split(" ")
    last = argument.isascii() and len(words) > 1 and words[-1].upper() == "LAST"
    return words[:-1] if last else words, last


class Bdat(CountedCommand):
    """BDAT: ``size`` octets of the message follow the line (RFC 3030 2). The reply comes after them."""

    __slots__ = ()

    verb = "BDAT"
    usage = "BDAT size [LAST]"
    groupable = True
    codes: ClassVar[frozenset[int]] = CHUNK_CODES

    def encode(self) -> str:
        """Return the command as a line, without its CRLF."""
        return f"BDAT {self.size}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Bdat:
        """Parse the argument. Raises `BadCommandError`, 501 and the end of the connection, when the size is invalid."""
        (count, *rest), last = split_last(argument)
        if syntax.DIGITS.fullmatch(count) is None or int(count) >= SIZE_LIMIT or rest:
            raise BadCommandError(BAD_SIZE, verb="BDAT", close=True, last=last)
        return BdatLast(int(count)) if last else Bdat(int(count))


class BdatLast(Bdat):
    """BDAT size LAST: the last chunk, whose reply is the reply to the message (RFC 3030 2)."""

    __slots__ = ()

    last = True

    def encode(self) -> str:
        """Return the command as a line, without its CRLF."""
        return f"BDAT {self.size} LAST"


class Chunking(Extension):
    """Messages in chunks of a known size (RFC 3030 2)."""

    keyword = "CHUNKING"
    rfc = 3030
    verbs: ClassVar[Commands] = (Bdat,)
    table: ClassVar[Table] = Table(
        accepted={
            Bdat: CHUNK,
            BdatLast: LAST_CHUNK,
            Rset: {CHUNKS: READY, CHUNK_REFUSED: READY},
            Ehlo: {CHUNKS: READY, CHUNK_REFUSED: READY},
            Helo: {CHUNKS: READY, CHUNK_REFUSED: READY},
            Noop: unchanged(CHUNKS, CHUNK_REFUSED),
            Quit: {CHUNKS: CLOSED, CHUNK_REFUSED: CLOSED},
        },
        refused={Bdat: REFUSED_CHUNK, BdatLast: LAST_CHUNK},
    )


class BinaryMime(Extension):
    """Messages that do not consist of lines (RFC 3030 3). Not in `STANDARD`; few servers accept such messages."""

    keyword = "BINARYMIME"
    rfc = 3030
    checks: ClassVar[Commands] = (Data,)
    requires: ClassVar[Sequence[str]] = ("CHUNKING", "8BITMIME")  # RFC 3030 3 (3)

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        """Refuse DATA for a message with BODY=BINARYMIME: RFC 3030 3 requires 503."""
        if isinstance(command, Data) and state.mail is not None and state.mail.params.get(BODY) == "BINARYMIME":
            return BINARY_REQUIRES_BDAT
        return None
