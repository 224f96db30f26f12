"""The functions that derive keys from passwords, in which a login spends nearly all of its time."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from typing import Protocol


class KeyDerivation(Protocol):
    """The two functions, with the parameters that `hashlib` gives them."""

    def scrypt(
        self, password: memoryview, *, salt: bytes, n: int, r: int, p: int, maxmem: int = 0, dklen: int = 64
    ) -> bytes:
        """Return a key (RFC 7914)."""

    def pbkdf2_hmac(self, hash_name: str, password: memoryview, salt: bytes, iterations: int) -> bytes:
        """Return a key (RFC 8018 5.2)."""


class _Here:
    """Computes keys in the thread that asks for them."""

    # Not the module itself: tests replace its functions, and a type checker cannot compare it with the protocol.

    def scrypt(
        self, password: memoryview, *, salt: bytes, n: int, r: int, p: int, maxmem: int = 0, dklen: int = 64
    ) -> bytes:
        return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=maxmem, dklen=dklen)

    def pbkdf2_hmac(self, hash_name: str, password: memoryview, salt: bytes, iterations: int) -> bytes:
        return hashlib.pbkdf2_hmac(hash_name, password, salt, iterations)


HERE: KeyDerivation = _Here()
#: What computes the keys of this thread.
key_derivation: ContextVar[KeyDerivation] = ContextVar("smtp_trio_key_derivation", default=HERE)
