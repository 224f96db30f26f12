"""The header field TLS-Required, with which a sender asks to ignore the TLS policies of the recipients (RFC 8689 3)."""

from __future__ import annotations

import email.message
import os
import re
import stat
from typing import Final, cast

import trio

from .._client.message import PIECE, START_OF_BODY, Message
from ..protocol.extensions.requiretls import tls_optional
from ..protocol.header import message_start
from ..protocol.params import Params
from ._connect import DomainSettings

FIELD: Final = re.compile(rb"^TLS-Required[ \t]*:((?:[^\n]|\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
#: Octets of a file in which the end of the header is looked for.
HEADER: Final = 1 << 20


async def settings_for(message: Message, params: Params, settings: DomainSettings) -> DomainSettings:
    """Return the settings with which a message is sent: without DANE and MTA-STS if it asks for that.

    RFC 8689 8.4: as if the client did not support them. TLS is still used where a server offers it. What the caller requires,
    ``dane="required"``, is not a policy of the recipient and remains. Raises OSError for a file that cannot be read.
    """
    if settings.get("dane") == "required" or not tls_optional(params, await _fields(message)):
        return settings
    return {**settings, "dane": "never", "sts": None}


async def _fields(message: Message) -> list[str]:
    """Return the values of the TLS-Required fields of a message, which can be read again."""
    if isinstance(message, email.message.Message):
        return [str(value) for value in message.get_all("TLS-Required", [])]
    octets = await _start(message) if isinstance(message, os.PathLike) else bytes(cast("bytes", message)[:HEADER])
    octets = octets[message_start(octets) :]
    end = START_OF_BODY.search(octets)
    header = octets if end is None else octets[: end.start()]
    return [" ".join(value.decode("latin-1").split()) for value in FIELD.findall(header)]


async def _start(path: os.PathLike[str]) -> bytes:
    """Return the first octets of a file, up to the end of the header. A FIFO can be read only once, so it is not read here."""
    if not stat.S_ISREG((await trio.Path(path).stat()).st_mode):
        return b""
    start = b""
    async with await trio.open_file(path, "rb") as file:
        while len(start) < HEADER and START_OF_BODY.search(start) is None and (piece := await file.read(PIECE)):
            start += piece
    return start
