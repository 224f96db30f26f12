"""The file of ``--auth-file``, which lists the accounts that may log in, one on each line.

    # user:password, or user:hash as `smtp-trio hash-password USER` prints it
    fred:correct horse battery staple
    wilma:$scrypt$ln=14,r=8,p=5$9LLAyYBqlLvKgQ1TQWzV4A$t7KHtfW9QZzkXqOPkFC2cgVTzBZ8dBKzLJDBbL6ZGYU

A hash is scrypt (RFC 7914) in the PHC string format, with salt and digest in base64 without padding. Other libraries
print it the same way.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import os
import re
import sys
from base64 import b64decode, b64encode
from hmac import compare_digest
from typing import Self

from attrs import field, frozen

from .._server.fair_threads import FairThreads, turn_of
from .._server.session import Session
from ..protocol import Reply
from ..protocol.extensions.auth import INVALID_CREDENTIALS, TRY_LATER, Credentials
from ..protocol.syntax import CONTROL
from .options import UsageError, describe_error, print_result

SCRYPT = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{8,})\$([A-Za-z0-9+/]{20,})"
)
#: The beginning of a hash as other programs write it. Read as a password, it would refuse every login without giving a
#: reason.
OTHER_HASH = re.compile(r"\$\w[\w-]*\$|\{[\w.-]+\}")
#: The greatest cost of one login, 128 * N * r * p octets of memory written (RFC 7914 2): about a second.
MAX_COST = 2**29
#: The number of passwords hashed at a time. It leaves a processor for everything else, if there are two.
MAX_CONCURRENT = min(2, max(1, (os.cpu_count() or 1) - 1))


def add_hash_password(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio hash-password``."""
    parser.description = (
        "Ask for a password at the terminal, or read it from the first line of standard input, and print the line for the "
        "file of `smtp-trio serve --auth-file`: the user, a colon and the hash of the password. Without USER, print only the "
        "hash."
    )
    parser.add_argument("user", metavar="USER", nargs="?", help="the name that the user logs in with")
    parser.set_defaults(run=hash_password)


def hash_password(options: argparse.Namespace) -> None:
    """Read a password, and print the user's line with its hash, or the hash alone."""
    if options.user is not None:
        check_user(options.user)
    hashed = Hash.of(read_password())
    print_result(str(hashed) if options.user is None else f"{options.user}:{hashed}")


def check_user(user: str) -> None:
    """Raise UsageError for a user whose line could not be read back."""
    try:
        user.encode()
        readable = list(parse(f"{user}:x\n")) == [user]
    except ValueError:
        readable = False
    if not readable:
        raise UsageError(
            f"invalid user name: {user!r}; it must be text that contains no colon or control character, and begin with no #"
        )


def read_password() -> str:
    """Read a password from the terminal, twice, or from standard input."""
    if sys.stdin.isatty():
        try:
            password = getpass.getpass()
            again = getpass.getpass("Again: ")
        except EOFError:
            raise UsageError("no password given") from None
        if again != password:
            raise UsageError("passwords do not match")
    else:
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    if not password:
        raise UsageError("the password is empty")
    if CONTROL.search(password):
        raise UsageError("the password contains a control character")
    try:
        password.encode()
    except UnicodeEncodeError:  # octets that are not text are read as surrogates
        raise UsageError("the password is not text in UTF-8") from None
    return password


@frozen
class Hash:
    """A password hashed with scrypt: N is ``2**ln``, ``r`` the block size, ``p`` the parallelization (RFC 7914 2)."""

    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    ln: int = 14
    r: int = 8
    p: int = 5

    @classmethod
    def of(cls, password: str) -> Self:
        """Return the hash of a password, with a new random salt."""
        salt = os.urandom(16)
        return cls(salt, cls(salt, bytes(32)).compute(memoryview(password.encode())))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Parse a hash.

        Raises ValueError when it is malformed, or when a login with it would cost more than ``MAX_COST``.
        """
        match = SCRYPT.fullmatch(text)
        if match is None:
            raise ValueError("invalid hash; expected one as `smtp-trio hash-password` prints it")
        ln, r, p = (int(number) for number in match.group(1, 2, 3))
        if not (ln and r and p and 128 * 2**ln * r * p <= MAX_COST):
            raise ValueError(f"unsupported scrypt parameters: ln={ln}, r={r}, p={p}")
        salt, digest = (b64decode(part + "=" * (-len(part) % 4)) for part in match.group(4, 5))
        return cls(salt, digest, ln, r, p)

    @property
    def cost(self) -> tuple[int, int, int]:
        """The parameters that the duration of `compute` depends on."""
        return self.ln, self.r, self.p

    def __str__(self) -> str:
        salt, digest = (b64encode(part).decode().rstrip("=") for part in (self.salt, self.digest))
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${salt}${digest}"

    def compute(self, password: memoryview) -> bytes:
        """Return the digest of a password with this salt and cost. Blocks for about 0.1 s: call it in a thread.

        The password is a memoryview, so that it does not appear in a traceback with the variables of all frames.
        """
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=2**self.ln,
            r=self.r,
            p=self.p,
            maxmem=2 * MAX_COST,
            dklen=len(self.digest),
        )

    def matches(self, password: memoryview) -> bool:
        """Return whether this is the hash of the password. Blocks as `compute` does."""
        return compare_digest(self.compute(password), self.digest)


# A hash is slow on purpose, so it must neither delay other sessions nor show which users exist.
#
# - Hashes are computed in one or two threads, in which the clients take turns (`FairThreads`). A computation is skipped if
#   its client has left, or was locked out while it waited. For an address that has failed several times, another thread
#   computes them, only when the processor has nothing else to do.
# - Every login computes the same hashes: one of each cost that occurs in the file. The user's own hash is among them, in
#   the place of the one with the same cost. For an unknown user, or if the file has the password itself, the result of
#   none of them counts. A filler of the missing cost would be an alternative, but its time would only be similar: it
#   depends on the caches of the processor, and not only on the product of the parameters.


class Accounts:
    """The accounts of a file, and the `auth` hook that checks logins against them.

    It is empty before `read` is called.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._threads = FairThreads(MAX_CONCURRENT)
        #: For addresses that have failed several times.
        self._idle_threads = FairThreads(1, idle=True)
        self._secrets: dict[str, Hash | str] = {}
        #: One hash of each cost. A login computes all of them, or the user's own in place of one.
        self._each_cost: tuple[Hash, ...] = ()

    def read(self) -> None:
        """Read the file, the first time or again.

        Raises UsageError when it cannot be used; the accounts then stay as they are.
        """
        try:
            with open(self.path, encoding="utf-8-sig") as file:
                self._secrets = parse(file.read())
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot use {self.path}: {describe_error(error)}") from None
        hashes = [secret for secret in self._secrets.values() if isinstance(secret, Hash)]
        self._each_cost = tuple({secret.cost: secret for secret in hashes}.values())

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        """Check a login, as the `auth` hook.

        A user may not act for another one (the authorization identity of RFC 4616).
        """
        own = self._hash_of(credentials.user)
        hashes = [own if own is not None and each.cost == own.cost else each for each in self._each_cost]

        def check() -> bool:
            password = memoryview(credentials.password.encode())
            correct = [each.matches(password) for each in hashes]
            return any(result for each, result in zip(hashes, correct, strict=True) if each is own)

        correct: bool | None = False
        if hashes:
            service, peer, stream = session.server._state.auth_service, session.peer, session.stream
            correct = None
            if not service.suspects(peer):
                correct = await self._threads.run(
                    turn_of(peer), check, lambda: service.wants(peer, stream) and not service.suspects(peer)
                )
            if correct is None and service.suspects(
                peer
            ):  # perhaps since other logins, which it had to wait for, failed
                correct = await self._idle_threads.run(turn_of(peer), check, lambda: service.wants(peer, stream))
            if correct is None:
                return TRY_LATER
        if own is None:
            correct = self._has_password(credentials)
        if correct and credentials.authzid in ("", credentials.user):
            return None
        return INVALID_CREDENTIALS

    def _hash_of(self, user: str) -> Hash | None:
        secret = self._secrets.get(user)
        return secret if isinstance(secret, Hash) else None

    def _has_password(self, credentials: Credentials) -> bool:
        """Return whether the file has this password itself for the user."""
        secret = self._secrets.get(credentials.user)
        return isinstance(secret, str) and compare_digest(secret.encode(), credentials.password.encode())


def parse(text: str) -> dict[str, Hash | str]:
    """Return each user's hash or password.

    Raises ValueError with the number of the invalid line, never with a password.
    """
    secrets: dict[str, Hash | str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, secret = line.removesuffix("\r").partition(":")
        try:
            if not (user and secret):
                raise ValueError("expected user:password or user:hash")
            if CONTROL.search(user + secret):
                raise ValueError("contains a control character")
            if user in secrets:
                raise ValueError(f"duplicate user {user!r}")
            if secret.startswith("$scrypt$"):
                secrets[user] = Hash.decode(secret)
            elif OTHER_HASH.match(secret):
                raise ValueError("unsupported kind of hash; `smtp-trio hash-password` makes a supported one")
            else:
                secrets[user] = secret
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not secrets:
        raise ValueError("no accounts in file")
    return secrets
