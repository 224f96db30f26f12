"""``smtp-trio health``: a health check whose result is an exit code, for supervisors and containers."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
from urllib.parse import SplitResult, urlsplit

from .options import UsageError, describe_error, print_result
from .units import seconds

# Only small modules of the standard library are imported, since a container may run this every few seconds.

DEFAULT_URL = "http://127.0.0.1:8025/readyz"
PORTS = {"http": 80, "https": 443, "smtp": 25, "lmtp": 24}
#: The maximum number of octets of a response that are read.
MAX_ANSWER = 4096


def add_health(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smtp-trio health``."""
    parser.description = (
        "Check whether a server works. The exit code is 0 if it does, and 1 if it does not or does not respond in time. With "
        "an HTTP URL it requests /readyz, or the path of the URL: the server listens, is not being stopped, and its "
        "store is reachable. With smtp://HOST:PORT it waits for the greeting, which needs no HTTP."
    )
    parser.add_argument("url", metavar="URL", nargs="?", type=url_option, default=urlsplit(DEFAULT_URL),
        help=f"http://HOST:PORT, https://HOST:PORT, smtp://HOST:PORT or lmtp://HOST:PORT (default: {DEFAULT_URL})")  # fmt: skip
    parser.add_argument("--timeout", metavar="TIME", type=seconds(600), default=5.0,
        help="how long to wait for each step, with a unit if it is not in seconds (default: 5s)")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing")
    parser.set_defaults(run=health)


def url_option(text: str) -> SplitResult:
    """Parse a URL."""
    try:
        url = urlsplit(text)
        valid = url.scheme in PORTS and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"must be a URL such as {DEFAULT_URL} or smtp://127.0.0.1:2525, got {text!r}")
    return url


def health(options: argparse.Namespace) -> int:
    """Check the server, print its response, and return the exit code."""
    ask = ask_http if options.url.scheme.startswith("http") else ask_smtp
    if not options.timeout:
        raise UsageError("--timeout must be more than 0")
    try:
        works, answer = ask(options.url, options.timeout)
    except (OSError, http.client.HTTPException) as error:
        works, answer = False, f"no answer from {options.url.geturl()}: {describe_error(error) or type(error).__name__}"
    if not options.quiet:
        print_result(answer)
    return 0 if works else 1


def ask_http(url: SplitResult, timeout: float) -> tuple[bool, str]:
    """Send a request; return whether it succeeds, and the text of the response."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port or PORTS[url.scheme], timeout=timeout)
    try:
        connection.request("GET", url.path.rstrip("/") or "/readyz", headers={"Accept": "application/json"})
        response = connection.getresponse()
        content = response.read(MAX_ANSWER)
    finally:
        connection.close()
    try:
        answer = json.loads(content)
        text = "; ".join(map(str, answer.get("problems", [answer["status"]])))
    except (ValueError, KeyError, TypeError, AttributeError):
        text = f"{response.status} {response.reason}"
    return response.status == 200, text


def ask_smtp(url: SplitResult, timeout: float) -> tuple[bool, str]:
    """Connect; return whether the server sends a positive greeting, and its text (RFC 5321 3.1)."""
    address = (url.hostname or "", url.port or PORTS[url.scheme])
    with socket.create_connection(address, timeout) as connection, connection.makefile("rb") as file:
        connection.settimeout(timeout)
        greeting = file.readline(MAX_ANSWER)
        connection.sendall(b"QUIT\r\n")
    text = greeting.decode("ascii", "replace").strip()
    return greeting.startswith(b"220"), text or "the connection was closed without a greeting"
