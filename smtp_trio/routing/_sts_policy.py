"""MTA-STS policies (RFC 8461): the TXT record that announces one, the text of a policy, and which hosts it allows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, get_args

from attrs import field, frozen

from ..protocol import SMTPError
from ._tls_results import TlsResultType
from ._txt_fields import parse_fields

#: How a policy is applied (RFC 8461 5): exchangers that fail it get no mail, they do and the failure is reported, or as
#: without a policy.
StsMode = Literal["enforce", "testing", "none"]
MODES: Final[dict[str, StsMode]] = {mode: mode for mode in get_args(StsMode)}

#: RFC 8461 3.2: the maximum of ``max_age``, about a year.
MAX_AGE: Final = 31_557_600
#: RFC 8461 3.3: the suggested maximum size of a policy.
MAX_SIZE: Final = 65536

VERSION: Final = "STSv1"
VALUES: Final = {"id": re.compile(r"[A-Za-z0-9]{1,32}")}
#: sts-policy-field-delim, after a key. Keys are case-sensitive.
LINE: Final = re.compile(r"(?P<key>[A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*(?P<value>.*)", re.ASCII)
#: What no value contains (sts-policy-vchar), other than the spaces in it.
CONTROL: Final = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")
LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#: sts-policy-mx-value, with A-labels only (RFC 8461 3.2).
MX_PATTERN: Final = re.compile(rf"(?:\*\.)?{LABEL}(?:\.{LABEL})*")
SECONDS: Final = re.compile(r"[0-9]{1,10}")


class PolicyFetchError(SMTPError):
    """The MTA-STS policy that a domain announces cannot be used.

    ``domain`` is the domain, ``reason`` is for people, and ``result_type`` how RFC 8460 4.3.2.2 classifies the failure:
    the policy could not be fetched, it was invalid, or its host was not authenticated.
    """

    def __init__(self, domain: str, result_type: TlsResultType, reason: str) -> None:
        super().__init__(f"MTA-STS policy of {domain}: {reason}")
        self.domain: str = domain
        self.result_type: TlsResultType = result_type
        self.reason: str = reason


@frozen
class StsPolicy:
    """The MTA-STS policy of a domain (RFC 8461 3.2).

    ``mx`` are the patterns for the names of its exchangers, in lower case, and ``max_age`` is the time in seconds for
    which the policy is valid after it was fetched. ``lines`` is the policy as it was fetched, for reports (RFC 8460
    4.5).
    """

    mode: StsMode
    max_age: int
    mx: tuple[str, ...] = ()
    lines: tuple[str, ...] = field(default=(), eq=False, repr=False)

    def allows(self, host: str) -> bool:
        """Return whether one of the patterns matches the name of an exchanger (RFC 8461 4.1).

        The wildcard of a pattern stands for exactly one label. Whether the mode requires a match is not considered.
        """
        host = host.lower().removesuffix(".")
        label, _, parent = host.partition(".")
        return "*" not in host and (host in self.mx or (label != "" and f"*.{parent}" in self.mx))


def parse_sts_record(texts: Iterable[str]) -> str | None:
    """Return the id in the TXT record of ``_mta-sts.<domain>``; None if the domain has no valid record (RFC 8461 3.1).

    :param texts: all TXT records of the name. There must be exactly one that begins with ``v=STSv1;``.
    """
    fields = parse_fields(texts, f"v={VERSION}", "id", VALUES)
    return None if fields is None else fields["id"]


# Where the grammar is not followed to the letter
#
# A policy that is refused is one that is not applied, so mail goes out without the protection that the domain asked
# for. A deviation that leaves no doubt about the meaning is therefore accepted: empty lines, white space at the end of a
# line, unknown fields with any value, and a `max_age` above the maximum, which counts as the maximum. A line that is
# not a field, an unknown mode, or a pattern that is not a host name, may be an error that changes the meaning: then the
# policy is invalid (RFC 8460 4.3.2.2: sts-policy-invalid).
def parse_sts_policy(data: bytes | str) -> StsPolicy:
    r"""Return the policy in the text of ``mta-sts.txt`` (RFC 8461 3.2).

    Lines end with CRLF or LF. Unknown fields are ignored, and of a repeated field, except ``mx``, the first one counts.

    :param data: the text, up to 64 KiB. Octets must be UTF-8.
    :raises ValueError: the policy is invalid.
    """
    text = data if isinstance(data, str) else _decode(data)
    if len(text) > MAX_SIZE:
        raise ValueError(f"longer than {MAX_SIZE} octets")
    lines = tuple(line for each in text.split("\n") if (line := each.removesuffix("\r").rstrip(" \t")))
    found: dict[str, str] = {}
    patterns = []
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None or CONTROL.search(line):
            raise ValueError(f"not a field: {line[:100]!a}")
        if match["key"] == "mx":
            patterns.append(_pattern(match["value"]))
        else:
            found.setdefault(match["key"], match["value"])
    for key in ("version", "mode", "max_age"):
        if key not in found:
            raise ValueError(f"no {key}")
    mode, max_age = MODES.get(found["mode"]), found["max_age"]
    if found["version"] != VERSION:
        raise ValueError(f"unknown version: {found['version'][:100]!a}")
    if mode is None:
        raise ValueError(f"unknown mode: {found['mode'][:100]!a}")
    if SECONDS.fullmatch(max_age) is None:
        raise ValueError(f"invalid max_age: {max_age[:100]!a}")
    if not patterns and mode != "none":
        raise ValueError("no mx")
    return StsPolicy(mode, min(int(max_age), MAX_AGE), tuple(dict.fromkeys(patterns)), lines)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def _pattern(value: str) -> str:
    if MX_PATTERN.fullmatch(value) is None or len(value) > 255:
        raise ValueError(f"invalid mx: {value[:100]!a}")
    return value.lower()
