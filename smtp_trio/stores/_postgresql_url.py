"""The URL of a `PostgreSQL` store."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import psycopg

from ..protocol.arguments import check_type

SYNTAX = "postgresql://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]]/DATABASE"
#: The parameters of a URL that are not libpq's, and those that are secret.
OWN, SECRET = ("schema", "durability", "call_timeout"), ("password", "sslpassword", "oauth_client_secret")


def parse_url(url: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return a URL without passwords, the parameters of libpq, and our own. Raises ValueError, without a password."""
    check_type(url, "url", str)
    base, _, query = url.partition("?")
    scheme, separator, rest = base.partition("://")
    place, slash, path = rest.partition("/")
    login, at, hosts = place.rpartition("@")
    user, _, _ = login.partition(":")
    if scheme not in ("postgresql", "postgres") or not separator or "#" in url:
        raise ValueError(f"url must be {SYNTAX}")
    if "@" in login or "@" in path:
        raise ValueError(f'url must be {SYNTAX}; write "@" in its other parts as %40, and "/" as %2F')
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise ValueError(f"url must be {SYNTAX}; its parameters are invalid") from None
    options = {name: value for name, value in pairs if name in OWN}
    libpq = [(name, value) for name, value in pairs if name not in OWN]
    shown = [(name, value) for name, value in libpq if name not in SECRET]
    public = f"{scheme}{separator}{user}{at}{hosts}{slash}{path}"

    def complete(base: str, pairs: list[tuple[str, str]]) -> str:
        query = urlencode(pairs, safe="/,:", quote_via=quote)
        return f"{base}?{query}" if query else base

    try:
        psycopg.conninfo.conninfo_to_dict(complete(public, shown))
    except psycopg.Error as error:
        raise ValueError(f"url must be {SYNTAX}: {str(error).strip()}") from None
    try:
        whole = f"{scheme}{separator}{login}{at}{hosts}{slash}{path}"
        params = psycopg.conninfo.conninfo_to_dict(complete(whole, libpq))
    except psycopg.Error:
        raise ValueError(f"url must be {SYNTAX}; its password is invalid") from None
    return complete(public, [pair for pair in pairs if pair[0] not in SECRET]), params, options


def parse_seconds(text: str) -> float:
    """Return the value of ``call_timeout``. Raises ValueError if it is not a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"call_timeout must be a number of seconds, got {text!r}") from None
