"""`/livez` and `/readyz`: health checks for supervisors, which need no credentials."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ._context import Context
from ._operation import Json, Operation
from ._schemas import STRING, array, record


async def get_liveness(context: Context, request: Request) -> Response:
    """Return a constant response: the event loop runs."""
    return Json({"status": "ok"})


async def get_readiness(context: Context, request: Request) -> Response:
    """Return whether mail is accepted, with the reasons if it is not."""
    problems = []
    if context.server is not None:
        if context.server._state.stopping:
            problems.append("the server is stopping")
        elif not context.server._accepting:
            problems.append("the server does not listen")
    if context.problem is not None and (problem := context.problem()) is not None:
        problems.append(problem)
    if not await context.store_health.is_reachable():
        problems.append("the store is not reachable")
    if problems:
        return Json({"status": "unavailable", "problems": problems}, status_code=503)
    return Json({"status": "ok"})


OK = record({"status": {"type": "string", "const": "ok"}})
OPERATIONS = (
    Operation(
        id="getLiveness",
        method="GET",
        path="/livez",
        handler=get_liveness,
        summary="Check that the process runs",
        responses={200: ("It does", OK)},
    ),
    Operation(
        id="getReadiness",
        method="GET",
        path="/readyz",
        handler=get_readiness,
        summary="Check that mail is accepted",
        description="The server listens, is not being stopped, and its store is reachable.",
        responses={
            200: ("It is", OK),
            503: (
                "It is not",
                record({"status": {"type": "string", "const": "unavailable"}, "problems": array(STRING)}),
            ),
        },
    ),
)
