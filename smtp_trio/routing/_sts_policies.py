"""Discovery and caching of MTA-STS policies (RFC 8461 3.3, 5.1)."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio
from attrs import define, field, frozen

from .._client.threads import run_in_thread
from .._timeouts import seconds_or_infinity
from ..protocol.arguments import check_callable, check_number
from ..protocol.hosts import MAX_NAME
from ._answers import Resolver
from ._errors import LookupFailedError
from ._lookups import Lookups, check_domain
from ._sts_fetch import HttpsPolicyFetcher
from ._sts_file import StoredPolicy, read_policies, write_policies
from ._sts_policy import PolicyFetchError, StsPolicy, parse_sts_policy, parse_sts_record
from ._tls_results import TlsFailure, TlsResultType
from ._tls_sessions import ReportedPolicy, TlsPolicyType, TlsSession

#: Failed fetches that are remembered, so that they are not repeated at once.
MAX_FAILURES: Final = 10_000


@frozen
class StsResult:
    """The MTA-STS policy of a domain, as found by `StsPolicies.find`.

    ``policy`` is the policy to apply. It is None without one, or if its mode is "none" (RFC 8461 5). ``error``
    is the reason why a newer policy was not found: a `LookupFailedError` or a `PolicyFetchError`. There may be a ``policy``
    nevertheless, an older one that is still valid.
    """

    domain: str
    policy: StsPolicy | None = None
    error: LookupFailedError | PolicyFetchError | None = None

    @property
    def failure(self) -> TlsFailure | None:
        """The error as a failure to report, if it is one: a failed lookup is not (RFC 8461 6, RFC 8460 4.3.2.2)."""
        if isinstance(self.error, PolicyFetchError):
            return TlsFailure(self.error.result_type, self.error.reason)
        return None

    @property
    def session(self) -> TlsSession | None:
        """The failure that a TLS report counts for the error: one under the older policy, or one that is not known."""
        if self.failure is None:
            return None
        unknown = ReportedPolicy(TlsPolicyType.STS, self.domain)
        return TlsSession(
            unknown if self.policy is None else ReportedPolicy.sts(self.domain, self.policy), (self.failure,)
        )


@frozen
class _Cached:
    policy: StsPolicy
    id: str
    #: By Trio's clock.
    fetched: float
    size: int = field(init=False)

    @size.default
    def _estimate(self) -> int:
        """Return about how many octets of memory the entry takes: many short lines take more than their characters."""
        return 1000 + sum(120 + 2 * len(line) for line in self.policy.lines)


@frozen
class _Failed:
    """A fetch that failed for one id of a policy."""

    id: str
    since: float
    result_type: TlsResultType
    reason: str


@define
class _Running:
    """A discovery in progress. ``result`` stays None if it was cancelled."""

    done: trio.Event = field(factory=trio.Event)
    result: StsResult | None = None


# How a policy is found
#
# RFC 8461 5.1 has three steps: use the cached policy, or, without one, look for one (1); apply it to each exchanger
# (2, done by the client); look for a newer one before a permanent failure (3, `find` with ``check=True``).
#
# To look for a policy is to look up the TXT record, and then to fetch the policy by HTTPS if the id of the record is not
# that of the cached one. Whatever fails on the way, a cached policy that has not expired stays in use (3.3): an attacker
# can make the record disappear, or the fetch fail, and must not gain anything by it. The one thing that replaces a policy
# is a newer valid policy; that is also how a domain withdraws its policy, with the mode "none" (8.3). So a policy with
# the mode "none" is cached like any other.
#
# A policy that was fetched more than a day ago is due: it is fetched again, with any TXT record or none (10.2), which
# extends its lifetime before it expires. `run` does so in the background for policies that were used since they were
# fetched. Others stay until they expire. Without `run`, `find` does it for the first message that finds a due policy.
#
# A fetch that failed is not repeated within five minutes for the same id (3.3). Tasks that look for the policy of a
# domain at the same time share one discovery; if it is cancelled, another task starts anew.
#
# Memory. Domains are chosen by those who send mail through this host, and policies by the domains, so the memory for
# policies is limited, by size and not by number: a policy may have 64 KiB. The policy that was not used for the longest
# time is removed. `OrderedDict` is in the order of use.
#
# Time. Ages are measured by Trio's clock, which does not jump when the system's time is set. In the file they are times
# of the system.
class StsPolicies:
    """The MTA-STS policies of domains: looks them up, fetches and caches them (RFC 8461).

    The policies are kept in memory, and also in a file if there is a ``path``. One object belongs to one run of Trio.

    :param resolver: looks up ``_mta-sts.<domain>``.
    :param fetch: fetches the text of a domain's policy, or raises `PolicyFetchError`. The default is
        `HttpsPolicyFetcher` with this resolver.
    :param path: the file that keeps the policies when the program ends. It is read at the first use, and replaced after
        each change; its directory must exist. A file belongs to one process.
    :param max_memory: octets for policies in memory, estimated. Beyond it, those are removed that were not used for the
        longest time.
    :param refresh: seconds after which a policy is fetched again although its id is the same (RFC 8461 3.3).
    :param retry: seconds during which a failed fetch is not repeated for the same id (RFC 8461 3.3).
    :param lookup_timeout: how many seconds the lookup of a TXT record may take; 0 means no limit.
    :param on_error: called with each error that an administrator should know of: the `PolicyFetchError` of a policy that
        could not be replaced by a newer one (RFC 8461 10.2), and the OSError or ValueError of the file.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: a number is negative.
    :raises ModuleNotFoundError: ``fetch`` is not given, and httpx2 is not installed.
    """

    def __init__(
        self,
        resolver: Resolver,
        fetch: Callable[[str], Awaitable[bytes]] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        max_memory: int = 32 * 2**20,
        refresh: float = 86400,
        retry: float = 300,
        lookup_timeout: float = 15,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        check_callable(fetch, "fetch", optional=True)
        check_number(max_memory, "max_memory", integer=True)
        check_number(refresh, "refresh", 1)
        check_number(retry, "retry")
        check_callable(on_error, "on_error", optional=True)
        self._lookups = Lookups(resolver, seconds_or_infinity(lookup_timeout))
        self._fetch = HttpsPolicyFetcher(resolver) if fetch is None else fetch
        self._path = None if path is None else os.fspath(path)
        self._max_memory = max_memory
        self._refresh = refresh
        self._retry = retry
        self._on_error = on_error
        self._cached: OrderedDict[str, _Cached] = OrderedDict()
        self._memory = 0
        #: The domains whose policy was used since it was fetched.
        self._used: set[str] = set()
        self._failed: OrderedDict[str, _Failed] = OrderedDict()
        self._running: dict[str, _Running] = {}
        self._file_lock = trio.Lock()
        self._loaded = self._path is None
        self._changed = False

    async def find(self, domain: str, *, check: bool = False) -> StsResult:
        """Return the policy of a domain: the cached one, or the one that a lookup finds.

        Nothing is raised without a policy, or if it cannot be found: then mail is sent without one (RFC 8461 3.3).

        :param domain: the Policy Domain: that of the recipients, or that of a smart host (RFC 8461 3.4).
            An address literal has no policy.
        :param check: look for a newer policy also if there is a cached one. A message must not be failed permanently
            because of a policy before this was done (RFC 8461 5.1).
        :raises ValueError: ``domain`` is neither a domain nor an address literal.
        """
        name = check_domain(domain, "domain")
        await self._load()
        if not isinstance(name, str):
            return StsResult(domain)  # RFC 8461 3.4: an address literal has no policy
        result = await self._look_up(name, check)
        if name in self._cached:
            self._used.add(name)
            self._cached.move_to_end(name)
        return result

    async def run(self) -> NoReturn:
        """Fetch the policies in use again, each once a day, until cancelled (RFC 8461 3.3).

        Run it as a background task, with ``nursery.start_soon(policies.run)``.
        """
        await self._load()
        while True:
            for domain in tuple(self._used):
                cached = self._valid(domain)
                if cached is not None and self._is_due(cached):
                    await self._look_up(domain, True)
            await trio.sleep(self._refresh / 24)

    async def _look_up(self, domain: str, check: bool) -> StsResult:
        """Return the policy of a domain, after a discovery if one is necessary; at most one at a time for a domain."""
        cached = self._valid(domain)
        if cached is not None and not check and not self._is_due(cached):
            await trio.lowlevel.checkpoint()
            return _result(domain, cached, None)
        while (running := self._running.get(domain)) is not None:
            await running.done.wait()
            if running.result is not None:
                return running.result
        running = self._running[domain] = _Running()
        try:
            running.result = await self._discover(domain)
        finally:
            del self._running[domain]
            running.done.set()
        return running.result

    async def _discover(self, domain: str) -> StsResult:
        name = f"_mta-sts.{domain}"
        if len(name) > MAX_NAME:
            return StsResult(domain)
        error: LookupFailedError | PolicyFetchError | None = None
        policy_id = None
        try:
            answer = await self._lookups.query(name, "TXT")
            policy_id = parse_sts_record(record for record in answer.records if isinstance(record, str))
        except LookupFailedError as failed:
            error = failed
        cached = self._valid(domain)
        if cached is not None:
            due = self._is_due(cached)
            if policy_id is None and due:
                policy_id = cached.id
            if policy_id == cached.id and not due:
                policy_id = None
        if policy_id is not None:
            try:
                return _result(domain, await self._fetch_policy(domain, policy_id), None)
            except PolicyFetchError as failed:
                error = failed
        return _result(domain, self._valid(domain), error)

    async def _fetch_policy(self, domain: str, policy_id: str) -> _Cached:
        """Fetch a policy and cache it. Raises PolicyFetchError; a cached policy stays as it is then."""
        failed = self._failed.get(domain)
        if failed is not None and failed.id == policy_id and trio.current_time() - failed.since < self._retry:
            raise PolicyFetchError(domain, failed.result_type, failed.reason)
        try:
            data = await self._fetch(domain)
            try:
                policy = parse_sts_policy(data)
            except ValueError as error:
                raise PolicyFetchError(domain, TlsResultType.STS_POLICY_INVALID, str(error)) from None
        except PolicyFetchError as error:
            self._failed[domain] = _Failed(policy_id, trio.current_time(), error.result_type, error.reason)
            self._failed.move_to_end(domain)
            if len(self._failed) > MAX_FAILURES:
                self._failed.popitem(last=False)
            old = self._valid(domain)
            if old is not None and not _is_withdrawn(old):
                self._report(error)
            raise
        self._failed.pop(domain, None)
        cached = self._add(domain, _Cached(policy, policy_id, trio.current_time()))
        await self._save()
        return cached

    # --- the cache

    def _valid(self, domain: str) -> _Cached | None:
        """Return the cached policy of a domain, unless it has expired (RFC 8461 5.1)."""
        cached = self._cached.get(domain)
        if cached is None or trio.current_time() - cached.fetched <= cached.policy.max_age:
            return cached
        self._discard(domain)
        return None

    def _is_due(self, cached: _Cached) -> bool:
        return trio.current_time() - cached.fetched >= self._refresh

    def _add(self, domain: str, cached: _Cached) -> _Cached:
        self._discard(domain)
        self._cached[domain] = cached
        self._memory += cached.size
        while self._memory > self._max_memory:
            self._discard(next(iter(self._cached)))
        return cached

    def _discard(self, domain: str) -> None:
        if (cached := self._cached.pop(domain, None)) is not None:
            self._memory -= cached.size
            self._used.discard(domain)

    # --- the file

    async def _load(self) -> None:
        if self._loaded:
            return
        assert self._path is not None
        async with self._file_lock:
            if self._loaded:
                return
            try:
                stored = await run_in_thread(read_policies, self._path)
            except (OSError, ValueError) as error:
                stored = []
                self._report(error)
            now, system_now = trio.current_time(), time.time()
            for each in stored:
                # A time in the future, after the system's clock was set back, counts as now.
                age = max(0.0, system_now - each.fetched)
                if age <= each.policy.max_age:
                    self._add(each.domain, _Cached(each.policy, each.id, now - age))
            self._loaded = True

    async def _save(self) -> None:
        """Write the file, unless another task does so after this change."""
        if self._path is None:
            return
        self._changed = True
        # A cancelled call finishes the file, as the next change may be days away. Writing takes milliseconds.
        with trio.CancelScope(shield=True):
            async with self._file_lock:
                if not self._changed:
                    return
                self._changed = False
                offset = time.time() - trio.current_time()
                stored = [
                    StoredPolicy(domain, each.id, each.fetched + offset, each.policy)
                    for domain, each in self._cached.items()
                ]
                try:
                    await run_in_thread(write_policies, self._path, stored)
                except OSError as error:
                    self._report(error)

    def _report(self, error: Exception) -> None:
        if self._on_error is not None:
            self._on_error(error)


def _is_withdrawn(cached: _Cached) -> bool:
    return cached.policy.mode == "none"


def _result(domain: str, cached: _Cached | None, error: LookupFailedError | PolicyFetchError | None) -> StsResult:
    if cached is not None and _is_withdrawn(cached):
        # RFC 8461 3.3 and 6: the files of a policy that is being withdrawn may be missing, which is not a failure.
        return StsResult(domain)
    return StsResult(domain, None if cached is None else cached.policy, error)
