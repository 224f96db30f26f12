"""The sessions in the JSON API: clients, transcripts, and the replies for each recipient."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ._context import Context
from ._operation import ApiError, Json, Operation, Parameter, Schema, arguments
from ._recorder import RecordedMessage, RecordedSession, Recorder
from ._schemas import STRING, TIME, array, described, optional, record, ref

MAX_LISTED = 1000


def describe_message(message: RecordedMessage) -> dict[str, Any]:
    """Return the JSON of a message of a session."""
    return {
        "sender": message.sender,
        "id": message.id,
        "reply": message.reply,
        "recipients": [
            {"recipient": each.address, "reply": each.reply, "final_reply": each.final_reply}
            for each in message.recipients
        ],
    }


def describe_session(session: RecordedSession) -> dict[str, Any]:
    """Return the JSON of a session without its transcript."""
    return {
        "id": session.id,
        "began": session.began.astimezone(UTC).isoformat(),
        "seconds": None if session.seconds is None else round(session.seconds, 6),
        "peer": session.peer,
        "helo": session.helo,
        "tls": session.tls,
        "user": session.user,
        "received_octets": session.received_octets,
        "sent_octets": session.sent_octets,
        "messages": [describe_message(message) for message in session.messages],
    }


def describe_with_transcript(session: RecordedSession) -> dict[str, Any]:
    """Return the JSON of a session with its transcript."""
    lines = [{"time": round(line.time, 6), "side": line.side, "text": line.text} for line in session.lines()]
    return {**describe_session(session), "transcript": lines}


def recorder_of(context: Context) -> Recorder:
    """Return the recorder. Raises `ApiError` if sessions are not recorded."""
    if context.recorder is None:
        raise ApiError(404, "sessions are not recorded: start the server with --http-transcripts")
    return context.recorder


async def list_sessions(context: Context, request: Request) -> Response:
    """Return the newest sessions."""
    sessions = recorder_of(context).sessions()[: arguments(request)["limit"]]
    return Json({"sessions": [describe_session(session) for session in sessions]})


async def get_session(context: Context, request: Request) -> Response:
    """Return a session with its transcript."""
    session = recorder_of(context).session(arguments(request)["id"])
    if session is None:
        raise ApiError(404, "no session with this id is kept")
    return Json(describe_with_transcript(session))


async def get_session_of_message(context: Context, request: Request) -> Response:
    """Return the session of a message with its transcript."""
    session = recorder_of(context).session_of(arguments(request)["id"])
    if session is None:
        raise ApiError(404, "the session of this message is not kept")
    return Json(describe_with_transcript(session))


RECIPIENT = record(
    {
        "recipient": described(STRING, "The parameter of RCPT TO, as the client sent it"),
        "reply": described(optional(STRING), "The reply to RCPT"),
        "final_reply": described(optional(STRING), "In LMTP, the reply to the message for this recipient"),
    }
)
SESSION: dict[str, Schema] = {
    "id": described(STRING, "The id of the session, as in the log"),
    "began": described(TIME, "When it began"),
    "seconds": described(optional({"type": "number"}), "The duration in seconds; null while the session is open"),
    "peer": described(STRING, "The address of the client"),
    "helo": described(optional(STRING), "The name that the client gave in EHLO, HELO or LHLO"),
    "tls": described(optional(STRING), "The version and cipher of TLS"),
    "user": described(optional(STRING), "The user that the client logged in as"),
    "received_octets": described({"type": "integer", "minimum": 0}, "What the client has sent"),
    "sent_octets": described({"type": "integer", "minimum": 0}, "What the server has sent"),
    "messages": described(
        array(
            record(
                {
                    "sender": described(STRING, "The parameter of MAIL FROM, as the client sent it"),
                    "id": described(optional(STRING), "The store's id of the message, if it was stored"),
                    "reply": described(optional(STRING), "The reply to the message"),
                    "recipients": array(RECIPIENT),
                }
            )
        ),
        "The transactions of the session; only the newest if there are many",
    ),
}
LINE = record(
    {
        "time": described({"type": "number"}, "Seconds since the session began"),
        "side": described(
            {"type": "string", "enum": ["C", "S", ""]}, "The sender of the line, client or server; empty for a note"
        ),
        "text": described(STRING, "The line, or an event in brackets; secrets are masked"),
    }
)
SCHEMAS: dict[str, Schema] = {
    "Session": record(SESSION),
    "SessionWithTranscript": record({**SESSION, "transcript": array(LINE)}),
}
WITH_TRANSCRIPT = {200: ("The session", ref("SessionWithTranscript"))}

OPERATIONS = (
    Operation(
        id="listSessions",
        method="GET",
        path="/api/sessions",
        handler=list_sessions,
        summary="List sessions, the newest first",
        description="Open sessions are included; their ``seconds`` are null.",
        parameters=(
            Parameter(
                name="limit",
                description="The number of sessions",
                schema={"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": 50},
            ),
        ),
        responses={200: ("The sessions", record({"sessions": array(ref("Session"))}))},
    ),
    Operation(
        id="getSession",
        method="GET",
        path="/api/sessions/{id}",
        handler=get_session,
        summary="Return a session with its transcript",
        parameters=(Parameter(name="id", place="path", description="The id of a session", required=True),),
        responses=WITH_TRANSCRIPT,
    ),
    Operation(
        id="getSessionOfMessage",
        method="GET",
        path="/api/messages/{id}/session",
        handler=get_session_of_message,
        summary="Return the session of a message with its transcript",
        parameters=(Parameter(name="id", place="path", description="The id of a message", required=True),),
        responses=WITH_TRANSCRIPT,
    ),
)
