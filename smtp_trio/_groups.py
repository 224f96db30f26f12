"""Groups of exceptions, and what is left of them when nobody needs to see a group."""

from __future__ import annotations

from collections.abc import Iterator

import trio


def collapse_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exceptions of a group that are not Cancelled, without the group when there is only one; a Cancelled when there is none."""
    group = group.split(trio.Cancelled)[1] or group
    leaves = list(_leaves(group))
    alike = len(leaves) == 1 or isinstance(leaves[0], trio.Cancelled)
    return leaves[0] if alike else group


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
