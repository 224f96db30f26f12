"""Parts that the commands of ``smtp-trio`` share: the argument parser, its error, and types of options."""

from __future__ import annotations

import argparse
import errno
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

NumberT = TypeVar("NumberT", int, float)

#: The address of servers unless another one is given.
LOOPBACK = "127.0.0.1"
#: The environment variable with the password. As an option the password would be visible in the list of processes.
PASSWORD_VARIABLE = "SMTP_TRIO_PASSWORD"


class UsageError(Exception):
    """An option, or a file or address that it names, cannot be used.

    The message is one line for the user; it names the option or file and the reason.
    """


def missing_package(user: str, package: str, extra: str) -> UsageError:
    """Return the error for an option or a command, ``user``, that needs a package of an extra which is not installed."""
    return UsageError(f"{user} needs {package}, which is not installed: python -m pip install 'smtp-trio[{extra}]'")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` instead of printing the usage and exiting.

    ``help_options`` are the options that print its help.
    """

    help_options: str = "--help"

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} {self.help_options}`)")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        # The parser of a command would pass options that it does not know back to the parser of the whole program,
        # whose error would refer the user to a help without the options of the command.
        options, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


def number_between(convert: Callable[[str], NumberT], maximum: int, minimum: int = 0) -> Callable[[str], NumberT]:
    """Return the type of an option whose value is a number from ``minimum`` to ``maximum``, both included."""

    def parse(text: str) -> NumberT:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"must be a number from {minimum} to {maximum}, got {text!r}")
        return value

    return parse


#: What the user can do when a socket cannot listen, by the error's number.
LISTEN_HINTS = {
    errno.EACCES: "ports below 1024 need a privilege; use --fd systemd with a systemd socket, run `setcap "
    "cap_net_bind_service=+ep` on the Python executable, or set `sysctl net.ipv4.ip_unprivileged_port_start=25`",
    errno.EADDRINUSE: "another program is listening there; choose another {option}",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
}


def describe_listen_error(host: str, port: int, error: OSError | UnicodeError, option: str = "--port") -> str:
    """Return why a server cannot listen, and what the user can do. ``option`` is the one that sets the port."""
    hint = LISTEN_HINTS.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    where = f"cannot listen on {host}, port {port}: {describe_error(error)}"
    return f"{where}: {hint.format(option=option)}" if hint else where


def print_result(text: str) -> None:
    """Print the result of a command on standard output. Raises UsageError if it cannot be written."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"standard output: {describe_error(error)}") from None


#: What OpenSSL and Python add to the text of an error: its number and the line in their source.
OPENSSL_DETAILS = re.compile(r"\[SSL(: \w+)?\] | \(_ssl\.c:[0-9]+\)")


def strip_openssl_details(text: str) -> str:
    """Return the text of an error of OpenSSL without what is only useful to its developers."""
    return OPENSSL_DETAILS.sub("", text)


def describe_error(error: BaseException) -> str:
    """Return an exception's message in the user's terms.

    For an OSError it is the reason, without its number and file name; for a UnicodeError, what could not be decoded or
    encoded.
    """
    match error:
        case OSError(strerror=str(reason)):
            return reason
        case UnicodeDecodeError():
            return "not text in UTF-8"
        case UnicodeError():  # from the codec "idna", by which Python encodes the names of hosts
            return "invalid host name"
        case _:
            return str(error)


def read_password(path: str) -> str:
    """Return the first line of the file that ``--password-file`` names. Raises UsageError if it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.readline().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {describe_error(error)}") from None
