"""Values of each parameter that an extension adds to MAIL or RCPT.

The tests of the grammar, of the stores and of the client share this table. It has to contain every parameter, so that a new
one is tested by all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from smtp_trio.protocol import Extension, Mail, Param, Rcpt, standard
from smtp_trio.protocol.commands import Command
from smtp_trio.protocol.extensions import KNOWN, Auth, FutureRelease
from smtp_trio.protocol.extensions.auth import AUTH
from smtp_trio.protocol.extensions.deliverby import BY, ByTime
from smtp_trio.protocol.extensions.dsn import ENVID, MAX_ENVID, MAX_ORCPT, NOTIFICATIONS, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.futurerelease import HOLDFOR, HOLDUNTIL
from smtp_trio.protocol.extensions.mt_priority import MT_PRIORITY
from smtp_trio.protocol.extensions.mtrk import MTRK, Tracking
from smtp_trio.protocol.extensions.no_soliciting import SOLICIT
from smtp_trio.protocol.extensions.requiretls import REQUIRETLS
from smtp_trio.protocol.extensions.rrvs import RRVS, ValidSince
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.protocol.timestamps import FIRST, LAST

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
TIME = int(MIDNIGHT.timestamp())

#: Values of each parameter, with the texts that they have on the wire and in the stores.
SAMPLES: Mapping[Param[Any], Sequence[tuple[object, str]]] = {
    SIZE: [(0, "SIZE=0"), (12345, "SIZE=12345")],
    BODY: [("7BIT", "BODY=7BIT"), ("8BITMIME", "BODY=8BITMIME"), ("BINARYMIME", "BODY=BINARYMIME")],
    SMTPUTF8: [(True, "SMTPUTF8")],
    AUTH: [
        ("<>", "AUTH=<>"),
        ("e=mc2@example.org", "AUTH=e+3Dmc2@example.org"),
        ("\u00e9@x.test", "AUTH=+C3+A9@x.test"),
    ],
    RET: [("FULL", "RET=FULL"), ("HDRS", "RET=HDRS")],
    ENVID: [("QQ 314+159=", "ENVID=QQ+20314+2B159+3D"), ("~" * MAX_ENVID, f"ENVID={'~' * MAX_ENVID}")],
    NOTIFY: [
        (frozenset({"NEVER"}), "NOTIFY=NEVER"),
        (frozenset({"FAILURE"}), "NOTIFY=FAILURE"),
        (frozenset({"DELAY", "FAILURE", "SUCCESS"}), "NOTIFY=SUCCESS,FAILURE,DELAY"),
    ],
    ORCPT: [
        ("rfc822;Bob+Tag@Example.COM", "ORCPT=rfc822;Bob+2BTag@Example.COM"),
        ("utf-8;\u7528@\u4f8b.test", r"ORCPT=utf-8;\x{7528}@\x{4F8B}.test"),
        ("x400;/C=a b/", "ORCPT=x400;/C+3Da+20b/"),
    ],
    REQUIRETLS: [(True, "REQUIRETLS")],
    BY: [
        (ByTime(120, "R"), "BY=120;R"),
        (ByTime(-30, "N"), "BY=-30;N"),
        (ByTime(999999999, "R", trace=True), "BY=999999999;RT"),
    ],
    HOLDFOR: [(1, "HOLDFOR=1"), (999999999, "HOLDFOR=999999999")],
    HOLDUNTIL: [
        (TIME, "HOLDUNTIL=2026-01-01T00:00:00Z"),
        (TIME + 3599, "HOLDUNTIL=2026-01-01T00:59:59Z"),
    ],
    MT_PRIORITY: [(-9, "MT-PRIORITY=-9"), (0, "MT-PRIORITY=0"), (9, "MT-PRIORITY=9")],
    RRVS: [
        (ValidSince(TIME), "RRVS=2026-01-01T00:00:00Z"),
        (ValidSince(TIME, "C"), "RRVS=2026-01-01T00:00:00Z;C"),
    ],
    SOLICIT: [
        (frozenset({"net.example:ADV"}), "SOLICIT=net.example:ADV"),
        (frozenset({"b.test:ADLT", "a"}), "SOLICIT=a,b.test:ADLT"),
    ],
    MTRK: [(Tracking(b"ABC"), "MTRK=QUJD"), (Tracking(bytes(20), 86400), f"MTRK={'A' * 27}:86400")],
}


def params_of(extensions: Sequence[Extension]) -> dict[Param[Any], type[Command]]:
    """Return the parameters of MAIL and RCPT that the extensions add, with the command of each."""
    return {
        param: command
        for extension in extensions
        for command in (Mail, Rcpt)
        for param in extension.params.get(command, ())
    }


#: Every parameter of the package, with its command.
COMMANDS = params_of(KNOWN)
#: Extensions of a server that accepts each sample inside TLS from a client that has authenticated as "fred".
EVERY_EXTENSION = standard(*KNOWN, Auth(trusted=("fred",)), FutureRelease(999999999))
#: Every parameter with each of its samples, and ids for a test.
CASES = [(param, value, text) for param, samples in SAMPLES.items() for value, text in samples]
IDS = [f"{param}-{number}" for param, samples in SAMPLES.items() for number in range(len(samples))]

_printable = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
_octets = st.integers(1, 129).flatmap(lambda size: st.binary(min_size=size, max_size=size))
_class = st.from_regex(r"[A-Za-z][A-Za-z0-9._:-]{0,30}", fullmatch=True)
_times = st.integers(FIRST, LAST)


def _fits(param: Param[Any], kind: str, octets: int) -> SearchStrategy[str]:
    """Return a strategy for addresses of a type whose text in the parameter has this length at most."""
    text = st.text(
        _printable if kind != "utf-8" else st.characters(exclude_categories=("C", "Z")),
        min_size=1,
        max_size=octets // 4,
    )
    return text.map(lambda address: f"{kind};{address}").filter(lambda value: readable(param, value))


def readable(param: Param[Any], value: object) -> bool:
    """Return whether the parameter accepts the value."""
    try:
        return bool(param.parse(param.format(value)) == value)
    except ValueError:
        return False


#: A strategy for the valid values of each parameter.
VALUES: Mapping[Param[Any], SearchStrategy[Any]] = {
    SIZE: st.integers(0, 10**20 - 1),
    BODY: st.sampled_from(["7BIT", "8BITMIME", "BINARYMIME"]),
    SMTPUTF8: st.just(True),
    AUTH: st.one_of(st.just("<>"), st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)),
    RET: st.sampled_from(["FULL", "HDRS"]),
    ENVID: st.text(_printable, min_size=1, max_size=MAX_ENVID // 3),
    NOTIFY: st.one_of(
        st.just(frozenset({"NEVER"})), st.sets(st.sampled_from(NOTIFICATIONS), min_size=1).map(frozenset)
    ),
    ORCPT: st.sampled_from(["rfc822", "utf-8", "UTF-8", "x400"]).flatmap(lambda kind: _fits(ORCPT, kind, MAX_ORCPT)),
    REQUIRETLS: st.just(True),
    BY: st.one_of(
        st.builds(ByTime, st.integers(1, 999999999), st.just("R"), st.booleans()),
        st.builds(ByTime, st.integers(-999999999, 999999999), st.just("N"), st.booleans()),
    ),
    HOLDFOR: st.integers(1, 999999999),
    HOLDUNTIL: _times,
    MT_PRIORITY: st.integers(-9, 9),
    RRVS: st.builds(ValidSince, _times, st.sampled_from(["R", "C"])),
    SOLICIT: st.sets(_class, min_size=1, max_size=30).map(frozenset),
    MTRK: st.builds(Tracking, _octets, st.one_of(st.none(), st.integers(0, 999999999))),
}
