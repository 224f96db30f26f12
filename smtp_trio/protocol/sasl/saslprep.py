"""SASLprep (RFC 4013): the form in which names and passwords are compared and hashed."""

from __future__ import annotations

from typing import Final

# Preparation takes time for each character: about 5 us where the text is not ASCII, and normalization alone can make 18
# characters out of one, or sort long runs of combining characters. A message of an AUTH exchange has room for thousands
# of them, and names are prepared before anything is known about the client. So the length is limited, of the text as it
# was received and of what normalization makes of it.

#: The most characters of a user name. Each server must accept 255 octets (RFC 4616 2), and a mail address has at most 254
#: (RFC 5321 4.5.3.1.3).
MAX_NAME: Final = 255
#: The most characters of a password that is prepared or stored: more than people type.
MAX_PASSWORD: Final = 1024


def saslprep(text: str, limit: int) -> str:
    """Return ``text`` in the form of SASLprep. Raises ValueError, without the text, if the profile forbids it.

    It is forbidden too if it has more than ``limit`` characters before or after preparation.

    Code points that Unicode 3.2 has not assigned are forbidden, as they are for strings that are stored (RFC 4013 2.5).
    """
    if len(text) > limit:
        raise ValueError(f"has more than {limit} characters")
    if text.isascii():
        prepared = text
        forbidden = not text.isprintable()  # C.2.1, the only table of RFC 3454 with ASCII characters but space
    else:
        prepared, forbidden = _prepare(text, limit)
    if forbidden:
        raise ValueError("contains a character that SASLprep (RFC 4013) forbids")
    if not prepared:
        raise ValueError("is empty after SASLprep (RFC 4013)")
    return prepared


def _prepare(text: str, limit: int) -> tuple[str, bool]:
    """Return the prepared text, and whether it is forbidden. The tables are those of RFC 3454."""
    import stringprep as tables
    import unicodedata

    # RFC 4013 2.1 and 2.2: other spaces become SP, what is "commonly mapped to nothing" is dropped; then NFKC.
    mapped = (" " if tables.in_table_c12(each) else each for each in text if not tables.in_table_b1(each))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", "".join(mapped))
    if len(prepared) > limit:
        raise ValueError(f"has more than {limit} characters after SASLprep (RFC 4013)")
    prohibited = (
        tables.in_table_a1, tables.in_table_c12, tables.in_table_c21_c22, tables.in_table_c3, tables.in_table_c4,
        tables.in_table_c5, tables.in_table_c6, tables.in_table_c7, tables.in_table_c8, tables.in_table_c9,
    )  # fmt: skip
    if any(is_in(each) for each in prepared for is_in in prohibited):
        return prepared, True
    # RFC 3454 6: text with characters that are written from right to left has no others, and begins and ends with them.
    from_right = [tables.in_table_d1(each) for each in prepared]
    mixed = any(from_right) and (
        any(tables.in_table_d2(each) for each in prepared) or not (from_right[0] and from_right[-1])
    )
    return prepared, mixed
