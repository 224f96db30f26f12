"""``smtp-trio mail stats``: how much a store contains, and whose mail it is."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import aclosing
from datetime import datetime
from typing import Any

from attrs import asdict

from .._server.log_events import clean
from ..stores import NotSupportedError, Store
from .mail_output import Progress, count_text, flush, size_text, write, write_json

#: Domains that are counted at a time. When there are more, the rarest half is dropped, so that the memory is bounded.
MAX_DOMAINS = 100_000


async def stats(store: Store[Any], options: argparse.Namespace) -> None:
    """Write the numbers."""
    messages = octets = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    senders: Counter[str] = Counter()
    recipients: Counter[str] = Counter()
    with Progress("counted") as progress:
        async with aclosing(store.entries()) as entries:
            async for entry in entries:
                messages += 1
                octets += entry.size
                oldest = entry.received if oldest is None else min(oldest, entry.received)
                newest = entry.received if newest is None else max(newest, entry.received)
                count(senders, [entry.sender])
                count(recipients, entry.recipients)
                progress.add()
    dead = {group: await count_dead_letters(store, group) for group in options.group or ()}
    try:
        groups = await store.groups()
    except NotSupportedError:
        groups = None
    if options.json:
        write_json(
            {
                "messages": messages,
                "octets": octets,
                "oldest": oldest and oldest.isoformat(),
                "newest": newest and newest.isoformat(),
                "sender_domains": dict(senders.most_common(options.top)),
                "recipient_domains": dict(recipients.most_common(options.top)),
                "dead_letters": dead,
                "groups": None if groups is None else {name: asdict(each) for name, each in groups.items()},
            }
        )
    else:
        short = "" if octets < 1000 else f" ({size_text(octets)})"
        write(f"{count_text(messages)}, {octets} octets{short}")
        if oldest is not None and newest is not None:
            write(f"oldest  {oldest.astimezone():%Y-%m-%d %H:%M:%S}")
            write(f"newest  {newest.astimezone():%Y-%m-%d %H:%M:%S}")
        for title, domains in (("from", senders), ("to", recipients)):
            for domain, number in domains.most_common(options.top):
                write(f"{title:4}  {number:8}  {clean(domain) or '<>'}")
        for name, counts in (groups or {}).items():
            waiting = "unknown" if counts.waiting is None else counts.waiting
            write(f"group {clean(name)}: waiting {waiting}, in flight {counts.in_flight}, dead {counts.dead}")
        for group, number in dead.items():
            write(f"dead letters of group {group}: {number}")
    flush()


def count(domains: Counter[str], addresses: list[str] | tuple[str, ...]) -> None:
    """Count each domain of a message once. An address without a domain counts as its local part."""
    domains.update({address.rpartition("@")[2].lower() for address in addresses})
    if len(domains) > MAX_DOMAINS:
        kept = domains.most_common(MAX_DOMAINS // 2)
        domains.clear()
        domains.update(dict(kept))


async def count_dead_letters(store: Store[Any], group: str) -> int:
    """Return the number of messages that a group has given up."""
    number = 0
    async with aclosing(store.dead_letters(group)) as letters:
        async for _ in letters:
            number += 1
    return number
