"""Exception groups, reduced to what a caller that has started no nursery expects."""

from __future__ import annotations

from collections.abc import Iterator

import trio


def collapse_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the group without its `trio.Cancelled` exceptions, or the only exception that is left then; a Cancelled
    if none is."""
    group = group.split(trio.Cancelled)[1] or group
    leaves = list(_leaves(group))
    single = len(leaves) == 1 or isinstance(leaves[0], trio.Cancelled)
    return leaves[0] if single else group


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
