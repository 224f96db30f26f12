"""`MailboxQuery`: a search of Mailpit's API v1, which can have conditions on read marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self
from zoneinfo import ZoneInfo

from attrs import frozen

from ..stores import Query
from ..stores._query import NAME, parse_term, split_parts
from ._api import MAX_TERMS
from ._operation import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..stores import Entry
    from ._context import Context


@frozen(kw_only=True)
class MailboxQuery:
    """The conditions of a search: a `Query` for the store, and conditions on read marks, which a store does not have."""

    query: Query
    read: frozenset[bool] = frozenset((True, False))
    """The read marks that match."""
    possible: bool = True
    """False if no message can match, because the query has a tag."""

    @property
    def ignores_marks(self) -> bool:
        """True if only ``query`` decides which messages match."""
        return self.possible and len(self.read) == 2

    @classmethod
    def parse(cls, text: str, zone: str = "") -> Self:
        """Parse the text of a search. Raises `ApiError` if it is invalid."""
        tz = None
        if zone:
            try:
                tz = ZoneInfo(zone)
            except (KeyError, ValueError, OSError):  # an unknown name, an invalid path, or a directory
                raise ApiError(400, f"tz: {zone!r} is not a known time zone, such as Europe/Vienna") from None
        terms = []
        read, possible = {True, False}, True
        try:
            for written, value, unquoted in split_parts(text):
                negated = len(value) > 1 and unquoted > 0 and value[0] in "-!"
                found = NAME.match(value, negated, unquoted)
                match (found[1].lower(), value[found.end() :].lower()) if found else ("", ""):
                    case "is", ("read" | "unread") as state:
                        read &= {(state == "read") != negated}
                    case ("is", "tagged") | ("tag", _):
                        possible &= negated
                    case _:
                        terms.append(parse_term(written, value, unquoted, tz))
        except ValueError as error:
            raise ApiError(400, f"query: {error}") from None
        if len(terms) > MAX_TERMS:
            raise ApiError(400, f"query: must have at most {MAX_TERMS} parts, got {len(terms)}")
        return cls(query=Query(tuple(terms)), read=frozenset(read), possible=possible)

    async def search(self, context: Context) -> AsyncGenerator[Entry]:
        """Iterate over the messages that fulfil the query, the newest first."""
        if not self.possible or not self.read:
            return
        found = context.store.search(self.query) if self.query.terms else context.store.entries(reverse=True)
        try:
            async for entry in found:
                if (entry.id in context.read) in self.read:
                    yield entry
        finally:
            await found.aclose()
