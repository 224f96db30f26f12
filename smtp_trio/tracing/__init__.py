"""Traces of sessions and messages for OpenTelemetry.

It needs the extra ``otel``: ``python -m pip install 'smtp-trio[otel]'``.
"""

from __future__ import annotations

from ._tracing import Tracing

__all__ = ["Tracing"]
