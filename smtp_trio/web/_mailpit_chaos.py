"""The chaos triggers of Mailpit's API v1. Each is a fault rule, which is also in the fault API and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from ._chaos import TRIGGERS, Trigger
from ._faults_api import rules_of
from ._mailpit_body import read_object
from ._mailpit_schemas import mailpit_operation
from ._operation import ApiError, Json, Schema
from ._schemas import described, record, ref

if TYPE_CHECKING:
    from ._context import Context

MAX_SEED = 2**63 - 1
CODE: Schema = {"type": "integer", "minimum": 400, "maximum": 599}
PROBABILITY: Schema = {"type": "integer", "minimum": 0, "maximum": 100}
SEED: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_SEED}
BODY: Schema = {"type": "object", "properties": {"ErrorCode": CODE, "Probability": PROBABILITY}}
TRIGGER = record({"ErrorCode": described(CODE, "The reply code"), "Probability": described(PROBABILITY, "In percent")})
SCHEMAS = {
    "MailpitTrigger": TRIGGER,
    "MailpitChaos": record(
        {
            **dict.fromkeys(TRIGGERS, ref("MailpitTrigger")),
            "Seed": described(SEED, "The seed of the random numbers; an extension of Mailpit's API"),
        }
    ),
}


def answer(context: Context) -> Response:
    """Return the response with all triggers."""
    triggers = context.chaos.triggers(rules_of(context))
    found: dict[str, Any] = {
        name: {"ErrorCode": trigger.code, "Probability": trigger.probability} for name, trigger in triggers.items()
    }
    return Json({**found, "Seed": context.chaos.seed})


async def get_chaos(context: Context, request: Request) -> Response:
    """Return the triggers."""
    return answer(context)


def number_in(fields: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """Return the value of an integer field, or a default if it is absent."""
    value = fields.get(name.lower(), default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ApiError(400, f"{name}: must be an integer from {low} to {high}")
    return value


async def set_chaos(context: Context, request: Request) -> Response:
    """Replace the triggers. Those that are absent in the request are switched off."""
    rules = rules_of(context)
    fields = await read_object(request)
    triggers = {}
    for name, (_, code) in TRIGGERS.items():
        given = fields.get(name.lower(), {})
        if not isinstance(given, dict):
            raise ApiError(400, f"{name}: must be an object with ErrorCode and Probability")
        given = {key.lower(): value for key, value in given.items()}
        if given.get("errorcode") == 0:  # Mailpit's default
            del given["errorcode"]
        triggers[name] = Trigger(
            number_in(given, "ErrorCode", code, 400, 599), number_in(given, "Probability", 0, 0, 100)
        )
    try:
        context.chaos.change(rules, triggers, number_in(fields, "Seed", 0, 0, MAX_SEED))
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return answer(context)


CHAOS = {200: ("The triggers", ref("MailpitChaos"))}
OPERATIONS = (
    mailpit_operation(
        id="mailpitGetChaos",
        method="GET",
        path="/api/v1/chaos",
        handler=get_chaos,
        summary="Mailpit: return the chaos triggers",
        responses=CHAOS,
    ),
    mailpit_operation(
        id="mailpitSetChaos",
        method="PUT",
        path="/api/v1/chaos",
        handler=set_chaos,
        summary="Mailpit: replace the chaos triggers",
        description="A trigger that is left out is switched off. The seed decides which commands are refused.",
        body={
            "type": "object",
            "properties": {
                **dict.fromkeys(TRIGGERS, BODY),
                "Seed": SEED,
            },
        },
        responses=CHAOS,
    ),
)
