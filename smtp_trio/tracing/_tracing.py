"""`Tracing`: a layer of hooks that creates spans for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import define

from .._server.body import Body
from .._server.hooks import Hooks
from .._server.session import Session
from .._server.trace_context import traceparent
from ..policies import Layer
from ..protocol import BodyError, Mail, Rcpt, Reply

try:
    from opentelemetry import context as otel_context, trace
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "smtp_trio.tracing needs the package opentelemetry-api: python -m pip install 'smtp-trio[otel]'",
        name=error.name,
    ) from None

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context

# A session is one task, in which all of its hooks run. So the context that `connect` attaches to a context variable applies to
# the whole session: to other hooks, to the tasks that they start, and to log records between the hooks. `disconnect` detaches
# it, because `Server.serve_stream` runs a session in the task of its caller.
#
# While a hook for a message runs, the span of the message is the current one. It is a child of the span of the session, so log
# records after the hook have the same trace id.
#
# A session is the root of a trace. The span that is current where the server was started is not its parent, because that span
# lasts as long as the server.

Attributes = Mapping[str, str | int | bool]


@define(eq=False)
class _Traced:
    """The spans of one session."""

    span: trace.Span
    context: Context
    token: Token[Context]
    message: trace.Span | None = None

    def end_message(self) -> None:
        """End the span of the current message, if any."""
        if self.message is not None:
            self.message.end()
            self.message = None


class Tracing(Layer):
    """A layer around other hooks that creates a span for each session and each message.

    The span of a message is a child of that of its session. Spans that the hooks create are children of the message.
    The attributes follow the semantic conventions of OpenTelemetry. Log records of the session have the id of the trace,
    and the entry of a message in a store has the trace context (`smtp_trio.stores.Entry.traceparent`).

    Only the API of OpenTelemetry is used. Without its SDK nothing is recorded.

    :param tracer: the tracer that creates the spans; by default the one named "smtp_trio".
    :raises TypeError: ``hooks`` is not an instance of `Hooks`.
    """

    def __init__(self, hooks: Hooks | None = None, *, tracer: trace.Tracer | None = None) -> None:
        super().__init__(hooks)
        self._tracer = trace.get_tracer("smtp_trio") if tracer is None else tracer

    # --- the session

    async def connect(self, session: Session) -> Reply | None:
        """Begin the span of the session."""
        span = self._tracer.start_span(
            "SMTP session",
            context=otel_context.Context(),
            kind=trace.SpanKind.SERVER,
            attributes=session_attributes(session),
        )
        context = trace.set_span_in_context(span)
        session.context[self] = _Traced(span, context, otel_context.attach(context))
        traceparent.set(format_parent(span))
        with recorded(span):
            return await self.under.connect(session)

    async def disconnect(self, session: Session) -> None:
        """End the spans."""
        traced: _Traced = session.context.pop(self)
        try:
            await self.under.disconnect(session)
        finally:
            traced.end_message()
            traced.span.set_attributes(client_attributes(session))
            traced.span.end()
            traceparent.set(None)
            otel_context.detach(traced.token)

    async def timeout(self, session: Session) -> None:
        """Record the timeout of a client."""
        traced: _Traced = session.context[self]
        traced.span.add_event("timeout")
        await self.under.timeout(session)

    # --- a message

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        """Begin the span of a message."""
        traced: _Traced = session.context[self]
        span = self._tracer.start_span(
            "SMTP message",
            context=traced.context,
            attributes={"messaging.system": "smtp", "messaging.operation.name": "receive"},
        )
        traced.message = span
        try:
            with self._current(span):
                reply = await self.under.mail(session, mail)
        except BaseException:  # MAIL is refused
            traced.end_message()
            raise
        if reply is not None and reply.refused:
            span.set_attribute("smtp.reply.code", reply.code)
            traced.end_message()
        return reply

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        """Record a recipient that is refused."""
        traced: _Traced = session.context[self]
        with self._current(traced.message):
            reply = await self.under.rcpt(session, rcpt)
        if reply is not None and reply.refused and traced.message is not None:
            traced.message.add_event("recipient refused", {"smtp.reply.code": reply.code})
        return reply

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        """End the span of a message when it has a reply."""
        traced: _Traced = session.context[self]
        span, code = traced.message, None
        try:
            with self._current(span):
                reply = await self.under.data(session, body)
            code = reply_code(reply)
        finally:
            if span is not None:
                span.set_attributes(message_attributes(body))
                if code is not None:
                    span.set_attribute("smtp.reply.code", code)
                traced.end_message()
        return reply

    async def reset(self, session: Session) -> None:
        """End the span of a message that the client gives up."""
        traced: _Traced = session.context[self]
        try:
            with self._current(traced.message):
                await self.under.reset(session)
        finally:
            traced.end_message()

    @contextmanager
    def _current(self, span: trace.Span | None) -> Iterator[None]:
        """Make a span the current one, by default that of the session, and record exceptions in it."""
        if span is None:
            yield
            return
        outer = traceparent.get()
        token = otel_context.attach(trace.set_span_in_context(span))
        traceparent.set(format_parent(span))
        try:
            with recorded(span):
                yield
        finally:
            traceparent.set(outer)
            otel_context.detach(token)


@contextmanager
def recorded(span: trace.Span) -> Iterator[None]:
    """Record an exception in a span. A message that the client has not completed is not an error of the server."""
    try:
        yield
    except BodyError as error:
        span.add_event("message not complete", {"exception.message": str(error)})
        raise
    except Exception as error:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        raise


def format_parent(span: trace.Span) -> str | None:
    """Return the W3C trace context of a span, or None if it has none, for example without an SDK."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def session_attributes(session: Session) -> Attributes:
    """Return the attributes that are known when the session begins."""
    found: dict[str, str | int | bool] = {
        "network.protocol.name": "lmtp" if session.server.lmtp else "smtp",
        "network.transport": "unix" if session.peer.kind == "unix" else "tcp",
        "client.address": session.peer.host or session.peer.kind,
        "server.address": session.server.name,
    }
    if session.peer.port is not None:
        found["client.port"] = session.peer.port
    if session.local.port is not None:
        found["server.port"] = session.local.port
    return found


def client_attributes(session: Session) -> Attributes:
    """Return the attributes of the client, which are known when the session ends."""
    found: dict[str, str | int | bool] = {}
    if session.hello is not None:
        found["smtp.hello"] = session.hello.domain
    if session.tls is not None:
        found |= {
            "tls.established": True,
            "tls.protocol.name": "tls",
            "tls.protocol.version": session.tls.version.removeprefix("TLSv"),
            "tls.cipher": session.tls.cipher,
        }
    if session.user is not None:
        found["enduser.id"] = session.user
    return found


def message_attributes(body: Body) -> Attributes:
    """Return the attributes of a message, which are known when its hook has returned."""
    return {
        "messaging.message.id": body.envelope.id,
        "messaging.message.envelope.size": body.size,
        "smtp.recipients": len(body.envelope.rcpts),
    }


def reply_code(reply: Reply | Sequence[Reply | None] | None) -> int:
    """Return the code of the reply to a message; in LMTP the first one that refuses a recipient."""
    replies = [reply] if reply is None or isinstance(reply, Reply) else reply
    return next((each.code for each in replies if each is not None and each.refused), 250)
