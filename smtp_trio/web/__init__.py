"""One HTTP listener for a server and its store: a page, a JSON API, faults, metrics and health checks.

It needs the extra ``web``: ``python -m pip install 'smtp-trio[web]'``.
"""

from __future__ import annotations

from ._app import App, app
from ._recorder import RecordedLine, RecordedMessage, RecordedRecipient, RecordedSession, Recorder
from ._serve import serve

__all__ = ["App", "RecordedLine", "RecordedMessage", "RecordedRecipient", "RecordedSession", "Recorder", "app", "serve"]
