"""The recipients of a server: which addresses it accepts, and the aliases among them.

`Recipients` is a layer around other hooks. It asks its sources: a `RecipientFile`, a `RecipientDatabase`, a
`RecipientService`, or a subclass of `Source`.
"""

from __future__ import annotations

from .._server.alias_targets import expanded
from ._database import RecipientDatabase
from ._file import RecipientFile
from ._recipients import Recipients
from ._service import RecipientService
from ._source import AliasError, Source, SourceError

__all__ = [
    "AliasError",
    "RecipientDatabase",
    "RecipientFile",
    "RecipientService",
    "Recipients",
    "Source",
    "SourceError",
    "expanded",
]
