"""The parser of address lists in header fields."""

from __future__ import annotations

import re
from typing import Final

# Reading an address list (RFC 5322 3.4).
#
# The email package has a parser for address lists, but that guesses when the text is malformed: it takes a@b from ``a@b
# <c@d>``. A message must not be sent to a guessed address, so this one rejects what it cannot read.
#
# The expression matches one token: white space and comments, <...>, a separator, a quoted string, a domain literal, or
# an atom. No two kinds begin with the same character, so there is no backtracking over the text. Comments are read to a
# nesting depth of two.
TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*\)) | (?P<angle><(?:"(?:[^"\\]|\\.)*"|[^">])*>)
      | (?P<separator>[,;:]) | "(?:[^"\\]|\\.)*" | \[[^\[\]]*\] | [^\s"()<>\[\],;:]+""",
    re.VERBOSE | re.DOTALL,
)


#: What a name in an address list contains only in quotation marks (RFC 5322 3.2.5); dots are tolerated (4.1).
NOT_IN_PHRASE: Final = re.compile(r"[^\"].*[@\\]|[@\\\[]", re.DOTALL)


def split_addresses(text: str, *, strict: bool = False) -> list[str] | None:
    """Return the addresses in an address list (RFC 5322 3.4) without names, comments and groups.

    Return None if it is malformed. With ``strict`` it is malformed also if a name has an @ without quotation marks, as in
    ``a@b <c@d>``, which many programs write, and which some read as the address a@b.
    """
    found: list[str] = []
    entry_tokens: list[str] = []
    angles: list[str] = []
    words: list[str] = []
    in_group, position = False, 0
    text += ","
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            return None
        position, token, kind = match.end(), match[0], match.lastgroup
        if kind != "separator":
            entry_tokens.append(" " if kind == "space" else token)
            if kind == "angle":
                angles.append(token[1:-1].strip())
            elif kind is None:
                words.append(token)
            continue
        entry = "".join(entry_tokens).strip()
        if angles and (len(angles) > 1 or token == ":" or not entry.endswith(">")):
            return None
        if strict and (angles or token == ":") and any(map(NOT_IN_PHRASE.match, words)):
            return None
        if token != "," and in_group == (token == ":"):
            return None  # a group inside a group, or ";" outside of one
        if entry and token != ":":
            found.append(angles[0] if angles else entry)
        in_group = token == ":" or (in_group and token == ",")
        entry_tokens, angles, words = [], [], []
    return None if in_group else found
