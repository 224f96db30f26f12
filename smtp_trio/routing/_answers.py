"""Lookups in the DNS: what a resolver is asked, and what it returns."""

from __future__ import annotations

import hashlib
from typing import Final, Literal, Protocol

from attrs import field, frozen

from ..protocol.der import is_sequence

#: The types of records that are looked up.
RecordType = Literal["MX", "A", "AAAA", "CNAME", "TLSA", "TXT"]


@frozen
class MxRecord:
    """An MX record (RFC 1035 3.3.9): the ``host`` that receives the domain's mail, and its ``preference``.

    A lower number is more preferred. A host of "" is a null MX (RFC 7505).
    """

    preference: int
    host: str


#: The certificate usages of RFC 7218 2.1 that are used with SMTP (RFC 7672 3.1).
DANE_TA, DANE_EE = 2, 3
#: The selectors (RFC 7218 2.2): the whole certificate, or its public key.
CERT, SPKI = 0, 1
#: The matching type of data that is not a digest (RFC 7218 2.3).
FULL = 0
#: The digests, by matching type (RFC 7218 2.3). A higher number is a stronger digest.
DIGESTS: Final = {1: hashlib.sha256, 2: hashlib.sha512}


@frozen
class TlsaRecord:
    """A TLSA record (RFC 6698 2.1): certificate usage, selector, matching type and certificate association data."""

    usage: int
    selector: int
    matching: int
    data: bytes = field(repr=bytes.hex)

    @property
    def usable(self) -> bool:
        """True if an SMTP client can use the record to authenticate a server.

        The usage must be DANE-TA(2) or DANE-EE(3) (RFC 7672 3.1.3), selector and matching type known, and the data of
        the right length (RFC 6698 4.1).
        """
        if self.usage not in (DANE_TA, DANE_EE) or self.selector not in (CERT, SPKI):
            return False
        if self.matching == FULL:
            return is_sequence(self.data)
        digest = DIGESTS.get(self.matching)
        return digest is not None and len(self.data) == digest().digest_size

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"


@frozen
class Answer:
    """The answer to a lookup: all records of a name and type, or the information that there are not any.

    ``canonical_name`` is the name at the end of the CNAME records, and ``name`` if it has none. ``records`` are of
    the class for the ``type``: `MxRecord`, `TlsaRecord`, and str for the others: addresses, the target of a CNAME, or
    the text of a TXT record. ``exists`` is False if the name does not exist (NXDOMAIN, RFC 2308 2.1). ``secure`` is
    True if a trusted resolver has validated the whole answer, with its CNAME records, by DNSSEC (RFC 4035 4.3); an
    answer without records can be secure too.
    """

    name: str
    type: str
    records: tuple[MxRecord | TlsaRecord | str, ...] = ()
    canonical_name: str = field()
    exists: bool = True
    secure: bool = False

    @canonical_name.default
    def _own_name(self) -> str:
        return self.name


class Resolver(Protocol):
    """Looks up names in the DNS. `DnsResolver` is one, and `smtp_trio.testing.MemoryResolver` one for tests."""

    async def query(self, name: str, type: RecordType) -> Answer:
        """Return the records of ``type`` of a name with A-labels, after following its CNAME records.

        With the type "CNAME", none is followed. An answer without records is returned, and is not an error. Raises
        `LookupFailedError` if the lookup fails, also if DNSSEC validation does (RFC 7672 2.1.1).
        """
        ...
