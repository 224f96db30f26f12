"""`ScryptHash`: a password hashed with scrypt (RFC 7914)."""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from hmac import compare_digest
from typing import Final, Self

from attrs import field, frozen

from ..protocol.sasl.key_derivation import key_derivation

SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{8,})\$([A-Za-z0-9+/]{20,})"
)
#: The greatest cost of one login, 128 * N * r * p octets of memory written (RFC 7914 2): about a second.
MAX_COST: Final = 2**29


@frozen
class ScryptHash:
    """A password hashed with scrypt: N is ``2**ln``, ``r`` the block size, ``p`` the parallelization (RFC 7914 2).

    Its text is in the PHC string format, with salt and digest in base64 without padding. Other libraries print it the
    same way.
    """

    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    ln: int = 14
    r: int = 8
    p: int = 5

    @classmethod
    def of(cls, password: memoryview) -> Self:
        """Return the hash of a password, with a new random salt. Blocks for about 0.1 s."""
        salt = os.urandom(16)
        return cls(salt, cls(salt, bytes(32)).compute(password))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Parse a hash.

        Raises ValueError when it is malformed, or when a login with it would cost more than ``MAX_COST``.
        """
        match = SCRYPT.fullmatch(text)
        if match is None:
            raise ValueError("invalid hash; expected one as `smtp-trio passwd` writes it")
        ln, r, p = (int(number) for number in match.group(1, 2, 3))
        if not (ln and r and p and 128 * 2**ln * r * p <= MAX_COST):
            raise ValueError(f"unsupported scrypt parameters: ln={ln}, r={r}, p={p}")
        salt, digest = (b64decode(part + "=" * (-len(part) % 4)) for part in match.group(4, 5))
        return cls(salt, digest, ln, r, p)

    @property
    def cost(self) -> tuple[object, ...]:
        """The parameters that the duration of `compute` depends on."""
        return self.ln, self.r, self.p

    def encode(self) -> str:
        """Return the text of the hash."""
        salt, digest = (b64encode(part).decode().rstrip("=") for part in (self.salt, self.digest))
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${salt}${digest}"

    def compute(self, password: memoryview) -> bytes:
        """Return the digest of a password with this salt and cost. Blocks for about 0.1 s: call it in a thread.

        The password is a memoryview, so that it does not appear in a traceback with the variables of all frames.
        """
        return key_derivation.get().scrypt(
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
