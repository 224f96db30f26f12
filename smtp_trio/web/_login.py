"""`Login`: checks of the token and the passwords of HTTP requests."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from attrs import define, field

from .._server import log_events
from .._server.client_memory import Memory, address_of, group_of
from .._server.fair_threads import FairThreads, turn_of
from .._server.log_events import ClientText
from .._types import Peer
from ._operation import ApiError

if TYPE_CHECKING:
    from ..credentials import UsersFile

# A token is compared with the secret of each request in constant time. Hashing a password takes a tenth of a second of
# processor time on purpose, and each request of a page has the password. So a password that was correct is remembered for a
# while, as a MAC with a key of this process. Others are hashed in one thread, which serves the clients in turn; those of a
# client that has failed before are hashed at idle priority. After MAX_FAILURES in a minute a client has to wait. This stops
# the guessing of passwords, and does not affect requests with the token or with a remembered password.

#: Seconds for which a correct password is remembered, the maximum number of remembered passwords, and of those that are being
#: checked or wait for a check.
REMEMBERED, MAX_REMEMBERED, MAX_CHECKED = 60.0, 1000, 16
MINUTE, MAX_CLIENTS = 60.0, 4096
#: The number of failures in a minute after which the passwords of a client are neither checked nor logged.
MAX_FAILURES = 20
#: The number of failures after which the passwords of a client are checked at idle priority.
SUSPECT = 3
CHALLENGE = 'Basic realm="smtp_trio", charset="UTF-8"'


def peer_of(client: tuple[str, int] | None) -> Peer:
    """Return the client that the scope of a request names."""
    return Peer("", None, "memory") if client is None else Peer(*client, "tcp")


def parse_basic(value: str) -> tuple[str, str] | None:
    """Return the user and the password of the credentials of HTTP Basic (RFC 7617 2), or None if they are invalid."""
    try:
        user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


def same(first: str, second: str) -> bool:
    """Compare two strings in a time that depends neither on where they differ nor on their lengths."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (first, second))
    return hmac.compare_digest(*digests)


def check_token(token: str, name: str) -> None:
    """Raise ValueError unless a token can occur in a request. ``name`` is what the error calls it."""
    if not (token.isascii() and token.isprintable() and token.strip()):
        raise ValueError(f"{name}: must be visible ASCII characters, and not empty")


@define(eq=False)
class Login:
    """The token and the users whose credentials are accepted. At least one of the two is not None."""

    token: str | None = field(repr=False)
    users: UsersFile | None
    _key: bytes = field(factory=lambda: os.urandom(32), init=False, repr=False)
    _right: Memory[bool] = field(factory=lambda: Memory(MAX_REMEMBERED, REMEMBERED), init=False)
    _failures: Memory[int] = field(factory=lambda: Memory(MAX_CLIENTS, MINUTE), init=False)
    _threads: FairThreads = field(factory=lambda: FairThreads(1), init=False)
    _idle_threads: FairThreads = field(factory=lambda: FairThreads(1, idle=True), init=False)
    _checked: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        if self.token is not None:
            check_token(self.token, "token")

    async def check(self, authorization: str, client: tuple[str, int] | None) -> None:
        """Raise `ApiError` unless the Authorization header has valid credentials; ``authorization`` is "" without one."""
        scheme, _, value = authorization.partition(" ")
        peer = peer_of(client)
        user, right = "", False
        match scheme.lower():
            case "bearer":
                right = self.token is not None and same(value.strip(), self.token)
            case "basic" if (credentials := parse_basic(value.strip())) is not None:
                user = credentials[0]
                right = await self._is_right(peer, *credentials)
            case _:
                raise self._refusal("a token or a password is required")
        if not right:
            self._count_failure(peer, user)
            raise self._refusal("wrong token or password")

    def _refusal(self, message: str) -> ApiError:
        return ApiError(401, message, {"www-authenticate": CHALLENGE})

    async def _is_right(self, peer: Peer, user: str, password: str) -> bool:
        """Return whether a password is the token or the user's password."""
        users = self.users
        if self.token is not None and same(password, self.token):
            return True
        if users is None:
            return False
        mac = hmac.digest(self._key, f"{user}\0{password}".encode(), "sha256")
        if self._right.get(mac):
            return True
        failures = self._failures.get(address_of(peer)) or 0
        if failures >= MAX_FAILURES:
            raise ApiError(429, "too many wrong passwords: wait for a minute", {"retry-after": f"{MINUTE:.0f}"})
        if self._checked >= MAX_CHECKED:
            raise ApiError(503, "too many passwords are being checked: try again", {"retry-after": "1"})
        threads = self._idle_threads if failures >= SUSPECT else self._threads
        self._checked += 1
        try:
            right = await threads.run(turn_of(peer), lambda: users.verify(user, password))
        finally:
            self._checked -= 1
        if right:
            self._right.put(mac, group_of(peer), True)
        return bool(right)

    def _count_failure(self, peer: Peer, user: str) -> None:
        """Count and log a failure. Those beyond MAX_FAILURES are not logged, and not counted, so that the delay ends."""
        failures = self._failures.get(address_of(peer)) or 0
        if failures < MAX_FAILURES:
            self._failures.put(address_of(peer), group_of(peer), failures + 1)
            log_events.HTTP_AUTH_FAILED.log(peer=str(peer), user=ClientText(user))
