"""``smtp-trio passwd`` and ``hash-password``: the users of a file, for ``serve --auth-file`` and `smtp_trio.credentials`."""

from __future__ import annotations

import argparse
import getpass
import sys

from ..credentials import ScryptHash, delete_user, set_password
from ..credentials._format import check_password, check_user_name, parse
from ..protocol.syntax import CONTROL
from .options import UsageError, describe_error, print_result


def add_hash_password(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio hash-password``."""
    parser.description = (
        "Ask for a password at the terminal, or read it from the first line of standard input, and print the line for the "
        "file of `smtp-trio serve --auth-file`: the user, a colon and the hash of the password. Without USER, print only the "
        "hash. `smtp-trio passwd` changes the file itself."
    )
    parser.add_argument("user", metavar="USER", nargs="?", help="the name that the user logs in with")
    parser.set_defaults(run=hash_password)


def add_passwd(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio passwd``."""
    parser.description = (
        "Set the password of a user in a file for `smtp-trio serve --auth-file`. The file is created if it does not exist. "
        "The password is asked for at the terminal, or read from the first line of standard input, and stored as a hash."
    )
    parser.add_argument("file", metavar="FILE", help="the file")
    parser.add_argument("user", metavar="USER", help="the name that the user logs in with")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--scram", action="store_true",
        help="store the secrets of SCRAM-SHA-256 and SCRAM-SHA-1 instead of a scrypt hash. Users can then log in by SCRAM, "
        "which never sends the password, and by PLAIN and LOGIN")  # fmt: skip
    action.add_argument("--delete", action="store_true", help="remove the user")
    parser.set_defaults(run=passwd)


def passwd(options: argparse.Namespace) -> None:
    """Change the file."""
    check_user(options.user)
    password = "" if options.delete else read_password()
    try:
        if options.delete:
            if not delete_user(options.file, options.user):
                raise UsageError(f"no user {options.user} in {options.file}")
        else:
            set_password(options.file, options.user, password, kind="scram" if options.scram else "scrypt")
            if not options.scram and others_have_scram(options.file, options.user):
                print(
                    f"smtp-trio: note: {options.user} has no secrets of SCRAM, and other users have: {options.user} cannot log in "
                    "by SCRAM, and a server that is started again does not offer it; use --scram",
                    file=sys.stderr,
                )
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot change {options.file}: {describe_error(error)}") from None


def others_have_scram(path: str, user: str) -> bool:
    """Return whether users of a file other than this one have secrets of SCRAM."""
    with open(path, encoding="utf-8-sig") as file:
        users = parse(file.read()).users
    return any(stored.scram for name, stored in users.items() if name != user)


def hash_password(options: argparse.Namespace) -> None:
    """Read a password, and print the user's line with its hash, or the hash alone."""
    if options.user is not None:
        check_user(options.user)
    hashed = ScryptHash.of(memoryview(read_password().encode())).encode()
    print_result(hashed if options.user is None else f"{options.user}:{hashed}")


def check_user(user: str) -> None:
    """Raise UsageError for a user name that a file cannot have."""
    try:
        check_user_name(user)
    except ValueError as error:
        raise UsageError(str(error)) from None


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
    try:
        check_password(password)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return password
