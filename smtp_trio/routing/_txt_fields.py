"""TXT records that consist of a version and of ``key=value`` fields: those of MTA-STS and of TLS reporting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

WHITE_SPACE: Final = " \t"
#: sts-ext-name and tlsrpt-ext-name.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
#: sts-ext-value and tlsrpt-ext-value: no "=", ";", space or control character.
VALUE: Final = re.compile(r"[!-:<>-~]+")


# RFC 8461 3.1 and RFC 8460 3 have the same rules for both records: those that do not begin with the version are
# discarded, and there is a policy only if exactly one is left, and only if its syntax is valid. Unknown fields are
# ignored, but text that is not a field makes the record invalid.
#
# The text discards records "that do not begin with 'v=STSv1;'", while the grammar allows white space before the
# semicolon. The grammar is followed here: to take a record that the domain meant as one for absent would disable its
# policy.
#
# The record is split at its semicolons, and not matched by one expression, so that white space in it cannot make it
# take quadratic time: a TXT record may have 65535 octets.
def parse_fields(
    texts: Iterable[str], version: str, required: str, values: Mapping[str, re.Pattern[str]]
) -> dict[str, str] | None:
    """Return the fields of the one record that begins with ``version``; None without a valid one.

    :param texts: the TXT records of the name.
    :param version: the first field, such as ``v=STSv1``.
    :param required: the name of a field without which the record is invalid.
    :param values: the syntax of the values of known fields. Of a field that is repeated, the first one counts.
    """
    split = [text.split(";") for text in texts]
    candidates = [parts for parts in split if len(parts) > 1 and parts[0].rstrip(WHITE_SPACE) == version]
    if len(candidates) != 1:
        return None
    [[_, *parts]] = candidates
    # White space is allowed around a semicolon, and not at the end of the last field.
    fields = [part.strip(WHITE_SPACE) for part in parts[:-1]]
    if last := parts[-1].lstrip(WHITE_SPACE):
        fields.append(last)
    found: dict[str, str] = {}
    for each in fields:
        name, _, value = each.partition("=")
        syntax = VALUE if name in found else values.get(name, VALUE)
        if NAME.fullmatch(name) is None or syntax.fullmatch(value) is None:
            return None
        found.setdefault(name, value)
    return found if required in found else None
