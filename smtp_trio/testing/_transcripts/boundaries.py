"""MIME boundaries in transcripts, which mail programs choose at random."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import evolve

from .entry import Entry

#: The parameter of a Content-Type field (RFC 2046 5.1.1).
PARAMETER = re.compile(rb'\bboundary="([^"\r\n]+)"|\bboundary=([^\s";]+)', re.IGNORECASE)


# A boundary is replaced by one of the same length, so that sizes in MAIL and BDAT remain right and the transcript can be
# replayed. Then the offsets of entries in the octets of a side do not change either, and a boundary that was sent in two
# pieces is replaced like any other.


def replace_boundaries(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries with other boundaries: numbers with leading zeros, in the order in which they are declared."""
    entries = list(entries)
    names: dict[bytes, bytes] = {}
    replaced: dict[tuple[str, str], bytes] = {}
    for stream in dict.fromkeys((entry.session, entry.side) for entry in entries):
        octets = b"".join(entry.data for entry in entries if (entry.session, entry.side) == stream)
        for match in PARAMETER.finditer(octets):
            found = match[1] or match[2]
            names.setdefault(found, str(len(names) + 1).zfill(len(found)).encode()[-len(found) :])
        longest_first = sorted(names, key=len, reverse=True)
        uses = re.compile(
            rb'(boundary="?|\r\n--)(%b)(?=["\s;-]|\Z)' % b"|".join(map(re.escape, longest_first)), re.IGNORECASE
        )
        replaced[stream] = uses.sub(lambda use: use[1] + names.get(use[2], use[2]), octets) if names else octets
    result = []
    for entry in entries:
        octets = replaced[entry.session, entry.side]
        result.append(evolve(entry, data=octets[: len(entry.data)]))
        replaced[entry.session, entry.side] = octets[len(entry.data) :]
    return result
