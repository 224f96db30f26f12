"""The URL of a `Redis` store, and its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from attrs import field, fields as attributes, frozen

from ._url_options import number, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS: dict[str, Callable[[str], Any]] = {
    "stream": str,
    "replicas": whole_number,
    "wait_timeout": number,
    "timeout": number,
    "chunk": whole_number,
    "durability": str,
}


@frozen(kw_only=True)
class Settings:
    """The address of the server and the settings that a store requires of it. `Redis` describes the parameters."""

    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    stream: str = "mail"
    replicas: int = 0
    wait_timeout: float = 5
    timeout: float = 10
    chunk: int = 1 << 20
    durability: str = "disk"


def parse_url(url: str) -> dict[str, Any]:
    """Return the arguments of `Redis` for a URL. Raises ValueError if it is invalid; the message has no password."""
    form = "redis://[USER:PASSWORD@]HOST[:PORT][/DB][?OPTIONS]"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"must be {form}, with a port from 1 to 65535") from None
    path = parts.path.strip("/")
    if not parts.hostname or parts.fragment or (path and not (path.isascii() and path.isdigit())):
        raise ValueError(f"must be {form}")
    found: dict[str, Any] = {"host": parts.hostname, "port": 6379 if port is None else port, "db": int(path or 0)}
    if parts.username:
        found["username"] = unquote(parts.username)
    if parts.password:
        found["password"] = unquote(parts.password)
    if parts.scheme == "rediss":
        found["tls"] = True
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ValueError(f"unknown option {name!r} of redis:, known are {', '.join(OPTIONS)}")
        try:
            found[name] = OPTIONS[name](text)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return found


def format_url(settings: Settings) -> str:
    """Return the URL of a store, without the password, and without options that have their default."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    user = f"{quote(settings.username, safe='')}@" if settings.username else ""
    default = {each.name: each.default for each in attributes(Settings)}
    options = {name: getattr(settings, name) for name in OPTIONS if getattr(settings, name) != default[name]}
    query = f"?{urlencode(options)}" if options else ""
    return f"redis{'s' * settings.tls}://{user}{host}:{settings.port}/{settings.db}{query}"
