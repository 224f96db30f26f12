"""The format of a users file, and changes to such a file.

Each line has a user, a colon and a secret. A user may have several lines, with secrets of different kinds:

    # a password hashed with scrypt, for PLAIN and LOGIN
    fred:$scrypt$ln=14,r=8,p=5$9LLAyYBqlLvKgQ1TQWzV4A$t7KHtfW9QZzkXqOPkFC2cgVTzBZ8dBKzLJDBbL6ZGYU
    # what SCRAM stores, for PLAIN and LOGIN too (RFC 5803); Dovecot's {SCRAM-SHA-256} is read as well
    wilma:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=
    # the password itself
    barney:correct horse battery staple

Lines that begin with "#" are comments. One of them may have the key from which the salts of unknown users are derived.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import tempfile
from contextlib import suppress
from typing import Final, Literal, get_args

from attrs import define, field, frozen

from .._server.lock_file import locked
from ..protocol.arguments import check_choice, check_type
from ..protocol.sasl import ScramHash, ScramSecret
from ..protocol.sasl.saslprep import MAX_NAME, MAX_PASSWORD, saslprep
from ..protocol.sasl.scram_secret import KEY_OCTETS
from ..protocol.syntax import CONTROL
from ._scrypt import ScryptHash

SecretKind = Literal["scrypt", "scram"]

#: RFC 5803: the scheme, the iteration count and the salt, StoredKey and ServerKey.
SCRAM: Final = re.compile(r"SCRAM-(SHA-1|SHA-256)\$([0-9]{1,9}):([^$:]+)\$([^$:]+):([^$:]+)")
#: The same as Dovecot writes it.
DOVECOT_SCRAM: Final = re.compile(r"\{SCRAM-(SHA-1|SHA-256)\}([0-9]{1,9}),([^,]+),([^,]+),([^,]+)")
#: The beginning of a hash as other programs write it. Read as a password, it would refuse every login without giving a
#: reason.
OTHER_HASH: Final = re.compile(r"\$\w[\w-]*\$|\{[\w.-]+\}|SCRAM-[\w-]+\$")
#: The comment with the key for placeholders.
KEY_LINE: Final = re.compile(r"#smtp-trio-key:([A-Za-z0-9+/]{43}=)")
#: The iterations of a new SCRAM secret. Each login of PLAIN takes them on the server, each of SCRAM on the client: about
#: 30 ms.
ITERATIONS: Final = 100_000
SALT_OCTETS: Final = 16
#: The most iterations of a SCRAM secret. Each login of PLAIN computes all that occur in the file: a few seconds.
MAX_ITERATIONS: Final = 10_000_000
SURROGATE: Final = re.compile("[\ud800-\udfff]")

Hashed = ScryptHash | ScramSecret


@define
class StoredUser:
    """The secrets of one user."""

    password: str | None = field(default=None, repr=False)
    scrypt: ScryptHash | None = None
    scram: dict[ScramHash, ScramSecret] = field(factory=dict)

    @property
    def hashed(self) -> Hashed | None:
        """The secret that a password is checked with; None if that is the stored password."""
        return self.scrypt or self.scram.get("SHA-256") or self.scram.get("SHA-1")

    def add(self, secret: str | Hashed) -> bool:
        """Add a secret. Return False if the user has one that it contradicts."""
        if self.password is not None or (isinstance(secret, str) and self.hashed is not None):
            return False
        if isinstance(secret, str):
            self.password = secret
        elif isinstance(secret, ScryptHash):
            if self.scrypt is not None:
                return False
            self.scrypt = secret
        elif secret.hash in self.scram:
            return False
        else:
            self.scram[secret.hash] = secret
        return True


@frozen
class Users:
    """The content of a users file."""

    users: dict[str, StoredUser]
    #: The key from which the values for unknown users are derived.
    key: bytes = field(repr=False)


def cost(secret: Hashed) -> tuple[object, ...]:
    """Return the parameters that the duration of a check depends on."""
    return secret.cost if isinstance(secret, ScryptHash) else (secret.hash, secret.iterations)


def parse(text: str) -> Users:
    """Return the content of a users file.

    Raises ValueError with the number of the invalid line, never with a secret.
    """
    users: dict[str, StoredUser] = {}
    key = b""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            if match := KEY_LINE.fullmatch(line.strip()):
                key = base64.b64decode(match[1])
            continue
        user, _, secret = line.removesuffix("\r").partition(":")
        try:
            if not (user and secret):
                raise ValueError("expected user:password or user:hash")
            if CONTROL.search(secret):
                raise ValueError("contains a control character")
            check_user_name(user)
            if not users.setdefault(user, StoredUser()).add(decode_secret(secret)):
                raise ValueError(f"duplicate user {user!r}")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not users:
        raise ValueError("no accounts in file")
    # Without a key in the file, one that does not change while the file does not: other processes have the same.
    return Users(users, key or hashlib.sha256(text.encode()).digest())


def decode_secret(text: str) -> str | Hashed:
    """Return the secret in ``text``. Raises ValueError for a hash that is malformed or not supported."""
    if text.startswith("$scrypt$"):
        return ScryptHash.decode(text)
    if match := SCRAM.fullmatch(text) or DOVECOT_SCRAM.fullmatch(text):
        try:
            salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in match.group(3, 4, 5))
        except binascii.Error:
            raise ValueError("SCRAM secret that is not base64") from None
        if int(match[2]) > MAX_ITERATIONS:
            raise ValueError(f"unsupported number of iterations: {match[2]}")
        secret = ScramSecret(salt, int(match[2]), stored_key, server_key)
        if secret.hash != match[1]:
            raise ValueError("SCRAM secret of another hash function")
        return secret
    if OTHER_HASH.match(text):
        raise ValueError("unsupported kind of hash; `smtp-trio passwd` writes a supported one")
    check_password(text)
    return text


def encode_secret(secret: Hashed) -> str:
    """Return a secret as it is written into the file."""
    if isinstance(secret, ScryptHash):
        return secret.encode()
    salt, stored_key, server_key = (
        base64.b64encode(part).decode() for part in (secret.salt, secret.stored_key, secret.server_key)
    )
    return f"SCRAM-{secret.hash}${secret.iterations}:{salt}${stored_key}:{server_key}"


def check_user_name(user: str) -> None:
    """Raise ValueError for a user name that a file cannot have.

    Only the form of SASLprep is allowed. A client of SCRAM sends that, whatever the user has typed, so with another form in
    the file the user could not log in.
    """
    check_type(user, "user", str)
    if problem := _name_problem(user):
        shown = repr(user) if len(user) <= MAX_NAME else f"{user[:20]!r}..."
        raise ValueError(f"invalid user name: {shown}; it {problem}")


def _name_problem(user: str) -> str | None:
    if not user:
        return "is empty"
    if ":" in user:
        return "contains a colon"
    if user.startswith("#"):
        return "begins with #"
    try:
        prepared = saslprep(user, MAX_NAME)
    except ValueError as error:
        return str(error)
    return None if prepared == user else f"must have the form of SASLprep (RFC 4013), {prepared!r}"


def check_password(password: str) -> None:
    """Raise ValueError for a password that is longer than those of SCRAM can be, or that has no form in UTF-8."""
    if len(password) > MAX_PASSWORD:
        raise ValueError(f"password must have up to {MAX_PASSWORD} characters, got {len(password)}")
    if SURROGATE.search(password):
        raise ValueError("password must be encodable as UTF-8")


# --- changes ------------------------------------------------------------------------------------------------------------
#
# The file is replaced by a new one, so that it is complete for a server that reads it meanwhile, and after a crash. Two
# changes at the same time take turns by a lock of the directory: the file itself is another one after each change.
# Comments and the lines of other users stay as they are.


def set_password(path: str | os.PathLike[str], user: str, password: str, *, kind: SecretKind = "scrypt") -> None:
    """Store a password for a user, in place of all secrets that the user has. Blocks. A missing file is created.

    ``kind`` is "scrypt", a hash for PLAIN and LOGIN, or "scram", the secrets of SCRAM-SHA-256 and SCRAM-SHA-1, which
    serve PLAIN and LOGIN too.

    Raises OSError if the file cannot be written, and ValueError if it is invalid and for an invalid user name: it must have
    1 to 255 characters, be in the form of SASLprep (RFC 4013), contain no colon and not begin with "#". A password has up
    to 1024 characters, and with "scram" none that SASLprep forbids; others raise ValueError too.
    """
    problem: Exception | None = None
    try:
        check_type(password, "password", str, shown=False)
        check_choice(kind, "kind", get_args(SecretKind))
        check_user_name(user)
        check_password(password)
        lines = [f"{user}:{encode_secret(secret)}" for secret in make_secrets(password, kind)]
        _change(path, user, lines, create=True)
    except (OSError, ValueError, TypeError) as error:
        problem = _without_frames(error)
    del password
    if problem is not None:
        raise problem


def delete_user(path: str | os.PathLike[str], user: str) -> bool:
    """Remove a user from the file; return False if it has none of this name. Blocks.

    Raises OSError if the file cannot be written, and ValueError if it is invalid, if the user is its last one, and for a
    user name that `set_password` does not take.
    """
    try:
        check_user_name(user)
        return _change(path, user, [], create=False)
    except (OSError, ValueError, TypeError) as error:
        problem = _without_frames(error)
    raise problem


def _without_frames(error: Exception) -> Exception:
    """Return the error without the frames of its traceback, whose variables have a password or the file's content.

    The error of a file that is not UTF-8 has the content as an attribute, and its repr shows it.
    """
    if isinstance(error, UnicodeError):
        error = ValueError(str(error))
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def make_secrets(password: str, kind: SecretKind) -> list[Hashed]:
    """Return the secrets of a password. Raises ValueError for a password that SASLprep forbids, for "scram"."""
    if kind == "scrypt":
        return [ScryptHash.of(memoryview(password.encode()))]
    return [ScramSecret.from_password(password, os.urandom(SALT_OCTETS), ITERATIONS, each) for each in KEY_OCTETS]


def _replace(lines: list[str], user: str, new: list[str]) -> bool:
    """Put ``new`` in the place of the user's lines, or at the end; return whether the user had any."""
    places = [place for place, line in enumerate(lines) if line.startswith(f"{user}:")]
    for place in reversed(places):
        del lines[place]
    at = places[0] if places else len(lines)
    lines[at:at] = new
    return bool(places)


def _change(path: str | os.PathLike[str], user: str, new: list[str], *, create: bool) -> bool:
    """Replace the lines of a user in the file; return whether the user had any."""
    path = os.path.realpath(path)
    with locked(f"{path}.lock"):
        text, status = "", None
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                text, status = file.read(), os.fstat(file.fileno())
        except FileNotFoundError:
            if not create:
                raise
        if text.strip():
            parse(text)  # an invalid file stays as it is
        lines = text.removesuffix("\n").split("\n") if text else []
        found = _replace(lines, user, new)
        if new and not any(KEY_LINE.fullmatch(line.strip()) for line in lines):
            lines.insert(0, f"#smtp-trio-key:{base64.b64encode(os.urandom(32)).decode()}")
        if found or new:
            text = "\n".join(lines) + "\n"
            parse(text)
            _write(path, text.encode(), status)
            _sync_directory(os.path.dirname(path))
        return found


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: str, content: bytes, status: os.stat_result | None) -> None:
    """Replace a file. A new one is readable for its owner only; another keeps its owner, and may be readable for a group.

    Only root can keep the owner of another user's file. The group can be kept by its members as well.
    """
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=f".{os.path.basename(path)}.")
    try:
        with open(fd, "wb") as file:
            if status is not None:
                for owner, group in ((-1, status.st_gid), (status.st_uid, -1)):
                    with suppress(PermissionError):
                        os.fchown(fd, owner, group)
                if os.fstat(fd).st_gid == status.st_gid:
                    os.fchmod(fd, 0o600 | status.st_mode & 0o040)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
