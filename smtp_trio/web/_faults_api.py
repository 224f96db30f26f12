"""The fault rules in the JSON API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from ..testing._faults import grammar, values
from ..testing._faults.text import MAX_TEXT
from ._context import Context
from ._operation import ApiError, Json, Operation, Parameter, Schema, arguments, json_body
from ._schemas import STRING, array, described, optional, record, ref

if TYPE_CHECKING:
    from ..testing import ActiveRule, FaultRules

INTEGER: Schema = {"type": "integer"}
RULE = {
    "id": described(INTEGER, "The number of the rule"),
    "text": described(STRING, "The text of the rule, with its scope"),
    "kind": described(STRING, "The kind of the rule, such as `answer`"),
    "recipient": described(optional(STRING), "The recipient that the rule applies to; null for all"),
    "client": described(optional(STRING), "The client that the rule applies to; null for all"),
    "seed": described(INTEGER, "The seed of the random numbers"),
    "acted": described({"type": "integer", "minimum": 0}, "The number of times that the rule has acted"),
    "remaining": described(optional(INTEGER), "The number of times that the rule can still act; null without a limit"),
    "used_up": described({"type": "boolean"}, "True if the rule has reached its limit"),
}
#: The maximum length of a scope. A list can have many rules, whose scopes are compared with each command.
MAX_SCOPE = 512
TEXT, SCOPE = {**STRING, "maxLength": MAX_TEXT}, {**STRING, "maxLength": MAX_SCOPE}
MIN_SEED, MAX_SEED = -(2**63), 2**63 - 1
#: The members of the JSON object with which a rule is added.
MEMBERS: dict[str, Schema] = {
    "text": described(TEXT, "The rule, such as `answer RCPT 450 once`"),
    "recipient": described(
        optional(SCOPE), "The recipient that the rule applies to: an address, @DOMAIN, or a pattern with `*`"
    ),
    "client": described(
        optional(SCOPE), "The client that the rule applies to: an address, a network, or its name in EHLO"
    ),
    "seed": described({"type": "integer", "minimum": MIN_SEED, "maximum": MAX_SEED}, "The seed of the random numbers"),
}
ADD: Schema = {"type": "object", "properties": MEMBERS, "required": ["text"], "additionalProperties": False}
#: The Python type and the description of each JSON type, by its name in schemas.
TYPES: dict[str, tuple[type, str]] = {
    "string": (str, "a string"),
    "integer": (int, "an integer"),
    "null": (type(None), "null"),
}
WORD = dict.fromkeys(("word", "usage", "description", "example"), STRING)
MODIFIER = dict.fromkeys(("usage", "description"), STRING)
SCHEMAS = {
    "Fault": record(RULE),
    "Faults": record({"faults": array(ref("Fault"))}),
    "FaultGrammar": record({
        "kinds": array(record(WORD)), "places": array(STRING), "modifiers": array(record(MODIFIER)),
    }),
}  # fmt: skip


def describe(rule: ActiveRule) -> dict[str, Any]:
    """Return the JSON of a rule."""
    return {name: getattr(rule, name) for name in RULE}


def rules_of(context: Context) -> FaultRules:
    """Return the list of rules. Raises ApiError if this process has no list."""
    if context.faults is None:
        raise ApiError(404, "fault rules cannot be changed here: with --workers, each worker has the rules of --fault")
    return context.faults


async def list_rules(context: Context, request: Request) -> Response:
    """Return the rules in the order of the list."""
    return Json({"faults": [describe(rule) for rule in rules_of(context)]})


async def add_rule(context: Context, request: Request) -> Response:
    """Add a rule."""
    rules = rules_of(context)
    given = checked(await json_body(request))
    try:
        rule = rules.add(given.pop("text"), **given)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return Json(describe(rule), status_code=201)


def checked(given: object) -> dict[str, Any]:
    """Check the members of a request that adds a rule, and return them. Raises ApiError for an unknown name or a wrong type."""
    if not isinstance(given, dict) or "text" not in given:
        raise ApiError(400, 'the body must be an object with a member "text", such as {"text": "answer RCPT 450 once"}')
    for name, value in given.items():
        if name not in MEMBERS:
            hint = values.suggestion(name, MEMBERS, f"the members are {', '.join(MEMBERS)}")
            raise ApiError(400, f"{name[:100]!r} is not a member of a fault rule: {hint}")
        kinds = MEMBERS[name]["type"]
        allowed = [TYPES[each] for each in ([kinds] if isinstance(kinds, str) else kinds)]
        if not isinstance(value, tuple(cls for cls, _ in allowed)) or isinstance(value, bool):
            raise ApiError(400, f"{name!r} must be {' or '.join(description for _, description in allowed)}")
        if isinstance(value, str) and len(value) > MEMBERS[name]["maxLength"]:
            raise ApiError(400, f"{name!r} must have at most {MEMBERS[name]['maxLength']} characters, got {len(value)}")
    if not MIN_SEED <= given.get("seed", 0) <= MAX_SEED:
        raise ApiError(400, f"'seed' must be from {MIN_SEED} to {MAX_SEED}")
    return dict(given)


async def remove_rule(context: Context, request: Request) -> Response:
    """Remove a rule."""
    number: int = arguments(request)["id"]
    if not rules_of(context).remove(number):
        raise ApiError(404, f"the list has no fault rule {number}")
    return Response(status_code=204)


async def clear_rules(context: Context, request: Request) -> Response:
    """Remove all rules."""
    rules_of(context).clear()
    return Response(status_code=204)


async def show_grammar(context: Context, request: Request) -> Response:
    """Return the grammar of rules."""
    return Json({
        "kinds": [
            {"word": row.word, "usage": row.usage, "description": row.description, "example": row.example}
            for row in grammar.GRAMMAR
            if row.in_server
        ],
        "places": list(values.PLACES),
        "modifiers": [
            {"usage": usage, "description": description}
            for usage, description in (*grammar.RULE_MODIFIERS, *grammar.SCOPE_MODIFIERS)
        ],
    })  # fmt: skip


ID = Parameter(
    name="id",
    description="The number of the rule",
    place="path",
    schema={"type": "integer", "minimum": 1},
    required=True,
)

OPERATIONS = (
    Operation(
        id="listFaults",
        method="GET",
        path="/api/faults",
        handler=list_rules,
        summary="List the fault rules with their counts",
        responses={200: ("The rules", ref("Faults"))},
    ),
    Operation(
        id="addFault",
        method="POST",
        path="/api/faults",
        handler=add_rule,
        summary="Add a fault rule at the end of the list",
        body=ADD,
        responses={201: ("The rule", ref("Fault"))},
    ),
    Operation(
        id="removeFaults",
        method="DELETE",
        path="/api/faults",
        handler=clear_rules,
        summary="Remove all fault rules",
        responses={204: ("The list is empty", None)},
    ),
    Operation(
        id="getFaultGrammar",
        method="GET",
        path="/api/faults/grammar",
        handler=show_grammar,
        summary="Return the grammar of fault rules",
        responses={200: ("The kinds of rules, the places, and the modifiers", ref("FaultGrammar"))},
    ),
    Operation(
        id="removeFault",
        method="DELETE",
        path="/api/faults/{id}",
        handler=remove_rule,
        summary="Remove a fault rule",
        parameters=(ID,),
        responses={204: ("The rule is removed", None)},
    ),
)
