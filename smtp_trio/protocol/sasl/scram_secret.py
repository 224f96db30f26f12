"""`ScramSecret`: the secret that a server stores for SCRAM, and the computation of keys (RFC 5802 3)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Literal, get_args

from attrs import field, frozen

from ..arguments import check_choice, check_number, check_type
from ..values import Value
from .key_derivation import key_derivation
from .saslprep import MAX_PASSWORD, saslprep

ScramHash = Literal["SHA-256", "SHA-1"]

#: The smallest iteration count (RFC 7677 4, RFC 5802 5.1).
MIN_ITERATIONS: Final = 4096
#: The octets of a key, by hash function. The length of a key shows which function was used.
KEY_OCTETS: Final[dict[ScramHash, int]] = {"SHA-256": 32, "SHA-1": 20}


def hash_name(hash: ScramHash) -> str:
    """Return the name of a hash function as Python's ``hashlib`` spells it."""
    return hash.replace("-", "").lower()


def salt_password(password: memoryview, salt: bytes, iterations: int, hash: ScramHash) -> bytes:
    """Return the SaltedPassword of a prepared password. It takes about a millisecond for 4096 iterations.

    The password is a memoryview, so that it does not appear in a traceback with the variables of all frames.
    """
    return key_derivation.get().pbkdf2_hmac(hash_name(hash), password, salt, iterations)


def derive_keys(salted: bytes, hash: ScramHash) -> tuple[bytes, bytes, bytes]:
    """Return the ClientKey, the StoredKey and the ServerKey of a SaltedPassword (RFC 5802 3)."""
    name = hash_name(hash)
    client_key = hmac.digest(salted, b"Client Key", name)
    return client_key, hashlib.new(name, client_key).digest(), hmac.digest(salted, b"Server Key", name)


@frozen(eq=False, repr=False)
class ScramSecret(Value):
    """A secret for SCRAM, from which the password cannot be recovered (RFC 5802 3, RFC 7677).

    `from_password` computes one. ``salt`` has 12 to 64 octets, ``iterations`` is 4096 or more, and both keys have the
    length of the hash function's output, 32 octets for SHA-256 and 20 for SHA-1; other values raise ValueError.
    """

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        """Check the values."""
        if not 12 <= len(self.salt) <= 64:
            raise ValueError(f"salt must have 12 to 64 octets, got {len(self.salt)}")
        if self.iterations < MIN_ITERATIONS:
            raise ValueError(f"iterations must be >= {MIN_ITERATIONS} (RFC 7677 4), got {self.iterations}")
        if len(self.stored_key) not in KEY_OCTETS.values() or len(self.server_key) != len(self.stored_key):
            raise ValueError("stored_key and server_key must have 32 octets each, or 20 for SHA-1")

    @property
    def hash(self) -> ScramHash:
        """The hash function: "SHA-256" for SCRAM-SHA-256, "SHA-1" for SCRAM-SHA-1."""
        return "SHA-256" if len(self.stored_key) == KEY_OCTETS["SHA-256"] else "SHA-1"

    @classmethod
    def from_password(
        cls, password: str, salt: bytes, iterations: int = MIN_ITERATIONS, hash: ScramHash = "SHA-256"
    ) -> ScramSecret:
        """Compute the secret for ``password``. 4096 iterations take about a millisecond of processor time.

        Raises ValueError for a password that SASLprep (RFC 4013) does not allow, or that has more than 1024 characters.
        """
        check_type(password, "password", str, shown=False)
        check_type(salt, "salt", bytes)
        check_number(iterations, "iterations", MIN_ITERATIONS, integer=True)
        check_choice(hash, "hash", get_args(ScramHash))
        try:
            prepared = memoryview(saslprep(password, MAX_PASSWORD).encode())
        except ValueError as error:
            problem = f"the password {error}"
        else:
            problem = ""
        del password
        if problem:
            raise ValueError(problem)
        return cls.from_salted(salt_password(prepared, salt, iterations, hash), salt, iterations, hash)

    @classmethod
    def from_salted(cls, salted: bytes, salt: bytes, iterations: int, hash: ScramHash) -> ScramSecret:
        """Return the secret for a SaltedPassword (RFC 5802 3)."""
        return cls(salt, iterations, *derive_keys(salted, hash)[1:])

    def matches(self, password: memoryview) -> bool:
        """Return whether this is the secret of a password, in UTF-8. Blocks: call it in a thread."""
        try:
            prepared, allowed = memoryview(saslprep(bytes(password).decode(), MAX_PASSWORD).encode()), True
        except ValueError:  # it is not the password, but the time should not reveal that
            prepared, allowed = password, False
        salted = salt_password(prepared, self.salt, self.iterations, self.hash)
        computed = self.from_salted(salted, self.salt, self.iterations, self.hash)
        return hmac.compare_digest(computed.stored_key, self.stored_key) and allowed
