"""`ReadMarks`: the ids of messages that have been read on the page or through the API."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

#: The maximum number of marks. The oldest ones are dropped. Marks are kept in memory, since stores have no field for them.
MAX_MARKS = 100_000


class ReadMarks:
    """The ids of the messages that have been read. They are lost when the process ends."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def mark(self, ids: Iterable[str], *, read: bool = True) -> None:
        """Mark messages as read or as unread."""
        for each in ids:
            if not read:
                self._ids.pop(each, None)
                continue
            self._ids[each] = None
            if len(self._ids) > MAX_MARKS:
                self._ids.popitem(last=False)
