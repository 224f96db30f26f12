"""The users of a server in a file, with hashed passwords or the secrets of SCRAM."""

from __future__ import annotations

from ._format import delete_user, set_password
from ._scrypt import ScryptHash
from ._users_file import UsersFile

__all__ = ["ScryptHash", "UsersFile", "delete_user", "set_password"]
