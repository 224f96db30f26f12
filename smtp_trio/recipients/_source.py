"""`Source`: where `Recipients` finds its entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class SourceError(Exception):
    """A source could not be read or did not answer. Clients get 451, never a refusal of the address."""


class AliasError(SourceError):
    """The targets of an alias lead to themselves, are too many or are not addresses. Clients get 451."""


class Source:
    """The base class of the sources of `Recipients`. A source of your own overrides `look_up`, and perhaps the others.

    An entry has a key and targets. The key is an address (``fred@example.org``), ``@example.org`` for every other
    address of a domain, ``@.example.org`` for every other address of its subdomains, or ``postmaster``. Keys are in lower
    case, with domains as A-labels (RFC 5890). The targets are the addresses that an alias stands for; a mailbox has
    none.
    """

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the targets of those of the keys that have an entry.

        :param keys: the keys that are looked up for one address, the most specific one first; the first is the address.
        :raises SourceError: the source cannot answer now.
        """
        raise NotImplementedError

    async def has_domain(self, domains: Sequence[str]) -> bool | None:
        """Return whether entries of this source are at one of these domains; None if it does not know.

        It is called for an address without an entry, with its domain, and with a dot and each domain that this is a
        subdomain of.

        :raises SourceError: the source cannot answer now.
        """
        return None

    def load(self) -> None:
        """Read the source, the first time or again. Blocks. The default does nothing.

        :raises SourceError: the source cannot be used. What was read before stays in use.
        """
