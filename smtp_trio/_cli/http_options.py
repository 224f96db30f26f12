"""The options of ``smtp-trio serve`` about HTTP."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .options import LOOPBACK, number_between

#: The environment variable with the token. As an option it would be visible in the list of processes.
TOKEN_VARIABLE = "SMTP_TRIO_HTTP_TOKEN"


def add_http_options(add: Callable[..., Any]) -> None:
    """Add the options."""
    # fmt: off
    add("--http", metavar="[HOST:]PORT", type=http_address,
        help="also serve a page, a JSON API, metrics and health checks over HTTP, on this port of 127.0.0.1 or HOST ('*': all "
             "interfaces; an IPv6 address in brackets). Needs the extra web: pip install 'smtp-trio[web]'. A HOST that others "
             "can reach requires a token or a file of users")
    add("--http-token", metavar="TOKEN",
        help="with --http: requests need this token, as a bearer token or as the password of any user; the environment variable "
             f"{TOKEN_VARIABLE} hides it from the list of processes")
    add("--http-token-file", metavar="FILE",
        help="with --http: file whose first line is the token")
    add("--http-auth-file", metavar="FILE",
        help="with --http: users who have access with their passwords, as `smtp-trio passwd` writes them")
    add("--http-name", metavar="NAME", action="append", default=[],
        help="with --http: host name that requests may use, besides localhost and IP addresses. Repeatable")
    add("--http-transcripts", metavar="N", type=number_between(int, 100_000), default=0,
        help="with --http: record the transcripts of the newest N sessions, which takes memory and time "
             "(default: %(default)s)")
    # fmt: on


def http_address(text: str) -> tuple[str, int]:
    """Return the host and the port that a value of ``--http`` names."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or (colon and not host):
        raise argparse.ArgumentTypeError(f"must be PORT, HOST:PORT or [IPV6]:PORT, got {text!r}")
    return host or LOOPBACK, number_between(int, 65535)(port)
