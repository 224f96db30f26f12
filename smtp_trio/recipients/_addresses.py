"""The keys of entries: the text under which an address, a domain or its subdomains are listed."""

from __future__ import annotations

import re
from typing import Final

from ..protocol.arguments import check_type
from ..protocol.syntax import Path, minimal_quoting, parse_domain, parse_path

#: The key of the entry for ``<Postmaster>`` without a domain (RFC 5321 4.5.1).
POSTMASTER: Final = "postmaster"
#: A list of addresses, up to the next comma that is not in a quoted string.
ADDRESS: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*+"|[^,])+')

# A key is compared as text, so each address has exactly one. Domains are in lower case with A-labels (RFC 5890), and
# local parts in lower case with the fewest quotes (`Path.lower`): RFC 5321 2.4 leaves the case of a local part to the
# server that has the mailbox, and servers ignore it. Letters that are not ASCII stay as they are.
#
# The keys for an address are looked up from the most specific to the least specific one, as those of Postfix's
# virtual(5) are:
#
#     fred+lists@eng.example.org    the address itself
#     fred@eng.example.org          without its detail
#     postmaster                    only for the local part postmaster
#     @eng.example.org              every other address at the domain
#     @.example.org                 every other address at a subdomain
#     @.org


def fold(address: str) -> str:
    """Return an address with its ASCII letters in lower case, as `Path.lower` does."""
    return address.encode().lower().decode()


def parent_domains(domain: str) -> list[str]:
    """Return a domain, and a dot with each domain that it is a subdomain of: what a list of domains can have for it."""
    found = [domain.lower()]  # an address literal has the case in which it was sent
    if not domain.startswith("["):
        rest = domain
        while rest := rest.partition(".")[2]:
            found.append(f".{rest}")
    return found


def keys_of(recipient: Path, delimiter: str) -> list[str]:
    """Return the keys of the entries that a recipient may have, the most specific one first.

    ``delimiter`` has the characters of which the first one in a local part begins its detail.
    """
    if recipient.domain is None:
        return [POSTMASTER]
    domains = parent_domains(recipient.domain)
    keys = [recipient.lower()]
    user = without_detail(recipient.local, delimiter)
    if user is not None:
        keys.append(f"{fold(user)}@{domains[0]}")
    if recipient.is_postmaster:
        keys.append(POSTMASTER)
    return keys + [f"@{domain}" for domain in domains]


def without_detail(local: str, delimiter: str) -> str | None:
    """Return the local part without its detail (RFC 5233), or None if it has none, or nothing else."""
    quoted = local.startswith('"')
    at = min((found for char in delimiter if (found := local.find(char)) >= 0), default=0)
    if at <= quoted:
        return None
    return minimal_quoting(f'{local[:at]}"') if quoted else local[:at]


def check_delimiter(delimiter: str) -> str:
    """Return the characters that begin a detail. Raises TypeError or ValueError if they are not valid."""
    check_type(delimiter, "delimiter", str)
    if not (delimiter.isascii() and delimiter.isprintable()) or set(delimiter) & set('" @\\'):
        raise ValueError(f"delimiter must be printable ASCII without space, quote, backslash and @, got {delimiter!r}")
    return delimiter


def parse_own_domain(text: str) -> str:
    """Return a domain, or a dot and a domain, in the form that recipients have. Raises ValueError if it is invalid."""
    domain = text.removeprefix(".")
    parsed = parse_domain(domain)
    if parsed is None:
        raise ValueError(f"each item of domains must be a domain, got {text!r}")
    return text[: -len(domain)] + parsed.lower()


def parse_key(text: str) -> str | None:
    """Return the key for what an entry is listed as, or None if that is not valid."""
    if text.startswith("@"):
        domain = text.removeprefix("@").removeprefix(".")
        parsed = parse_domain(domain)
        return None if parsed is None else text[: -len(domain)] + parsed.lower()
    if text.lower() == POSTMASTER:
        return POSTMASTER
    path = parse_address(text)
    return None if path is None else path.lower()


def parse_address(text: str) -> Path | None:
    """Return the path for an address with a domain, or None if it is not valid."""
    path = None if text.startswith(("<", "@")) else parse_path(text)
    return None if path is None or path.domain is None else path


def split_addresses(text: str) -> list[str]:
    """Return the parts of a text between its commas, without white space around them."""
    return [part.strip() for part in ADDRESS.findall(text)]
