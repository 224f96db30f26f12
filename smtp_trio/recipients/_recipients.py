"""`Recipients`: a layer that accepts the recipients which its sources list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import trio

from .._server.alias_targets import TARGETS
from .._server.hooks import Hooks
from .._server.log_events import ALIAS_FAILED, RECIPIENTS_FAILED, RECIPIENTS_RESTORED
from .._server.session import Session
from ..policies import Layer
from ..protocol import Path, Rcpt, Reply
from ..protocol.arguments import check_items
from ._addresses import check_delimiter, keys_of, parent_domains, parse_address, parse_own_domain
from ._source import AliasError, Source, SourceError

UNKNOWN: Final = Reply(550, "No such mailbox here", "5.1.1")
NOT_LOCAL: Final = Reply(550, "Mail for this domain is not accepted here", "5.7.1")
TRY_LATER: Final = Reply(451, "Cannot check this recipient now; try again later", "4.3.0")
TOO_MANY: Final = Reply(452, "Too many recipients in this message", "4.5.3")
INVALID_ALIAS: Final = Reply(451, "The alias of this address cannot be expanded; try again later", "4.3.5")

#: The aliases that can follow each other, and the addresses that are looked up for one recipient.
MAX_DEPTH: Final = 20
MAX_TARGETS: Final = 1000
#: The targets of all aliases of a message. Each detail of an alias is another recipient, with the same targets.
MAX_MESSAGE_TARGETS: Final = 10_000
#: The errors of aliases that have a record in the log: a client can cause any number of them by a catch-all.
MAX_REPORTED: Final = 100


class Recipients(Layer):
    """Accept the recipients that a source lists, and refuse others with 550 5.1.1.

    ``<Postmaster>`` is always accepted, and so is the local part postmaster at each own domain (RFC 5321 4.5.1). While
    a source does not answer, recipients get 451 4.3.0, unless a source before it has an entry for the address itself;
    ``<Postmaster>`` is then accepted without its aliases.

    The recipients of an alias are replaced where a store keeps the envelope; see `expanded`.

    :param hooks: the hooks below, for example a store. Their `Hooks.rcpt` is called for recipients that are listed.
    :param sources: asked in this order. The most specific entry for an address counts, and of several equal ones the
        first.
    :param domains: the own domains; a leading dot means the subdomains. Recipients at others are refused with 550 5.7.1
        and not looked up. None: the domains of the entries.
    :param delimiter: the characters that can begin the detail of a local part: ``fred+lists`` is accepted where
        ``fred`` is. "" for none.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: ``sources`` is empty, or a domain or ``delimiter`` is invalid.
    """

    def __init__(
        self, hooks: Hooks | None = None, *sources: Source, domains: Iterable[str] | None = None, delimiter: str = "+"
    ) -> None:
        super().__init__(hooks)
        self.sources: tuple[Source, ...] = check_items(sources, "sources", Source)
        if not self.sources:
            raise ValueError("sources must have at least one item")
        self.delimiter: str = check_delimiter(delimiter)
        self._domains = (
            None if domains is None else frozenset(map(parse_own_domain, check_items(domains, "domains", str)))
        )
        self._failing: set[Source] = set()
        self._reported: set[str] = set()

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        recipient = rcpt.recipient
        try:
            targets = await self.resolve(recipient)
            if targets is None:
                return NOT_LOCAL if await self._is_own(recipient) is False else UNKNOWN
        except SourceError as error:
            reply = self._temporary(error)
            # RFC 5321 4.5.1: <Postmaster> is accepted whatever else fails, without the aliases that it may have.
            if recipient.domain is not None:
                return reply
            targets = (recipient,)
        if targets != (recipient,):
            assert session.envelope is not None
            aliases = session.envelope.context.setdefault(TARGETS, {})
            if sum(map(len, aliases.values())) + len(targets) > MAX_MESSAGE_TARGETS:
                return TOO_MANY
            aliases[recipient.raw] = targets
        return await self.under.rcpt(session, rcpt)

    async def resolve(self, recipient: Path) -> tuple[Path, ...] | None:
        """Return the addresses that mail for a recipient is delivered to, or None if it is not listed.

        For a mailbox that is the recipient itself. Aliases among the targets of an alias are followed, and an address
        that is its own target is a mailbox. Addresses that no source lists are kept as they are: they are elsewhere.

        :raises AliasError: the targets lead to themselves, are too many or not addresses.
        :raises SourceError: a source does not answer.
        """
        if self._domains is not None and not await self._is_own(recipient):
            return None
        targets = await self._look_up(recipient)
        if targets is None:
            postmaster = recipient.is_postmaster and (recipient.domain is None or await self._is_own(recipient))
            return (recipient,) if postmaster else None
        if not targets:
            return (recipient,)
        found: dict[str, Path] = {}
        await self._expand(recipient, targets, found, {recipient.lower()}, 1)
        if not found:
            raise AliasError(f"the alias {recipient} leads to itself only")
        return tuple(found.values())

    # Aliases can lead to each other in a circle, so each address is looked up once. The addresses of a circle have no
    # other targets than each other, or those that others of them have. In the first case nothing is found, and the
    # recipient gets 451, since a 550 would be final. The order of the targets is that of the entries.
    async def _expand(
        self, alias: Path, targets: Sequence[str], found: dict[str, Path], seen: set[str], depth: int
    ) -> None:
        """Add the addresses to ``found`` that the targets of an alias stand for."""
        if depth > MAX_DEPTH:
            raise AliasError(f"more than {MAX_DEPTH} aliases lead to {alias}")
        for text in targets:
            target = parse_address(text)
            if target is None:
                raise AliasError(f"the alias {alias} has the target {text[:100]!a}, which is not an address")
            key = target.lower()
            if key == alias.lower():
                found[key] = target
            if key in seen:
                continue
            seen.add(key)
            if len(seen) % 100 == 0:
                await trio.lowlevel.checkpoint()  # a source in memory has none
            if len(seen) > MAX_TARGETS:
                raise AliasError(f"the alias {alias} has more than {MAX_TARGETS} targets")
            if further := await self._look_up(target):
                await self._expand(target, further, found, seen, depth + 1)
            else:
                found[key] = target

    async def _look_up(self, recipient: Path) -> Sequence[str] | None:
        """Return the targets of the most specific entry for an address, or None without one."""
        keys = keys_of(recipient, self.delimiter)
        found: dict[str, Sequence[str]] = {}
        for source in self.sources:
            try:
                entries = await source.look_up(keys)
            except SourceError as error:
                raise self._failed(source, error) from None
            self._answered(source)
            found = {**entries, **found}
            if keys[0] in found:
                break
        return next((found[key] for key in keys if key in found), None)

    async def _is_own(self, recipient: Path) -> bool | None:
        """Return whether a recipient is at one of the own domains; None if no source knows."""
        if recipient.domain is None:
            return True
        domains = parent_domains(recipient.domain)
        if self._domains is not None:
            return not self._domains.isdisjoint(domains)
        own: bool | None = False
        for source in self.sources:
            try:
                answer = await source.has_domain(domains)
            except SourceError as error:
                raise self._failed(source, error) from None
            if answer:
                return True
            own = None if answer is None else own
        return own

    def _temporary(self, error: SourceError) -> Reply:
        """Return the reply for a recipient that cannot be looked up."""
        if not isinstance(error, AliasError):
            return TRY_LATER
        text = str(error)
        if text not in self._reported and len(self._reported) < MAX_REPORTED:
            self._reported.add(text)
            ALIAS_FAILED.log(error=text)
        return INVALID_ALIAS

    # A source that is out of order has one record when it begins to fail and one when it answers again, not one for
    # each recipient: clients can send many.

    def _failed(self, source: Source, error: SourceError) -> SourceError:
        if source not in self._failing:
            self._failing.add(source)
            RECIPIENTS_FAILED.log(error=str(error))
        return error

    def _answered(self, source: Source) -> None:
        if source in self._failing:
            self._failing.discard(source)
            RECIPIENTS_RESTORED.log(source=str(source))
