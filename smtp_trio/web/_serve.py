"""`serve`: run the application in a nursery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.trio
import trio
from hypercorn.config import Config

from .._server.snapshot import Snapshot
from ._app import app

if TYPE_CHECKING:
    from .._server.server import Server
    from ..stores import Store


async def serve(
    server: Server | None,
    store: Store[Any],
    port: int = 8025,
    host: str = "127.0.0.1",
    *,
    recorder: object | None = None,
    faults: object | None = None,
    measure: Callable[[], Awaitable[Snapshot]] | None = None,
    token: str | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP until it is cancelled. ``await nursery.start(web.serve, server, store)`` returns the URL."""
    config = Config()
    config.bind = [f"{host}:{port}"]
    config.accesslog = config.errorlog = None
    application = app(server, store, recorder=recorder, faults=faults, measure=measure, token=token)
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(partial(hypercorn.trio.serve, application, config))  # type: ignore[arg-type]
        task_status.started(urls[0])
