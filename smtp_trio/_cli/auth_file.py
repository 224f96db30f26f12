"""The file behind ``--auth-file``: who may log in, a line each.

    # user:password, or user:hash as `smtp-trio hash-password` prints it
    fred:correct horse battery staple
    wilma:$scrypt$ln=14,r=8,p=5$9LLAyYBqlLvKgQ1TQWzV4A$t7KHtfW9QZzkXqOPkFC2cgVTzBZ8dBKzLJDBbL6ZGYU

A hash is scrypt (RFC 7914) in the PHC string format, salt and hash in base64 without padding, as other libraries print it too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from base64 import b64decode, b64encode
from hmac import compare_digest
from typing import Self

import trio
from attrs import field, frozen

from .._server.session import Session
from ..protocol import Reply
from ..protocol.extensions.auth import INVALID_CREDENTIALS, Credentials
from ..protocol.syntax import CONTROL

log = logging.getLogger("smtp_trio.auth")

HASH = re.compile(r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{8,})\$([A-Za-z0-9+/]{20,})")
#: How other programs mark their hashes. To take one for a password would let nobody in, and not say why.
FOREIGN = re.compile(r"\$\w[\w-]*\$|\{[\w.-]+\}")
#: How much one login may be made to cost: 128 * N * r octets of memory (RFC 7914 2), p times over. This is about a second.
COST = 2**29
#: How many are hashed at a time. A flood of logins must not take every core and all memory.
AT_A_TIME = 2


@frozen
class Hash:
    """A password that nobody can read: scrypt with 2**ln rounds of r blocks, p times over."""

    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    ln: int = 14
    r: int = 8
    p: int = 5

    @classmethod
    def of(cls, password: str) -> Self:
        """A new hash, with a salt of its own."""
        salt = os.urandom(16)
        return cls(salt, cls(salt, bytes(32)).work(password))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises ValueError when it is no hash of ours, or one that would cost too much."""
        match = HASH.fullmatch(text)
        if match is None:
            raise ValueError("not a hash as `smtp-trio hash-password` prints it")
        ln, r, p = (int(number) for number in match.group(1, 2, 3))
        if not (ln and r and p and 128 * 2**ln * r * p <= COST):
            raise ValueError(f"scrypt cannot work with ln={ln}, r={r}, p={p} here")
        salt, digest = (b64decode(part + "=" * (-len(part) % 4)) for part in match.group(4, 5))
        return cls(salt, digest, ln, r, p)

    def __str__(self) -> str:
        salt, digest = (b64encode(part).decode().rstrip("=") for part in (self.salt, self.digest))
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${salt}${digest}"

    def work(self, password: str) -> bytes:
        """The digest of a password. Blocks, for a tenth of a second or so: call it in a thread."""
        return hashlib.scrypt(
            password.encode(),
            salt=self.salt,
            n=2**self.ln,
            r=self.r,
            p=self.p,
            maxmem=2 * COST,
            dklen=len(self.digest),
        )

    def matches(self, password: str) -> bool:
        """Whether it is this one's. Blocks as `work` does."""
        return compare_digest(self.work(password), self.digest)


class Accounts:
    """Who may log in: nobody, until the file was read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._limiter = trio.CapacityLimiter(AT_A_TIME)
        self._entries: dict[str, Hash | str] = {}
        #: What an unknown user's password is compared with, so that it takes as long as a known one's.
        self._decoy: Hash | None = None

    def read(self) -> None:
        """Read the file, again if need be. Raises OSError, or ValueError that tells the line; what was read before stays then."""
        with open(self.path, encoding="utf-8-sig") as file:
            self._entries = parse(file.read())
        self._decoy = next((entry for entry in self._entries.values() if isinstance(entry, Hash)), None)

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        """The hook. Nobody may act for somebody else."""
        user, password = credentials.user, credentials.password
        entry = self._entries.get(user)
        hashed = entry if isinstance(entry, Hash) else self._decoy
        right = hashed is not None and await trio.to_thread.run_sync(hashed.matches, password, limiter=self._limiter)
        if not isinstance(entry, Hash):  # the decoy was for its time alone
            right = compare_digest((entry or "").encode(), password.encode()) and entry is not None
        if right and credentials.authzid in ("", user):
            return None
        log.warning("%s: no login for %r from %s", session.id, user, session.peer)
        return INVALID_CREDENTIALS


def parse(text: str) -> dict[str, Hash | str]:
    """What each user is known by. Raises ValueError, with the number of the line; never with a password."""
    entries: dict[str, Hash | str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, secret = line.removesuffix("\r").partition(":")
        try:
            if not (user and secret):
                raise ValueError("want user:password or user:hash")
            if CONTROL.search(user + secret):
                raise ValueError("a control character")
            if user in entries:
                raise ValueError(f"{user!r} is there twice")
            if secret.startswith("$scrypt$"):
                entries[user] = Hash.decode(secret)
            elif FOREIGN.match(secret):
                raise ValueError("a hash of a kind that is not known here; `smtp-trio hash-password` makes one")
            else:
                entries[user] = secret
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not entries:
        raise ValueError("there is nobody in it")
    return entries
