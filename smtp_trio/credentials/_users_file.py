"""`UsersFile`: the users that may log in, in a file."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from .._server.fair_threads import FairThreads, turn_of
from .._timeouts import clock_jumps
from ..protocol import Reply
from ..protocol.arguments import check_number, check_type
from ..protocol.extensions.auth import TRY_LATER
from ..protocol.replies import INVALID_CREDENTIALS
from ..protocol.sasl import Credentials, ScramHash, ScramSecret, Secret
from ..protocol.sasl.scram_secret import KEY_OCTETS, MIN_ITERATIONS
from ._format import SALT_OCTETS, Hashed, StoredUser, Users, cost, parse

if TYPE_CHECKING:
    from .._server.session import Session

ResultT = TypeVar("ResultT")

#: The number of passwords hashed at a time. It leaves a processor for everything else, if there are two.
MAX_CONCURRENT: Final = min(2, max(1, (os.cpu_count() or 1) - 1))

# A hash is slow on purpose, so it must neither delay other sessions nor show which users exist.
#
# - Hashes are computed in one or two threads, in which the clients take turns (`FairThreads`). A computation is skipped if
#   its client has left, or was locked out while it waited. For an address that has failed several times, for its other
#   logins at the same time, and for one that opens more connections than it may, a process computes them, only when the
#   processor has nothing else to do. While a flood of connections needs half of a core, one hash in a thread delays the
#   messages of others for 0.3 s, to 50 ms each instead of 6: the thread computes for up to 4 ms before one that wakes continues.
# - Every login computes the same hashes: one of each cost that occurs in the file. The user's own hash is among them, in
#   the place of the one with the same cost. For an unknown user, or if the file has the password itself, the result of
#   none of them counts. A filler of the missing cost would be an alternative, but its time would only be similar: it
#   depends on the caches of the processor, and not only on the product of the parameters.
# - With SCRAM the server sends the user's salt and iteration count before it knows anything about the client. An unknown
#   user gets those of another user's secret, with a salt that is derived from the name with a key. The key is in the file,
#   so that the salt is the same after a restart, in each of several processes, and after changes of other users; it would
#   show that the user is unknown if it changed.


class UsersFile:
    """The users of a file (see `smtp_trio.credentials`), and the hooks `Hooks.auth` and `Hooks.secret` for them.

    ``server.on(auth=users.auth, secret=users.secret)`` installs the hooks, and ``Auth(mechanisms=users.mechanisms)`` offers
    what all users can use.

    :param path: the file.
    :param interval: the least number of seconds between two checks by the hooks whether the file has changed and has to be
        read again; None for no checks. `load` reads it at any time.
    """

    def __init__(self, path: str | os.PathLike[str], *, interval: float | None = 1) -> None:
        check_type(path, "path", (str, os.PathLike))
        check_number(interval, "interval", optional=True)
        self.path: str = os.fspath(path)
        self._interval = interval
        self._looked = -1e9
        #: Identifies the content that was read, or that could not be read.
        self._version: tuple[int, ...] | None = None
        self._threads = FairThreads(MAX_CONCURRENT)
        #: The clients of which a login waits for these threads, or is checked by one.
        self._clients: set[tuple[Hashable, ...]] = set()
        #: For addresses that have failed several times, log in several times at once, or open too many connections.
        self._idle_threads = FairThreads(1, idle=True)
        self._users = Users({}, bytes(32))
        #: One hash of each cost. A login computes all of them, or the user's own in place of one.
        self._each_cost: tuple[Hashed, ...] = ()
        #: The SCRAM secrets of all users, by hash function.
        self._scram: dict[ScramHash, list[ScramSecret]] = {}
        self._has_passwords = False

    def load(self) -> None:
        """Read the file, the first time or again. Blocks.

        Raises OSError or ValueError when it cannot be used; the users then stay as they are. The text of the error has
        no secret.
        """
        problem = None
        try:
            with open(self.path, encoding="utf-8-sig") as file:
                self._version = _version(os.fstat(file.fileno()))
                users = parse(file.read())
        except ValueError as error:
            problem = str(error)  # the frames of the error have the content of the file
        if problem is not None:
            raise ValueError(problem)
        self._install(users)

    def _install(self, users: Users) -> None:
        self._users = users
        stored = users.users.values()
        hashes = [each.hashed for each in stored if each.hashed is not None]
        self._each_cost = tuple({cost(each): each for each in hashes}.values())
        self._scram = {name: [each.scram[name] for each in stored if name in each.scram] for name in KEY_OCTETS}
        self._has_passwords = any(each.password is not None for each in stored)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms that all users of the file can log in with, for `Auth`; the file must have been read.

        PLAIN and LOGIN are always among them. SCRAM with a hash function is, if each user has the secret for it or the
        file has the password itself.
        """
        stored = self._users.users.values()
        names = [name for name in KEY_OCTETS if all(name in each.scram or each.password is not None for each in stored)]
        scram = [f"SCRAM-{name}{plus}" for plus in ("-PLUS", "") for name in names]
        return (*scram, "PLAIN", "LOGIN")

    def verify(self, user: str, password: str) -> bool:
        """Return whether this is the password of a user. Blocks, for the same time with any user and password."""
        # No stored password has surrogates, and the error of an encoder would show this one.
        return self._check(user, memoryview(password.encode("utf-8", "surrogatepass")))

    def _check(self, user: str, password: memoryview) -> bool:
        stored = self._users.users.get(user, StoredUser())
        own = stored.hashed
        hashes = [own if own is not None and cost(each) == cost(own) else each for each in self._each_cost]
        correct = [each.matches(password) for each in hashes]
        if stored.password is not None:
            return hmac.compare_digest(stored.password.encode(), password)
        return any(result for each, result in zip(hashes, correct, strict=True) if each is own)

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        """Check a login, as the `auth` hook.

        A user may not act for another one (the authorization identity of RFC 4616).
        """
        await self._look()
        password = memoryview(credentials.password.encode())
        correct = await self._run(session, lambda: self._check(credentials.user, password))
        if correct is None:
            return TRY_LATER
        return None if correct and credentials.authzid in ("", credentials.user) else INVALID_CREDENTIALS

    async def secret(self, session: Session, user: str, mechanism: str) -> Secret | Reply | None:
        """Return the SCRAM secret of a user, as the `secret` hook. For an unknown user it is one that no password matches.

        For other mechanisms, such as CRAM-MD5, it is the password, if the file has it.
        """
        await self._look()
        stored = self._users.users.get(user, StoredUser())
        if not mechanism.startswith("SCRAM-"):
            return stored.password
        name: ScramHash = "SHA-256" if mechanism.startswith("SCRAM-SHA-256") else "SHA-1"
        made_up = self._made_up_secret(user, name)
        if self._has_passwords:
            # Where some users have a secret and others a password, each login derives keys from a password.
            derive = self._derivation(stored, made_up)
            derived = await self._run(session, derive)
            if derived is None:
                return TRY_LATER
            made_up = derived
        return stored.scram.get(name, made_up)

    def _made_up_secret(self, user: str, hash: ScramHash) -> ScramSecret:
        """Return a secret that looks like those of the file, and is the same each time."""

        def derive(purpose: str) -> bytes:
            return hmac.digest(self._users.key, f"{purpose}\0{hash}\0{user}".encode(), "sha512")

        known = self._scram[hash] if self._scram.get(hash) else None
        like = known[int.from_bytes(derive("choice")[:8], "big") % len(known)] if known else None
        octets = KEY_OCTETS[hash]
        return ScramSecret(
            derive("salt")[: SALT_OCTETS if like is None else len(like.salt)],
            MIN_ITERATIONS if like is None else like.iterations,
            derive("stored key")[:octets],
            derive("server key")[:octets],
        )

    def _derivation(self, stored: StoredUser, made_up: ScramSecret) -> Callable[[], ScramSecret]:
        """Return a function that derives keys from a stored password, with the salt of the secret that was made up."""

        def derive() -> ScramSecret:
            arguments = made_up.salt, made_up.iterations, made_up.hash
            try:
                if stored.password is not None:
                    return ScramSecret.from_password(stored.password, *arguments)
            except ValueError:
                pass  # SASLprep forbids it, so no client can prove that it has it
            ScramSecret.from_password("unknown", *arguments)
            return made_up

        return derive

    async def _run(self, session: Session, function: Callable[[], ResultT]) -> ResultT | None:
        """Call a function in a thread at the client's turn. Return None if the client has left, or was locked out meanwhile."""
        if not self._each_cost and not self._has_passwords:
            return function()
        server, peer, stream = session.server, session.peer, session.stream
        service, client = server._state.auth_service, turn_of(peer)
        if service.suspects(peer, busy=client in self._clients or server._admission.floods(peer)):
            return await self._idle_threads.run(client, function, lambda: service.wants(peer, stream))
        self._clients.add(client)
        try:
            return await self._threads.run(client, function, lambda: service.wants(peer, stream))
        finally:
            self._clients.discard(client)

    async def _look(self) -> None:
        """Read the file again if it has changed. The error of a file that cannot be used is raised once."""
        now = trio.current_time()
        if self._interval is None or now < self._looked + self._interval:
            return
        self._looked = now
        if _version(os.stat(self.path)) == self._version:
            return
        if clock_jumps():
            self.load()
        else:
            await trio.to_thread.run_sync(self.load)


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
