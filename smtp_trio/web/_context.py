"""`Context`: what the handlers of all paths share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Factory, define

from ._read_marks import ReadMarks

if TYPE_CHECKING:
    from .._server.server import Server
    from ..stores import Store


@define(kw_only=True, eq=False)
class Context:
    """The server and the store that the HTTP listener shows, and what it keeps about them."""

    #: The server in this process; None if worker processes serve.
    server: Server | None
    #: The store of the messages. It is open.
    store: Store[Any]
    #: Which messages have been read.
    read: ReadMarks = Factory(ReadMarks)
