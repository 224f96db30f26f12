"""The trace to which the current session belongs, for the log and for stores."""

from __future__ import annotations

from contextvars import ContextVar

#: The trace context of the running session or message as the W3C defines it (Trace Context, section 3.2), such as
#: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"; None without tracing.
traceparent: ContextVar[str | None] = ContextVar("smtp_trio.traceparent", default=None)


def trace_id() -> str | None:
    """Return the id of the current trace, 32 hexadecimal digits; None without tracing."""
    parent = traceparent.get()
    return None if parent is None else parent.split("-")[1]
