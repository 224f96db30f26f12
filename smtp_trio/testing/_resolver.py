"""`MemoryResolver`: a resolver with the records of a dict, for tests of routing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import trio

from ..routing import Answer, LookupFailedError, MxRecord, RecordType, TlsaRecord

#: A name, or a name and a type of records.
NameOrQuestion = str | tuple[str, str]
#: The records of a name, by type.
Records = Mapping[str, Sequence[MxRecord | TlsaRecord | tuple[int, str] | str] | str]

#: How many CNAME records are followed.
MAX_CHAIN: Final = 8


class MemoryResolver:
    """A `smtp_trio.routing.Resolver` that answers from a dict, without sockets.

    :param records: the records of each name, by type::

            {
                "example.org": {"MX": [(10, "mx1.example.org"), (20, "mx2.example.org")]},
                "mx1.example.org": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
                "mx2.example.org": {"CNAME": ["host.example"]},
                "_25._tcp.mx1.example.org": {"TLSA": ["3 1 1 5e0b..."]},
                "_mta-sts.example.org": {"TXT": ["v=STSv1; id=1;"]},
            }

        An MX record is an `MxRecord <smtp_trio.routing.MxRecord>` or a tuple, a TLSA record a `TlsaRecord
        <smtp_trio.routing.TlsaRecord>` or its text. A name that is neither in the dict nor above one that is does not
        exist.
    :param secure: the signed zones: answers for these names and all names below them are secure. An answer after CNAME
        records is secure if all of their names are.
    :param failures: lookups that fail, by name or by name and type: the reason of a `LookupFailedError
        <smtp_trio.routing.LookupFailedError>` that is temporary, such as "SERVFAIL", or an exception.
    :param delays: the seconds that lookups take, by name or by name and type; `math.inf` never ends. Time may be
        virtual.

    The arguments are attributes too, which a test may change between lookups; ``records``, ``failures`` and ``delays``
    are dicts then, whose names are in lower case without a final dot. ``queries`` is the list of the names and types
    that were looked up.
    """

    def __init__(
        self,
        records: Mapping[str, Records],
        *,
        secure: Iterable[str] = (),
        failures: Mapping[NameOrQuestion, str | Exception] | None = None,
        delays: Mapping[NameOrQuestion, float] | None = None,
    ) -> None:
        if isinstance(secure, str):
            raise TypeError("secure must be an iterable of names, not a str")
        self.records: dict[str, Records] = {_normal(name): of_name for name, of_name in records.items()}
        self.secure: set[str] = {_normal(name) for name in secure}
        self.failures: dict[NameOrQuestion, str | Exception] = _by_question(failures)
        self.delays: dict[NameOrQuestion, float] = _by_question(delays)
        self.queries: list[tuple[str, str]] = []

    async def query(self, name: str, type: RecordType) -> Answer:
        """Return the records of the dict, after the delay."""
        self.queries.append((_normal(name), type))
        current, secure = _normal(name), True
        await trio.sleep(self._setting(self.delays, current, type) or 0)
        for _ in range(MAX_CHAIN):
            failure = self._setting(self.failures, current, type)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                raise LookupFailedError(name, type, failure)
            secure = secure and self._signed(current)
            found = self.records.get(current, {})
            if "CNAME" not in found or type == "CNAME":
                return Answer(
                    _normal(name),
                    type,
                    tuple(_record(type, value) for value in _values(found.get(type, ()))),
                    canonical_name=current,
                    exists=any(f".{each}".endswith(f".{current}") for each in self.records),
                    secure=secure,
                )
            [target] = _values(found["CNAME"])
            assert isinstance(target, str)
            current = _normal(target)
        raise LookupFailedError(name, type, f"more than {MAX_CHAIN} CNAME records")

    def _signed(self, name: str) -> bool:
        return any(f".{name}".endswith(f".{zone}") for zone in self.secure)

    @staticmethod
    def _setting(settings: Mapping[NameOrQuestion, Any], name: str, type: str) -> Any:  # noqa: ANN401
        return settings.get((name, type), settings.get(name))


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def _by_question(settings: Mapping[NameOrQuestion, Any] | None) -> dict[NameOrQuestion, Any]:
    return {
        _normal(key) if isinstance(key, str) else (_normal(key[0]), key[1]): value
        for key, value in (settings or {}).items()
    }


def _values(values: Sequence[Any] | str) -> Sequence[Any]:
    return [values] if isinstance(values, str) else values


def _record(type: str, value: Any) -> MxRecord | TlsaRecord | str:  # noqa: ANN401
    match type, value:
        case "MX", (int(preference), str(host)):
            return MxRecord(preference, _normal(host))
        case "TLSA", str():
            usage, selector, matching, data = value.split(maxsplit=3)
            return TlsaRecord(int(usage), int(selector), int(matching), bytes.fromhex(data))
    return value  # type: ignore[no-any-return]
